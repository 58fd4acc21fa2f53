"""The fewest units, of both responses, whose removal reverses a preference."""

from __future__ import annotations

import numpy as np

from explain.faithful import left_out
from explain.lime import fit_lime
from explain.masks import all_masks
from explain.result import Flip
from explain.table import RewardTable


def smallest_flip(chosen: RewardTable, rejected: RewardTable) -> Flip | None:
    """The fewest units, of both responses together, whose removal reverses the preference.

    Among equally few: fewest units of the preferred response, then the widest reversal. None where nothing
    reverses it, or where neither is preferred. Where a table is a sample, units are tried in the order of their
    effects, and then put back where the reversal stands without them: fewer may do, and `exact` is False.
    """
    if chosen.reward == rejected.reward:
        return None
    if chosen.reward < rejected.reward:
        mirrored = smallest_flip(rejected, chosen)
        return Flip(mirrored.rejected, mirrored.chosen, -mirrored.margin, mirrored.exact) if mirrored else None
    exact = chosen.exact and rejected.exact
    # Which masks to try, for each number of removed units: lowest for the preferred response, highest for the other.
    lowest = _best(chosen, -1.0) if chosen.exact else _greedy(chosen, -1.0)
    highest = _best(rejected, 1.0) if rejected.exact else _greedy(rejected, 1.0)
    low, high = chosen.at(lowest), rejected.at(highest)
    by_size = sorted((a + b, a, b) for a in range(len(low)) for b in range(len(high)))
    for _, a, b in by_size:
        if low[a] - high[b] < 0:
            if exact:
                return _flip(chosen, lowest[a], rejected, highest[b], exact)
            return _pruned(chosen, lowest[a].copy(), rejected, highest[b].copy())
    return None


def _best(table: RewardTable, sign: float) -> np.ndarray:
    """bool[d + 1, d]: of each number of removed units, the mask of highest sign * reward."""
    d = len(table.units)
    masks, values = all_masks(d), sign * table.rewards
    removed = d - masks.sum(axis=1)
    rows = [np.flatnonzero(removed == count) for count in range(d + 1)]
    return masks[[int(group[np.argmax(values[group])]) for group in rows]]


def _greedy(table: RewardTable, sign: float) -> np.ndarray:
    """bool[d + 1, d]: units removed one after the other, by LIME's weight and, among equals, by leaving one out."""
    d = len(table.units)
    order = np.lexsort((sign * left_out(table), sign * np.array(fit_lime(table).weights)))
    rank = np.empty(d, dtype=int)
    rank[order] = np.arange(d)
    return rank[None, :] >= np.arange(d + 1)[:, None]


def _pruned(chosen: RewardTable, kept: np.ndarray, rejected: RewardTable, other: np.ndarray) -> Flip:
    """Put units back, one at a time, as long as the preference stays reversed."""
    for mask in (kept, other):
        for unit in np.flatnonzero(~mask):
            mask[unit] = True
            if chosen.at(kept[None])[0] >= rejected.at(other[None])[0]:
                mask[unit] = False
    return _flip(chosen, kept, rejected, other, False)


def _flip(chosen: RewardTable, kept: np.ndarray, rejected: RewardTable, other: np.ndarray, exact: bool) -> Flip:
    margin = float(chosen.at(kept[None])[0] - rejected.at(other[None])[0])
    return Flip(tuple(np.flatnonzero(~kept).tolist()), tuple(np.flatnonzero(~other).tolist()), margin, exact)
