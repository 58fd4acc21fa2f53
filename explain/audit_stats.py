"""The tests of an audit: linear models with robust errors, means of paired changes, Holm's correction. numpy, and
scipy's t distribution when one is asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

INTERVAL = 0.95
MIN_ROWS = 20  # rows in which something must vary before it is tested at all


@dataclass(frozen=True)
class Effect:
    """An estimate with its standard error, 95 % interval, two-sided p and number of rows."""

    value: float
    se: float
    low: float
    high: float
    p: float
    n: int


def effect(value: float, se: float, df: int, n: int) -> Effect:
    """An estimate over n rows by Student's t. p is at least 2^(1 - n), the least that n signs can show, so that
    changes without any spread do not pass for certainty."""
    from scipy.stats import t  # half a second, so only here

    half = float(t.ppf(0.5 + INTERVAL / 2, df)) * se
    p = 2 * float(t.sf(abs(value) / se, df)) if se > 0 else float(value == 0)
    return Effect(float(value), float(se), value - half, value + half, min(1.0, max(p, 2.0 ** (1 - n))), n)


def mean_effect(values: Sequence[float] | np.ndarray) -> Effect | None:
    """Mean of paired changes, by the t test; None for fewer than `MIN_ROWS`."""
    data = np.asarray(values, dtype=float)
    if len(data) < MIN_ROWS:
        return None
    spread = float(data.std(ddof=1)) if np.ptp(data) > 0 else 0.0  # not the rounding of equal numbers
    return effect(float(data.mean()), spread / math.sqrt(len(data)), len(data) - 1, len(data))


def independent_columns(x: np.ndarray, off: np.ndarray) -> list[int]:
    """Which columns of x float[n, k] a linear model can tell apart: from the left, those that are no combination of
    the ones before; off bool[n, k]: where each is off its usual value, in at least `MIN_ROWS` rows."""
    kept: list[int] = []
    for column in np.flatnonzero(off.sum(axis=0) >= MIN_ROWS).tolist():
        if np.linalg.matrix_rank(x[:, [*kept, column]]) == len(kept) + 1:
            kept.append(column)
    return kept


def regress(x: np.ndarray, y: np.ndarray, lost: int = 0) -> list[Effect] | None:
    """Coefficients of y float[n] on x float[n, k], no intercept, with HC3 errors (MacKinnon and White 1985).

    lost: degrees of freedom that centring has used. None where fewer than `MIN_ROWS` are left.
    """
    n, k = x.shape
    df = n - k - lost
    if df < MIN_ROWS or k == 0:
        return None
    inverse = np.linalg.inv(x.T @ x)
    coefficients = inverse @ x.T @ y
    leverage = np.einsum("ij,jk,ik->i", x, inverse, x)
    residuals = (y - x @ coefficients) / np.maximum(1 - leverage, 1e-6)
    errors = np.linalg.norm(x * residuals[:, None] @ inverse, axis=0)
    tiny = 1e-12 * max(1.0, float(np.abs(y).max(initial=0.0)))  # what is left of an exact fit is rounding
    pairs = [
        [0.0 if abs(number) < tiny else number for number in both] for both in zip(coefficients, errors, strict=True)
    ]
    return [effect(value, error, df, n) for value, error in pairs]


def holm(p: Sequence[float]) -> list[float]:
    """p values adjusted for their number (Holm 1979): below the family's level where that test rejects."""
    adjusted, worst = [0.0] * len(p), 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        worst = max(worst, min(1.0, (len(p) - rank) * p[index]))
        adjusted[index] = worst
    return adjusted


def critical(level: float, tests: int, n: int) -> float:
    """How many standard errors an estimate from n rows must be off 0 to count, by the strictest of Holm's steps."""
    from scipy.stats import t

    return float(t.ppf(1 - level / max(tests, 1) / 2, max(n - 1, 1)))
