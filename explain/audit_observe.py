"""What is seen in the data: how far the reward, and people's judgement, go with each feature."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from explain.audit_features import NAMES, POSITION
from explain.audit_stats import Effect, independent_columns, regress


@dataclass(frozen=True)
class Observation:
    """Coefficients per standard deviation of the feature, the other features held fixed.

    reward: of the reward, in its standard deviations; in pairs of the two answers' differences. model, people and
    excess: of the model's choices, of people's, and of the first less the second. A choice is 1 for one answer and -1
    for the other, so that 0.2 is ten points of probability; in place of choices, single answers have rewards and
    people's scores, each in its standard deviations. None where there are too few rows, or no judgements.

    People's judgements are noisy, a model's choices are not, and noise weakens an association: a model that has
    learned people's taste perfectly shows some excess where the taste itself goes with the feature.
    """

    reward: Effect | None
    model: Effect | None
    people: Effect | None
    excess: Effect | None


def observe(
    rewards: np.ndarray, features: np.ndarray, labels: np.ndarray, ordered: np.ndarray
) -> tuple[dict[str, Observation], dict[str, int]]:
    """Observations by feature, and in how many rows each is there (of pairs: differs).

    rewards: float[n, s] of s = 1 or 2 answers; features: float[n, s, len(NAMES)]; labels: float[n] as in `Example`,
    NaN where nobody judged; ordered: bool[n]. Nothing depends on which of two answers stands first in its row, but
    for the position itself.
    """
    pairs = rewards.shape[1] == 2
    names = [*NAMES, POSITION] if pairs else list(NAMES)
    if pairs:
        x = np.column_stack([features[:, 0] - features[:, 1], ordered.astype(float)])
        y = rewards[:, 0] - rewards[:, 1]
        present = (x != 0).sum(axis=0)
    else:
        x, y = features[:, 0], rewards[:, 0]
        present = (x > 0).sum(axis=0)
    judged = ~np.isnan(labels)
    of_all = _coefficients(x, _scaled(y, pairs), pairs)
    choice = np.sign(y[judged]) if pairs else _scaled(y[judged], pairs)
    people = labels[judged] if pairs else _scaled(labels[judged], pairs)
    parts = [_coefficients(x[judged], part, pairs) for part in (choice, people, choice - people)]
    seen = {
        name: Observation(of_all.get(column), *(part.get(column) for part in parts))
        for column, name in enumerate(names)
        if column in of_all
    }
    return seen, {name: int(count) for name, count in zip(names, present, strict=True)}


def _coefficients(x: np.ndarray, y: np.ndarray, pairs: bool) -> dict[int, Effect]:
    """Column of x -> its coefficient, per standard deviation of the column. Differences of pairs have no mean of their
    own (either answer may stand first), so they go through the origin."""
    if len(x) == 0:
        return {}
    centred = x if pairs else x - x.mean(axis=0)
    kept = independent_columns(centred, x != (0 if pairs else np.array([_commonest(column) for column in x.T])))
    if not kept:
        return {}
    used = centred[:, kept]
    effects = regress(used / np.sqrt((used**2).mean(axis=0)), y, lost=0 if pairs else 1)
    return dict(zip(kept, effects, strict=True)) if effects else {}


def _commonest(values: np.ndarray) -> float:
    distinct, counts = np.unique(values, return_counts=True)
    return float(distinct[counts.argmax()])


def _scaled(y: np.ndarray, pairs: bool) -> np.ndarray:
    """In standard deviations, of single answers around the mean; all 0 where nothing differs."""
    centred = y if pairs or len(y) == 0 else y - y.mean()
    size = float(np.sqrt((centred**2).mean())) if len(y) and (pairs or np.ptp(y) > 0) else 0.0
    return centred / size if size > 0 else np.zeros_like(y)
