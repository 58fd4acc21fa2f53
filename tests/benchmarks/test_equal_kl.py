"""Reward at equal KL on curves whose answer can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.ppo_peers.equal_kl import compare, reward_at, smoothed


def test_each_iteration_is_averaged_with_its_neighbours() -> None:
    assert smoothed([0, 3, 6, 0]).tolist() == [1.5, 3, 3, 3]


@pytest.mark.parametrize(
    ("kl", "reward"),
    [
        (0.0, -1.0),  # where it begins
        (1.0, -0.75),  # half the way to the second iteration
        (3.0, 0.5),  # the first time that it is reached, not when the KL comes back to it
        (9.0, 0.2),  # never reached: the last iteration
    ],
)
def test_the_reward_is_read_where_the_kl_is_first_reached(kl: float, reward: float) -> None:
    assert reward_at(kl, [0.0, 2.0, 3.0, 2.5, 3.0], [-1.0, -0.5, 0.5, 0.1, 0.2]) == pytest.approx(reward)


def test_two_trainings_are_compared_at_the_largest_kl_that_both_reached() -> None:
    slow = [(i, [i / 10 - 1] * 4) for i in range(6)]  # reward rises by 0.1 per nat
    fast = [(2 * i, [2 * i / 5 - 1] * 4) for i in range(6)]  # by 0.2
    found = compare(slow, fast)
    assert found["kl"] == pytest.approx(4.5)  # the mean of the slow one's last two
    assert found["first"]["value"] == pytest.approx(-0.55)
    assert found["second"]["value"] == pytest.approx(-0.1)
    assert found["difference"] == pytest.approx({"value": -0.45, "low": -0.45, "high": -0.45})  # no spread, no width


def test_the_interval_covers_a_difference_that_is_chance_alone() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(40):
        one, other = ([(k, rng.normal(0, 1, 16).tolist()) for k in range(5)] for _ in range(2))
        difference = compare(one, other, seed)["difference"]
        covered += difference["low"] <= 0 <= difference["high"]
    assert covered >= 34
