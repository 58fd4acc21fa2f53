"""How faithful LIME's weights are to the reward model, read off the exact table without another call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np

from explain.table import RewardTable


@dataclass(frozen=True)
class Faithfulness:
    """All in units of reward, but the correlation.

    comprehensiveness: by how much the reward falls when the units of highest weight are removed (high is
    good). sufficiency: by how much it falls when only they are kept (low is good). Both are means over
    `counts`, the numbers of units taken. loo_spearman: rank correlation of |weight| and |effect of leaving
    that unit out|, None where one of the two does not vary.
    """

    comprehensiveness: float
    sufficiency: float
    counts: tuple[int, ...]
    loo_spearman: float | None


def faithfulness(table: RewardTable, weights: Sequence[float]) -> Faithfulness:
    """ERASER's measures (DeYoung et al., ACL 2020) at 1, 5, 10, 20, 50 % of the units, equal counts once."""
    d = len(table.units)
    order = sorted(range(d), key=lambda unit: -weights[unit])
    counts = tuple(sorted({ceil(share * d / 100) for share in (1, 5, 10, 20, 50)}))
    whole = table.reward
    left_out = [whole - table.keeping([other for other in range(d) if other != unit]) for unit in range(d)]
    return Faithfulness(
        comprehensiveness=float(np.mean([whole - table.keeping(order[count:]) for count in counts])),
        sufficiency=float(np.mean([whole - table.keeping(order[:count]) for count in counts])),
        counts=counts,
        loo_spearman=spearman(np.abs(weights), np.abs(left_out)),
    )


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
