"""Explain why one response is preferred to another.

The margin r(chosen) - r(rejected) is a sum over the two responses, so LIME on the units of both together
equals LIME on each side, the rejected one negated: two tables of 2^d rewards instead of one of 2^(2d).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from explain.anchors import PRECISION, Decision
from explain.ask import Message, Progress, Scorer
from explain.faithful import faithfulness
from explain.lime import fit_lime
from explain.masks import all_masks
from explain.result import Flip, PairExplanation, Side
from explain.table import RewardTable, fill
from explain.text import anchors
from explain.units import MAX_UNITS, segment


def explain_pair(
    scorer: Scorer,
    prompt: list[Message],
    chosen: str,
    rejected: str,
    units: str = "auto",
    *,
    max_units: int = MAX_UNITS,
    threshold: float = PRECISION,
    beam: bool = True,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> PairExplanation:
    """Which units of both responses make the margin, which of the chosen one suffice to beat the rejected
    one, and the fewest units whose removal reverses the preference.

    Nothing is swapped where `chosen` is not the better one: the margin is then negative. The other
    arguments and errors are those of `explain_text`.
    """
    # Both are cut before anything is scored, so that a refusal costs nothing.
    cut = segment(chosen, units, max_units), segment(rejected, units, max_units)
    tables = [fill(scorer, prompt, side, cache_dir, progress) for side in cut]
    return explain_tables(tables[0], tables[1], threshold=threshold, beam=beam)


def explain_tables(
    chosen: RewardTable, rejected: RewardTable, *, threshold: float = PRECISION, beam: bool = True
) -> PairExplanation:
    """The same from two tables that are already filled."""
    margin = chosen.reward - rejected.reward
    return PairExplanation(
        prompt=chosen.prompt,
        chosen=_side(chosen, 1.0),
        rejected=_side(rejected, -1.0),
        margin=margin,
        preferred="chosen" if margin > 0 else "rejected" if margin < 0 else "neither",
        anchor=anchors(chosen, Decision(rejected.reward, strict=True), threshold, beam),
        flip=smallest_flip(chosen, rejected),
        scorer=chosen.scorer,
        note=chosen.note,
    )


def smallest_flip(chosen: RewardTable, rejected: RewardTable) -> Flip | None:
    """The fewest units, of both responses together, whose removal reverses the preference.

    Among equally few: fewest units of the preferred response, then the widest reversal. None where nothing
    reverses it, or where neither is preferred.
    """
    if chosen.reward == rejected.reward:
        return None
    if chosen.reward < rejected.reward:
        mirrored = smallest_flip(rejected, chosen)
        return Flip(mirrored.rejected, mirrored.chosen, -mirrored.margin) if mirrored else None
    lowest, highest = _best_removals(-chosen.rewards), _best_removals(rejected.rewards)
    by_size = sorted((a + b, a, b) for a in range(len(lowest)) for b in range(len(highest)))
    for _, a, b in by_size:
        margin = float(chosen.rewards[lowest[a]] - rejected.rewards[highest[b]])
        if margin < 0:
            return Flip(_removed(chosen, lowest[a]), _removed(rejected, highest[b]), margin)
    return None


def _best_removals(values: np.ndarray) -> list[int]:
    """For each number of removed units, 0..d, the row with the highest value."""
    d = values.size.bit_length() - 1
    removed = d - all_masks(d).sum(axis=1)
    rows = [np.flatnonzero(removed == count) for count in range(d + 1)]
    return [int(group[np.argmax(values[group])]) for group in rows]


def _removed(table: RewardTable, row: int) -> tuple[int, ...]:
    return tuple(np.flatnonzero(~all_masks(len(table.units))[row]).tolist())


def _side(table: RewardTable, sign: float) -> Side:
    lime = fit_lime(table)
    return Side(lime, tuple(sign * weight for weight in lime.weights), faithfulness(table, lime.weights))
