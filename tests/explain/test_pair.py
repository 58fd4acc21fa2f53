from __future__ import annotations

import itertools

import numpy as np
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
