from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest

from explain import cache
from explain.masks import all_masks
from explain.table import RewardTable, fill
from explain.units import Units, segment


def test_each_mask_has_the_reward_of_its_text(rule_scorer, prompt) -> None:
    scorer = rule_scorer(lambda kept: sum(2.0**unit for unit, on in enumerate(kept) if on), 4)
    table = fill(scorer, prompt, segment(scorer.text))
    assert table.rewards.tolist() == [float(code) for code in range(15, -1, -1)]
    assert (table.reward, table.baseline, table.keeping([0, 3])) == (15.0, 0.0, 9.0)


def test_equal_texts_are_scored_once(rule_scorer, prompt) -> None:
    scorer = rule_scorer(lambda kept: 1.0, 1)
    table = fill(scorer, prompt, Units("u0\n" * 4, ((0, 3), (3, 6), (6, 9), (9, 12))))
    assert len(table.rewards) == 16
    assert sorted(scorer.scored) == ["u0\n" * count for count in range(5)]


def test_a_second_explanation_asks_nothing_and_gives_the_same(rule_scorer, prompt, tmp_path: Path) -> None:
    def rule(kept):
        return sum(math.pi * unit * on for unit, on in enumerate(kept)) / 7

    scorer = rule_scorer(rule, 9)
    units, calls = segment(scorer.text), []
    plain = fill(scorer, prompt, units)
    first = fill(scorer, prompt, units, tmp_path, lambda done, total: calls.append((done, total)))
    assert calls == [(256, 512), (512, 512)]
    scorer.scored.clear()
    second = fill(scorer, prompt, units, tmp_path)
    assert scorer.scored == []
    assert plain.rewards.tobytes() == first.rewards.tobytes() == second.rewards.tobytes()


@pytest.mark.parametrize("change", ["prompt", "fingerprint"])
def test_another_prompt_or_model_does_not_share_rewards(rule_scorer, prompt, tmp_path: Path, change: str) -> None:
    first = rule_scorer(lambda kept: 1.0, 2, "one")
    second = rule_scorer(lambda kept: 2.0, 2, "two" if change == "fingerprint" else "one")
    fill(first, prompt, segment(first.text), tmp_path)
    other = [{"role": "user", "content": "How?"}] if change == "prompt" else prompt
    assert fill(second, other, segment(second.text), tmp_path).reward == 2.0


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[:-9],  # a writer was killed
        lambda whole: whole.replace(b"1.5", b"\x00\xff"),
        lambda whole: whole.replace(b"1.5", b"NaN").replace(b"2.5", b'"2"'),
        lambda whole: b'[]\n{"a": 1}\n[1, 2]\n7\n' + whole[:40],
        lambda whole: b"[" * 100_000,
    ],
)
def test_damaged_entries_are_scored_again(rule_scorer, prompt, tmp_path: Path, damage) -> None:
    scorer = rule_scorer(lambda kept: 1.5 + kept[0] + kept[1], 3)
    units = segment(scorer.text)
    sound = fill(scorer, prompt, units, tmp_path)
    path = cache.file_for(tmp_path, scorer.fingerprint)
    path.write_bytes(damage(path.read_bytes()))
    scorer.scored.clear()
    repaired = fill(scorer, prompt, units, tmp_path)
    assert scorer.scored  # something was lost ...
    assert repaired.rewards.tolist() == sound.rewards.tolist()
    scorer.scored.clear()
    fill(scorer, prompt, units, tmp_path)
    assert not scorer.scored  # ... and is on disk again, behind the damage


def test_a_cache_that_cannot_be_written_costs_a_warning(rule_scorer, prompt, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    scorer = rule_scorer(lambda kept: 1.0, 2)
    with pytest.warns(UserWarning, match="cannot be written"):
        assert fill(scorer, prompt, segment(scorer.text), blocked).reward == 1.0


@pytest.mark.parametrize("answer", [[1.0], [1.0, math.nan, 1.0, 1.0], [math.inf] * 4])
def test_answers_that_are_no_rewards_are_refused(prompt, answer: list[float]) -> None:
    class Broken:
        fingerprint = "broken"

        def score(self, prompt, texts):
            return answer

    with pytest.raises(ValueError):
        fill(Broken(), prompt, segment("a\nb"))


def test_json_round_trip(rule_scorer, prompt) -> None:
    scorer = rule_scorer(lambda kept: 0.1 * sum(kept), 3)
    table = fill(scorer, prompt, segment(scorer.text))
    again = RewardTable.from_json(table.to_json())
    assert again.rewards.tolist() == table.rewards.tolist()
    assert (again.units, again.prompt, again.scorer) == (table.units, table.prompt, table.scorer)


def test_row_order_matches_the_masks(rule_scorer, prompt) -> None:
    scorer = rule_scorer(lambda kept: float(np.dot(kept, [1, 10, 100])), 3)
    table = fill(scorer, prompt, segment(scorer.text))
    assert np.allclose(table.rewards, all_masks(3) @ np.array([1.0, 10.0, 100.0]))
    for size in range(4):
        for kept in itertools.combinations(range(3), size):
            assert table.keeping(kept) == sum(10.0**unit for unit in kept)


def test_texts_that_begin_alike_are_asked_for_together(rule_scorer, prompt) -> None:
    """Against the tree of all texts at once, whose shared beginnings are computed once: at most a tenth more."""
    scorer = rule_scorer(lambda kept: 1.0, 12)
    batches, score = [], scorer.score
    scorer.score = lambda prompt, texts: batches.append(texts) or score(prompt, texts)
    fill(scorer, prompt, segment(scorer.text))

    def tree(texts: list[str]) -> int:
        rows = sorted([("prompt",) * 24 + tuple(text.split()) for text in texts])
        return len({row[:end] for row in rows for end in range(1, len(row) + 1)})

    assert len(batches) == 16 and sum(map(tree, batches)) < 1.2 * tree(scorer.scored)
