"""Shapley values of the units: the mean, over all orders, of what a unit adds to those before it."""

from __future__ import annotations

from dataclasses import dataclass
from math import comb

import numpy as np

from explain.masks import all_masks
from explain.sample import SHARP, default_budget
from explain.table import RewardTable
from explain.units import Units

_FIRST = 4  # pairs of orders


@dataclass(frozen=True)
class ShapleyExplanation:
    """values: reward per unit, in the order of the units; they sum to reward - baseline (efficiency).

    standard_errors: None where the values are exact. orders: how many orders were drawn, 0 where they are exact.
    """

    units: Units
    values: tuple[float, ...]
    reward: float
    baseline: float
    exact: bool = True
    standard_errors: tuple[float, ...] | None = None
    orders: int = 0


def shapley(table: RewardTable, seed: int = 0, budget: int | None = None) -> ShapleyExplanation:
    """Exact from a full table, else by drawing orders, each with its reverse (Castro et al., 2009; Mitchell et al.,
    JMLR 2022), until the errors are small or `budget` masks are asked for, but at least two pairs of orders."""
    if table.exact:
        return ShapleyExplanation(table.units, _exact(table), table.reward, table.baseline)
    d = len(table.units)
    most = max(2, (default_budget(d) if budget is None else budget) // (2 * (d - 1)))
    rng = np.random.default_rng(seed)
    values, target = np.empty((0, d)), min(most, _FIRST)
    while True:
        values = np.concatenate([values, _pairs(table, target - len(values), rng)])
        mean, errors = values.mean(axis=0), values.std(axis=0, ddof=1) / np.sqrt(len(values))
        rounding = 1e-9 * max(1.0, float(np.abs(table.rewards).max()))
        if len(values) >= most or errors.max() <= max(SHARP * np.abs(mean).max(), rounding):
            break
        target = min(most, 2 * target)
    return ShapleyExplanation(
        table.units,
        tuple(mean.tolist()),
        table.reward,
        table.baseline,
        exact=False,
        standard_errors=tuple(errors.tolist()),
        orders=2 * len(values),
    )


def _exact(table: RewardTable) -> tuple[float, ...]:
    """The sum over all masks without a unit, by their size."""
    d = len(table.units)
    by_code = table.rewards[::-1]  # unit j is bit j
    sizes = all_masks(d)[::-1].sum(axis=1)
    share = np.array([1.0 / (d * comb(d - 1, size)) for size in range(d)])
    values = []
    for unit in range(d):
        without, adding = by_code.reshape(-1, 2, 2**unit)[:, 0], by_code.reshape(-1, 2, 2**unit)[:, 1]
        values.append(float((share[sizes.reshape(-1, 2, 2**unit)[:, 0]] * (adding - without)).sum()))
    return tuple(values)


def _pairs(table: RewardTable, count: int, rng: np.random.Generator) -> np.ndarray:
    """Values float[count, d], each the mean of one order and its reverse, so that errors in them partly cancel."""
    d = len(table.units)
    orders = np.array([rng.permutation(d) for _ in range(count)])
    orders = np.stack([orders, orders[:, ::-1]], axis=1).reshape(-1, d)
    ranks = orders.argsort(axis=1)
    # masks[o, k]: the first k units of order o are kept
    masks = ranks[:, None, :] < np.arange(d + 1)[None, :, None]
    rewards = table.at(masks.reshape(-1, d)).reshape(-1, d + 1)
    gains = np.take_along_axis(np.diff(rewards, axis=1), ranks, axis=1)
    return gains.reshape(-1, 2, d).mean(axis=1)
