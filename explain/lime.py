"""LIME over units, fitted by the lime package: on every mask at once where they are few, else on a sample.

Ribeiro, Singh and Guestrin, "Why Should I Trust You?" (KDD 2016). In the exact table each mask enters once with
the share that it would have among the draws, which is the fit that LimeTextExplainer converges to: no sampling, no
seed. In a sampled one each mask enters with the number of its draws, and the weights have standard errors. No unit
is left out of the fit: weights refitted on a few units would take over what the others do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from explain.masks import lime_distances, lime_kernel
from explain.regress import r_squared, wls
from explain.table import RewardTable
from explain.units import Units, sizes

_HELD_OUT = 5  # every fifth mask


@dataclass(frozen=True)
class Length:
    """What the length alone does: the reward regressed on the share of the response's words that is kept.

    slope: reward per whole length. r2: weighted, None where the reward is constant. beyond: LIME's weights less
    what each unit's length accounts for, in the order of the units.
    """

    slope: float
    r2: float | None
    beyond: tuple[float, ...]


@dataclass(frozen=True)
class LimeExplanation:
    """A local linear model of the reward: intercept + sum of the weights of the kept units.

    weights: reward per kept unit, in the order of the units. standard_errors: None where the fit is exact.
    r2: weighted, None where the reward is constant. prediction: the linear model at the whole response.
    baseline: the reward with everything removed. held_out_r2: on the fifth of the masks that a second fit did not
    see, None where the fit is exact or the reward constant. masks, draws: how many different masks were fitted, and
    how many draws they stand for (0 where nothing was drawn).
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
    held_out_r2: float | None = None
    masks: int = 0
    draws: int = 0
    length: Length | None = None


def fit_lime(table: RewardTable) -> LimeExplanation:
    """Fit LIME on all rows of the table (weighted least squares through lime.LimeBase)."""
    d = len(table.units)
    if d == 0:  # nothing differs, or all is frozen
        reward = table.reward
        return LimeExplanation(table.units, (), reward, None, reward, reward, reward, masks=1)

    from lime.lime_base import LimeBase  # with scikit-learn, a second or two: only when it is asked for
    from sklearn.linear_model import LinearRegression

    masks, shares = table.rows, table.shares
    x, kernel = masks.astype(float), lime_kernel(lime_distances(masks))
    # LimeBase asks its kernel for the weights of all rows at once; here a row also stands for its share of
    # draws.
    base = LimeBase(lambda distances: lime_kernel(distances) * shares, random_state=0)
    intercept, pairs, r2, prediction = base.explain_instance_with_data(
        x,
        table.rewards[:, None],
        lime_distances(masks),
        label=0,
        num_features=d,
        feature_selection="none",
        # lime's default, ridge with alpha 1, shrinks the weights the more, the fewer the samples.
        model_regressor=LinearRegression(),
    )
    by_unit = dict(pairs)
    weights = np.array([float(by_unit[unit]) for unit in range(d)])
    constant = r_squared(table.rewards, table.rewards, np.ones(len(x))) is None  # it varies by rounding, or not at all
    errors = None if table.exact else tuple(wls(x, table.rewards, kernel, shares).errors.tolist())
    return LimeExplanation(
        units=table.units,
        weights=tuple(weights.tolist()),
        intercept=float(intercept),
        r2=None if constant else float(r2),
        prediction=float(prediction[0]),
        reward=table.reward,
        baseline=table.baseline,
        exact=table.exact,
        standard_errors=errors,
        held_out_r2=None if table.exact or constant else _held_out(x, table.rewards, kernel, shares),
        masks=len(masks),
        draws=0 if table.draws is None else int(table.draws.sum()),
        # What is put in the place of a unit has a length of its own.
        length=_length(table.units, x, table.rewards, kernel * shares, weights)
        if table.perturbation in ("remove", "placeholder")
        else None,
    )


def _held_out(x: np.ndarray, y: np.ndarray, kernel: np.ndarray, shares: np.ndarray) -> float | None:
    """R² on every fifth drawn mask (in the order of drawing, so at random) of a fit on the others."""
    apart = np.arange(len(x)) % _HELD_OUT == _HELD_OUT - 1
    fit = wls(x[~apart], y[~apart], kernel[~apart], shares[~apart])
    return r_squared(y[apart], fit.predict(x[apart]), (kernel * shares)[apart])


def _length(units: Units, x: np.ndarray, y: np.ndarray, weights: np.ndarray, lime: np.ndarray) -> Length:
    share = sizes(units) / sizes(units).sum()
    kept = (x @ share)[:, None]
    fit = wls(kept, y, weights, np.ones(len(x)))
    slope = float(fit.weights[0])
    return Length(slope, r_squared(y, fit.predict(kept), weights), tuple((lime - slope * share).tolist()))
