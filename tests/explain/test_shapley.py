from __future__ import annotations

import itertools
from math import factorial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from explain.ask import Rewards
from explain.masks import all_masks
from explain.sample import sampled_table
from explain.shapley import shapley
from explain.table import RewardTable
from explain.units import Units, steps


def lines(d: int) -> Units:
    text = "".join(f"u{unit}\n" for unit in range(d))
    return Units(text, steps(text), "steps")


tables = st.integers(1, 5).flatmap(lambda d: st.lists(st.floats(-5, 5), min_size=2**d, max_size=2**d))


@settings(deadline=None)
@given(tables)
def test_the_brute_force_sum_over_all_orders(rewards: list[float]) -> None:
    d = len(rewards).bit_length() - 1
    table = RewardTable([], lines(d), np.array(rewards), "x")
    total = np.zeros(d)
    for order in itertools.permutations(range(d)):
        for place, unit in enumerate(order):
            total[unit] += table.keeping(order[: place + 1]) - table.keeping(order[:place])
    found = shapley(table)
    assert np.allclose(found.values, total / factorial(d), atol=1e-9)
    assert sum(found.values) == pytest.approx(found.reward - found.baseline, abs=1e-9)  # efficiency


def test_by_hand() -> None:
    masks = all_masks(3)
    glove = RewardTable([], lines(3), (masks[:, 2] & (masks[:, 0] | masks[:, 1])) * 1.0, "x")
    assert np.allclose(shapley(glove).values, [1 / 6, 1 / 6, 4 / 6])  # the glove game
    parity = RewardTable([], lines(3), masks.sum(axis=1) % 2 * 1.0, "x")
    assert np.allclose(shapley(parity).values, [1 / 3] * 3)


class Quadratic:
    fingerprint = "quadratic"

    def __init__(self, d: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.d, self.linear, self.pairs = d, rng.normal(size=d), np.triu(rng.normal(size=(d, d)), 1) / 3
        self.values = self.linear + (self.pairs + self.pairs.T).sum(axis=1) / 2  # of a quadratic, in closed form

    def score(self, prompt, texts):
        masks = np.array([[f"u{unit}\n" in text for unit in range(self.d)] for text in texts]) * 1.0
        return (masks @ self.linear + np.einsum("ni,ij,nj->n", masks, self.pairs, masks)).tolist()


def test_drawn_orders_give_a_quadratic_exactly_since_each_goes_with_its_reverse() -> None:
    scorer = Quadratic(20, 0)
    found = shapley(sampled_table(Rewards(scorer, [], lines(20))))
    assert np.allclose(found.values, scorer.values, atol=1e-9) and not found.exact and found.orders == 8


def test_drawn_orders_cover_the_truth_and_are_efficient() -> None:
    class Cubic(Quadratic):
        def score(self, prompt, texts):
            masks = np.array([[f"u{unit}\n" in text for unit in range(self.d)] for text in texts]) * 1.0
            return (masks @ self.linear + 5 * masks[:, 0] * masks[:, 1] * masks[:, 2]).tolist()

    scorer, z = Cubic(14, 1), []
    truth = scorer.linear + np.array([5 / 3] * 3 + [0.0] * 11)
    for seed in range(20):
        found = shapley(sampled_table(Rewards(scorer, [], lines(14)), budget=300), seed, budget=1600)
        assert sum(found.values) == pytest.approx(found.reward - found.baseline)
        z += ((np.array(found.values) - truth)[:3] / np.array(found.standard_errors)[:3]).tolist()
        assert np.allclose(found.values[3:], truth[3:])
    assert np.mean(np.abs(z) < 2.2) > 0.85


def test_the_seed_decides_and_the_least_is_two_pairs() -> None:
    def run(seed: int):
        return shapley(sampled_table(Rewards(Quadratic(30, 3), [], lines(30)), budget=60), seed, budget=1)

    assert run(1) == run(1) and run(1).orders == 4
