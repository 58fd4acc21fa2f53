"""SP-LIME's pick against brute force and by hand, and units over a data set by hand."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest

from explain.lime import fit_lime
from explain.pick import aggregate, matrix, pick, plain, rewarded, weighted
from explain.table import fill
from explain.units import segment

# Every text but the last has the second unit, as in the toy matrix of figure 5 of the paper.
TOY = [
    [("f1", 1.0), ("f2", 1.0)],
    [("f2", 1.0), ("f3", 1.0)],
    [("f2", 1.0)],
    [("f2", 1.0), ("f4", 1.0)],
    [("f4", 1.0), ("f5", 1.0)],
]


def covered(explanations, rows) -> float:
    weights, _ = matrix(explanations)
    importance = np.sqrt(np.abs(weights).sum(axis=0))
    return float(importance[(weights[list(rows)] != 0).any(axis=0)].sum() / importance.sum())


def test_the_importance_is_the_root_of_the_weights_sum() -> None:
    found = {unit.unit: unit.importance for unit in aggregate(TOY)}
    assert max(found, key=found.__getitem__) == "f2" and found["f2"] == pytest.approx(2.0)
    assert found["f4"] == pytest.approx(math.sqrt(2)) and found["f1"] == 1.0


def test_a_pick_covers_what_the_first_did_not() -> None:
    """The fourth text is worth most (2 + 1.41); then the first, the second and the fifth add 1 each."""
    found = pick(TOY, 2)
    assert found.texts == (3, 0)
    total = 1 + 2 + 1 + math.sqrt(2) + 1
    assert found.coverage == pytest.approx(((2 + math.sqrt(2)) / total, (3 + math.sqrt(2)) / total))
    assert pick(TOY, 99).coverage[-1] == pytest.approx(1.0) and len(pick(TOY, 99).texts) == 4  # the third shows nothing


@pytest.mark.parametrize("seed", range(8))
def test_greedy_is_within_its_bound_of_the_best(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = [
        [(f"w{j}", float(w)) for j, w in zip(rng.choice(14, 4, replace=False), rng.normal(size=4), strict=True)]
        for _ in range(9)
    ]
    for budget in (1, 2, 3):
        best = max(covered(rows, some) for some in combinations(range(9), budget))
        found = pick(rows, budget)
        assert (1 - 1 / math.e) * best <= found.coverage[-1] <= best + 1e-12
        assert found.coverage[-1] == pytest.approx(covered(rows, found.texts))
        assert budget > 1 or found.coverage[-1] == pytest.approx(best)


def test_the_sign_and_the_scale_of_weights_do_not_change_the_pick() -> None:
    turned = [[(unit, -7 * weight) for unit, weight in row] for row in TOY]
    assert pick(turned, 3).texts == pick(TOY, 3).texts and pick(turned, 3).coverage == pytest.approx(
        pick(TOY, 3).coverage
    )


def test_what_a_fit_rounds_covers_nothing() -> None:
    assert pick([[("a", 1e-17), ("b", 1.0)], [("a", 1.0), ("b", 0.0)]], 2).texts == (0, 1)


def test_units_over_a_data_set_by_hand() -> None:
    rows = [[("Kettle,", 1.0), ("kettle ", 0.5), ("is", -1.0), ("--", 9.0)], [("kettle", 0.5)], [("is.", 0.0)]]
    kettle, is_ = aggregate(rows)
    assert (kettle.unit, kettle.texts, kettle.mean) == ("kettle", 2, 1.0)  # 1.5 in the first text, 0.5 in the second
    assert kettle.importance == pytest.approx(math.sqrt(2)) and kettle.effect is None
    assert (is_.unit, is_.texts, is_.mean) == ("is", 2, -0.5)
    assert plain(" **Thank\n you!** ") == "thank you" and aggregate([]) == [] and pick([], 3).texts == ()


def test_what_is_rewarded_for_sure_is_told_from_noise() -> None:
    rng = np.random.default_rng(0)
    rows = [
        [("good", 1 + float(rng.normal())), ("bad", -1 + float(rng.normal())), ("so", float(rng.normal()))]
        for _ in range(60)
    ]
    up, down = rewarded(aggregate(rows))
    assert ([unit.unit for unit in up], [unit.unit for unit in down]) == (["good"], ["bad"])


def test_explanations_of_a_linear_reward_give_its_words_back(words, prompt) -> None:
    texts = [f"{a} word {b}" for a in ("bad", "long") for b in ("good", "plain") for _ in range(6)]
    found = [weighted(fit_lime(fill(words, prompt, segment(text, "words")))) for text in texts]
    units = {unit.unit: unit.mean for unit in aggregate(found)}
    assert units == pytest.approx({"bad": -1.5, "long": -0.25, "good": 2.0, "word": 0.0, "plain": 0.0}, abs=1e-9)


def test_what_is_no_number_or_no_budget_is_refused() -> None:
    with pytest.raises(ValueError, match="not a finite number"):
        aggregate([[("a", math.nan)]])
    with pytest.raises(ValueError, match="at least one"):
        pick(TOY, 0)
