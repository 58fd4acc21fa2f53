"""How faithful LIME's weights are to the reward model. From a full table without another call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import ceil

import numpy as np

from explain.ask import Scorer
from explain.lime import fit_lime
from explain.table import RewardTable

_POINTS = 11  # of a curve over a sampled table
_ORDERS = 5  # random ones to compare with, there


@dataclass(frozen=True)
class Curves:
    """Rewards as the units go and come in the order of their weights, highest first.

    counts: how many units are taken, from 0 to all. deletion[i]: the reward without the counts[i] highest; insertion:
    with only those; random: without counts[i] units in any order, the mean. The areas are means over the share of
    units, in units of reward: below random is good for deletion, above it for insertion.
    """

    counts: tuple[int, ...]
    deletion: tuple[float, ...]
    insertion: tuple[float, ...]
    random: tuple[float, ...]
    deletion_area: float
    insertion_area: float
    random_area: float


@dataclass(frozen=True)
class Faithfulness:
    """All in units of reward, but the correlations.

    comprehensiveness: by how much the reward falls when the units of highest weight are removed (high is
    good). sufficiency: by how much it falls when only they are kept (low is good). Both are means over
    `counts`, the numbers of units taken. loo_spearman: rank correlation of |weight| and |effect of leaving
    that unit out|, None where one of the two does not vary. curves: None where there is no unit.
    randomised_spearman: rank correlation of the weights with those for a model whose head was drawn anew (Adebayo et
    al., NeurIPS 2018): near 0 is good; None where there was no such model, or one side does not vary.
    """

    comprehensiveness: float
    sufficiency: float
    counts: tuple[int, ...]
    loo_spearman: float | None
    curves: Curves | None = None
    randomised_spearman: float | None = None


@dataclass(frozen=True)
class Agreement:
    """How far two methods agree. measure: "rank correlation" (Spearman's, of signed values; None where one does not
    vary) or "overlap" (the share of the anchor's units among as many that the other method moves most towards the
    decision)."""

    first: str
    second: str
    measure: str
    value: float | None


def faithfulness(table: RewardTable, weights: Sequence[float], randomised: Scorer | None = None) -> Faithfulness:
    """ERASER's measures (DeYoung et al., ACL 2020) at 1, 5, 10, 20, 50 % of the units, equal counts once; deletion
    and insertion (Petsiuk et al., BMVC 2018); leave-one-out; and, given a scorer of a randomised model, how much of
    the weights that one has too.

    A sampled table asks for what it lacks: about 1 reward per unit, and 65 more.
    """
    d = len(table.units)
    rank = np.empty(d, dtype=int)
    rank[sorted(range(d), key=lambda unit: -weights[unit])] = np.arange(d)
    counts = np.array(sorted({ceil(share * d / 100) for share in (1, 5, 10, 20, 50)}))
    points = np.arange(d + 1) if table.exact else np.unique(np.linspace(0, d, _POINTS).round().astype(int))
    rng = np.random.default_rng(0)
    orders = [rng.permutation(d) for _ in range(0 if table.exact else _ORDERS)]
    without, only, deletion, insertion, alone, *chance = _at(
        table,
        _removed(rank, counts),
        ~_removed(rank, counts),
        _removed(rank, points),
        ~_removed(rank, points),
        ~np.eye(d, dtype=bool),
        *(_removed(order, points) for order in orders),
    )
    if table.exact:  # the mean over all orders is the mean over all masks of a size
        gone = (~table.rows).sum(axis=1)
        mean = np.array([table.rewards[gone == count].mean() for count in points])
    else:
        mean = np.mean(chance, axis=0)
    found = Faithfulness(
        comprehensiveness=float((table.reward - without).mean()),
        sufficiency=float((table.reward - only).mean()),
        counts=tuple(counts.tolist()),
        loo_spearman=spearman(np.abs(weights), np.abs(table.reward - alone)),
        curves=_curves(points, deletion, insertion, mean) if d else None,
    )
    if randomised is None or table.ask is None:
        return found
    ask = table.ask.over(table.units, randomised)
    other = fit_lime(replace(table, rewards=ask(table.rows), scorer=randomised.fingerprint, ask=ask))
    return replace(found, randomised_spearman=spearman(np.array(weights), np.array(other.weights)))


def left_out(table: RewardTable) -> np.ndarray:
    """By how much the reward falls when just one unit is removed, float[d]."""
    return table.reward - table.at(~np.eye(len(table.units), dtype=bool))


def agreement(
    weights: Mapping[str, Sequence[float]], anchor: Sequence[int] | None = None, holds: bool = True
) -> tuple[Agreement, ...]:
    """Each two methods against each other, from the values that each gives to the units.

    anchor: its units, where there is one that fixes any; holds: whether the anchored decision is "yes", so that high
    values speak for it.
    """
    pairs = [
        Agreement(first, second, "rank correlation", spearman(np.array(weights[first]), np.array(weights[second])))
        for first, second in combinations(weights, 2)
    ]
    if anchor:
        for name, values in weights.items():
            best = sorted(range(len(values)), key=lambda unit: -values[unit] if holds else values[unit])[: len(anchor)]
            pairs.append(Agreement("Anchor", name, "overlap", len(set(best) & set(anchor)) / len(anchor)))
    return tuple(pairs)


def spearman(a: np.ndarray, b: np.ndarray) -> float | None:
    """Spearman's rank correlation of two float[n], ties at mean ranks; None where a side does not vary."""
    ranks = [_ranks(np.asarray(side, dtype=float)) for side in (a, b)]
    centred = [side - side.mean() if side.size else side for side in ranks]
    scale = np.sqrt((centred[0] ** 2).sum() * (centred[1] ** 2).sum())
    return float(np.clip((centred[0] * centred[1]).sum() / scale, -1.0, 1.0)) if scale > 0 else None


def _ranks(values: np.ndarray) -> np.ndarray:
    """Mean ranks, from 1; values that differ only by rounding (1e-9 of the largest) are tied."""
    largest = np.abs(values).max(initial=0.0)
    rounded = np.round(values / largest, 9) if largest > 0 else values
    _, group, size = np.unique(rounded, return_inverse=True, return_counts=True)
    return (np.cumsum(size) - (size - 1) / 2)[group]


def _removed(rank: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Masks bool[n, d] without the counts[n] units that come first by rank, int[d]."""
    return rank >= counts[:, None]


def _at(table: RewardTable, *masks: np.ndarray) -> list[np.ndarray]:
    """The rewards of each of several bool[n, d], asked for together: what their texts share is read once."""
    return np.split(table.at(np.concatenate(masks)), np.cumsum([len(part) for part in masks])[:-1])


def _curves(counts: np.ndarray, deletion: np.ndarray, insertion: np.ndarray, chance: np.ndarray) -> Curves:
    share = counts / counts[-1]
    areas = [float(np.trapezoid(curve, share)) for curve in (deletion, insertion, chance)]
    rewards = [tuple(map(float, curve)) for curve in (deletion, insertion, chance)]
    return Curves(tuple(counts.tolist()), rewards[0], rewards[1], rewards[2], areas[0], areas[1], areas[2])
