"""LIME over units, fitted by the lime package on every mask at once: no sampling, no seed, no truncation.

Ribeiro, Singh and Guestrin, "Why Should I Trust You?" (KDD 2016). Instead of drawing 5000 masks, each mask
enters once with the share that it would have among the draws, which is the fit that LimeTextExplainer
converges to.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from explain.masks import all_masks, lime_distances, lime_kernel, lime_probabilities
from explain.table import RewardTable
from explain.units import Units


@dataclass(frozen=True)
class LimeExplanation:
    """A local linear model of the reward: intercept + sum of the weights of the kept units.

    weights: reward per kept unit, in the order of the units. standard_errors: None where the fit is exact.
    r2: weighted, None where the reward is constant. prediction: the linear model at the whole response.
    baseline: the reward with everything removed.
    """

    units: Units
    weights: tuple[float, ...]
    intercept: float
    r2: float | None
    prediction: float
    reward: float
    baseline: float
    exact: bool = True
    standard_errors: tuple[float, ...] | None = None


def exact_lime(table: RewardTable) -> LimeExplanation:
    """Fit LIME on the full table (weighted least squares through lime.LimeBase)."""
    from lime.lime_base import LimeBase  # with scikit-learn, a second or two: only when it is asked for
    from sklearn.linear_model import LinearRegression

    d = len(table.units)
    masks = all_masks(d)
    shares = lime_probabilities(masks)
    # LimeBase asks its kernel for the weights of all rows at once; here a row also stands for its share of
    # draws.
    base = LimeBase(lambda distances: lime_kernel(distances) * shares, random_state=0)
    intercept, pairs, r2, prediction = base.explain_instance_with_data(
        masks.astype(float),
        table.rewards[:, None],
        lime_distances(masks),
        label=0,
        num_features=d,
        feature_selection="none",
        # lime's default, ridge with alpha 1, shrinks the weights the more, the fewer the samples.
        model_regressor=LinearRegression(),
    )
    weights = dict(pairs)
    return LimeExplanation(
        units=table.units,
        weights=tuple(float(weights[unit]) for unit in range(d)),
        intercept=float(intercept),
        r2=float(r2) if np.ptp(table.rewards) > 0 else None,
        prediction=float(prediction[0]),
        reward=table.reward,
        baseline=table.baseline,
    )
