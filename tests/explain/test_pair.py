from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from explain import explain_pair, explain_text
from explain.flip import smallest_flip
from explain.result import Flip
from explain.table import RewardTable
from explain.units import segment
from explain.words import describe

CHOSEN, REJECTED = "good right fine", "bad long good"


def test_margin_weights_anchor_and_flip_by_hand(prompt, words) -> None:
    pair = explain_pair(words, prompt, CHOSEN, REJECTED, beam=False)
    assert (pair.margin, pair.preferred) == (4.0 - 0.25, "chosen")
    # Negated: a bad word in the rejected response helps the margin.
    assert np.allclose(pair.rejected.margin_weights, [1.5, 0.25, -2.0], atol=1e-9)
    assert np.allclose(pair.rejected.lime.weights, [-1.5, -0.25, 2.0], atol=1e-9)
    # Chosen beats 0.25 with "good" or with "right", not with neither.
    assert [anchor.units for anchor in pair.anchor.anchors] == [(0,), (1,)]
    assert pair.anchor.base_rate == 0.75 and pair.anchor.holds
    # One removal does not do it: without "good" chosen still has 1.0, without "bad" rejected has 1.75. Two
    # do: both of chosen's (0.0 < 0.25), or "good" and "bad" (1.0 < 1.75): fewer of the preferred response.
    assert pair.flip == Flip((0,), (0,), 1.0 - 1.75)


def test_swapping_the_candidates_negates_everything(prompt, words) -> None:
    one = explain_pair(words, prompt, CHOSEN, REJECTED, beam=False)
    other = explain_pair(words, prompt, REJECTED, CHOSEN, beam=False)
    assert other.margin == -one.margin and other.preferred == "rejected"
    assert other.chosen.margin_weights == tuple(-weight for weight in one.rejected.margin_weights)
    assert other.rejected.margin_weights == tuple(-weight for weight in one.chosen.margin_weights)
    assert other.flip == Flip(one.flip.rejected, one.flip.chosen, -one.flip.margin)
    assert not other.anchor.holds  # nothing is swapped silently
    assert "prefers the REJECTED response" in describe(other)[0]


def test_equal_responses_have_no_preference(prompt, words) -> None:
    pair = explain_pair(words, prompt, CHOSEN, CHOSEN, beam=False)
    assert (pair.margin, pair.preferred, pair.flip) == (0.0, "neither", None)
    assert np.allclose(np.add(pair.chosen.margin_weights, pair.rejected.margin_weights), 0, atol=1e-12)


rewards = st.integers(1, 3).flatmap(lambda d: st.lists(st.integers(-5, 5), min_size=2**d, max_size=2**d))


@settings(deadline=None)
@given(rewards, rewards)
def test_the_smallest_flip_is_the_smallest(left: list[int], right: list[int]) -> None:
    tables = []
    for values in (left, right):
        text = "".join(f"u{unit}\n" for unit in range(len(values).bit_length() - 1))
        tables.append(RewardTable([], segment(text), np.array(values, dtype=float), "x"))
    margin = left[0] - right[0]
    flip = smallest_flip(*tables)

    def without(table: RewardTable, removed: tuple[int, ...]) -> float:
        return table.keeping([unit for unit in range(len(table.units)) if unit not in removed])

    parts = [
        [c for size in range(len(t.units) + 1) for c in itertools.combinations(range(len(t.units)), size)]
        for t in tables
    ]
    sizes = [
        len(a) + len(b)
        for a, b in itertools.product(*parts)
        if (without(tables[0], a) - without(tables[1], b)) * margin < 0
    ]
    if not sizes:
        assert flip is None
    else:
        assert flip is not None and len(flip.chosen) + len(flip.rejected) == min(sizes)
        assert flip.margin == without(tables[0], flip.chosen) - without(tables[1], flip.rejected)
        assert flip.margin * margin < 0
        mirrored = smallest_flip(tables[1], tables[0])
        assert mirrored == Flip(flip.rejected, flip.chosen, -flip.margin)


def test_a_text_takes_the_median_as_its_decision(prompt, words) -> None:
    found = explain_text(words, prompt, "good bad", beam=False)
    assert found.anchor.decision.tau == 0.25  # median of 0.5, -1.5, 2.0, 0.0
    assert found.anchor.holds and [anchor.units for anchor in found.anchor.anchors] == [(0,)]
    assert explain_text(words, prompt, "good bad", tau=3.0, beam=False).anchor.holds is False


class Words:
    fingerprint = "words"

    def score(self, prompt, texts):
        return [sum(len(word) for word in text.split()) + 3 * ("good" in text and "so" in text) for text in texts]


LONG = "the good cat sat right on a bad mat and was fine"
OTHER = "the bad cat sat long on a good mat and was right"


def test_swapped_spans_turn_one_response_into_the_other(prompt, words) -> None:
    pair = explain_pair(words, prompt, LONG, OTHER, perturbation="swap", beam=False)
    whole = words.score(prompt, [LONG, OTHER])
    assert pair.margin == whole[0] - whole[1] and pair.chosen.lime.baseline == whole[1]
    assert pair.chosen.lime.units.kind == "differences" and pair.perturbation == "swap"
    # By Shapley value both sides together are the margin, and either side has half of it.
    assert np.isclose(sum(pair.chosen.margin_values), pair.margin / 2)
    assert np.allclose(pair.chosen.margin_values, pair.rejected.margin_values)
    assert pair.chosen.lime.length is None  # what is put there has a length of its own


@settings(deadline=None, max_examples=40)
@given(st.lists(st.sampled_from(["good", "right", "bad", "long", "so"]), min_size=2, max_size=8), st.data())
def test_swapping_the_sides_negates_the_swap_explanation(left: list[str], data: st.DataObject) -> None:
    right = data.draw(st.permutations(left)) + data.draw(st.lists(st.sampled_from(["good", "no"]), max_size=2))
    scorer, prompt = Words(), [{"role": "user", "content": "?"}]
    one, other = (
        explain_pair(scorer, prompt, " ".join(a), " ".join(b), perturbation="swap", beam=False)
        for a, b in ((left, right), (right, left))
    )
    assert np.isclose(one.margin, -other.margin)
    for mine, theirs in ((one.chosen, other.rejected), (one.rejected, other.chosen)):
        assert np.allclose(mine.margin_weights, -np.array(theirs.margin_weights), atol=1e-9)
        assert np.allclose(mine.margin_values, -np.array(theirs.margin_values), atol=1e-9)


def test_equal_responses_have_no_differences(prompt, words) -> None:
    for perturbation in ("swap", "remove"):
        pair = explain_pair(words, prompt, CHOSEN, CHOSEN, "diff", perturbation=perturbation)
        assert (pair.margin, pair.preferred, pair.flip) == (0.0, "neither", None)
        assert pair.chosen.margin_weights == pair.rejected.margin_weights == ()
        assert describe(pair)


def test_differences_can_be_removed_as_well(prompt, words) -> None:
    pair = explain_pair(words, prompt, "so good it is", "so it is bad", "diff", beam=False)
    assert np.allclose(pair.chosen.margin_weights, [2.0, 0.0], atol=1e-9)  # the second is where "bad" would stand
    assert np.allclose(pair.rejected.margin_weights, [0.0, 1.5], atol=1e-9)


def test_what_cannot_be_swapped_is_refused(prompt, words) -> None:
    with pytest.raises(ValueError, match="goes with the units diff, not with words"):
        explain_pair(words, prompt, "a", "b", "words", perturbation="swap")
    with pytest.raises(ValueError, match="need two responses"):
        explain_text(words, prompt, "a b", units="diff")
    with pytest.raises(ValueError, match="needs a pair"):
        explain_text(words, prompt, "a b", perturbation="swap")
    with pytest.raises(ValueError, match="Unknown method 'magic'; choose one of lime, anchor, shapley, all"):
        explain_pair(words, prompt, "a", "b", method="magic")


def test_above_twelve_units_the_pair_is_sampled_and_still_antisymmetric(prompt, words) -> None:
    long = "good right so it is that we can all go on with bad luck"
    other = "long bad so it is that we can all go on with no good luck at all"
    one = explain_pair(words, prompt, long, other, "words", method="shapley")
    two = explain_pair(words, prompt, other, long, "words", method="shapley")
    assert not one.chosen.lime.exact and one.anchor is None
    assert one.chosen.margin_weights == tuple(-w for w in two.rejected.margin_weights)
    assert one.chosen.margin_values == tuple(-w for w in two.rejected.margin_values)
    assert one.flip == Flip(two.flip.rejected, two.flip.chosen, -two.flip.margin, False)
    # 2.5 against 0.25: "good" and "right" are worth 4 together, so without "right" 0.5 is left, without "good" -0.5.
    both = explain_pair(words, prompt, long, other, "words")
    assert [anchor.units for anchor in both.anchor.anchors] in ([(0,)], [(1,)]) and both.anchor.anchors[0].low > 0.9
    assert "estimated precision" in " ".join(describe(both))
    assert one.margin == pytest.approx(2.25) and one.flip == Flip((0,), (), pytest.approx(-0.75), False)


def test_the_strongest_unit_is_explained_again_by_its_words(prompt, words) -> None:
    text = explain_text(words, prompt, "It is good and so. It is bad .", beam=False, drill_down=True)
    assert text.lime.units.kind == "sentences" and text.drill.unit == 0
    inner = {text.drill.lime.units[unit].strip(): weight for unit, weight in enumerate(text.drill.lime.weights)}
    assert inner["good"] == pytest.approx(2.0) and inner["It"] == pytest.approx(0.0, abs=1e-9)
    pair = explain_pair(words, prompt, "It is so. So is it.", "It is bad . It is long .", beam=False, drill_down=True)
    assert pair.chosen.drill is None and pair.rejected.drill.unit == 0
