"""Reward at equal KL: what two trainings reached for the same distance from the reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

WINDOW = 3  # iterations that are averaged: of one alone, 16 rollouts say too little
RESAMPLES = 2000

Curve = Sequence[tuple[float, Sequence[float]]]  # of each iteration, KL in nats per response and its episodes' rewards


def smoothed(values: Sequence[float]) -> np.ndarray:
    """Each value averaged with its neighbours, as many as there are within the window."""
    half = WINDOW // 2
    return np.array([np.mean(values[max(i - half, 0) : i + half + 1]) for i in range(len(values))])


def reward_at(kl: float, kls: Sequence[float], rewards: Sequence[float]) -> float:
    """The reward where a training's KL first reaches ``kl``, linear between iterations; that of the last iteration
    where it does not, and of the first where it begins above."""
    reached = next((i for i, value in enumerate(kls) if value >= kl), len(kls) - 1)
    if reached == 0 or kls[reached] < kl:
        return float(rewards[reached])
    share = (kl - kls[reached - 1]) / (kls[reached] - kls[reached - 1])
    return float(rewards[reached - 1] + share * (rewards[reached] - rewards[reached - 1]))


def compare(first: Curve, second: Curve, seed: int = 0) -> dict[str, Any]:
    """Rewards of both at the largest smoothed KL that both reached, and their difference, first less second, with
    95 % percentile bootstrap intervals: episodes are drawn again within their iteration, KL stays as measured."""
    rng = np.random.default_rng(seed)
    kls = [smoothed([kl for kl, _ in curve]) for curve in (first, second)]
    common = float(min(found.max() for found in kls))
    values, draws = [], []
    for curve, kl in zip((first, second), kls, strict=True):
        means = [np.mean(rewards) for _, rewards in curve]
        # [resamples, iterations]: means of episodes drawn with replacement
        again = np.stack(
            [rng.choice(np.asarray(rewards, float), (RESAMPLES, len(rewards))).mean(1) for _, rewards in curve], axis=1
        )
        values.append(reward_at(common, kl, smoothed(means)))
        draws.append(np.array([reward_at(common, kl, smoothed(row)) for row in again]))

    def interval(value: float, drawn: np.ndarray) -> dict[str, float]:
        low, high = np.quantile(drawn, [0.025, 0.975])
        return {"value": value, "low": float(low), "high": float(high)}

    one, other = (interval(value, drawn) for value, drawn in zip(values, draws, strict=True))
    return {
        "kl": common,
        "first": one,
        "second": other,
        "difference": interval(values[0] - values[1], draws[0] - draws[1]),
    }
