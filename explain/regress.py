"""Weighted least squares with standard errors that hold where the model does not fit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Fit:
    """intercept, weights float[d], and their standard errors float[d]."""

    intercept: float
    weights: np.ndarray
    errors: np.ndarray

    def predict(self, x: np.ndarray) -> np.ndarray:
        """float[n] of bool or float [n, d]."""
        return self.intercept + x @ self.weights


def wls(x: np.ndarray, y: np.ndarray, weights: np.ndarray, counts: np.ndarray) -> Fit:
    """Least squares of y float[n] on x [n, d] and a constant, each row weighted by weights * counts.

    counts: how many independent draws a row stands for. The errors are HC3 (MacKinnon and White, J. Econometrics
    1985): rows need not have one variance, nor the truth be linear, which is what a surrogate asks for.
    """
    design = np.column_stack([np.ones(len(x)), x])
    total = weights * counts
    inverse = np.linalg.pinv((design * total[:, None]).T @ design)
    root = np.sqrt(total)  # solved by orthogonalization: squaring the design would cost half the digits
    beta = np.linalg.lstsq(design * root[:, None], y * root, rcond=None)[0]
    leverage = weights * np.einsum("ij,jk,ik->i", design, inverse, design, optimize=True)  # of one draw
    residual = (y - design @ beta) / np.maximum(1.0 - leverage, 1e-3)
    meat = (design * (counts * (weights * residual) ** 2)[:, None]).T @ design
    errors = np.sqrt(np.maximum(np.diag(inverse @ meat @ inverse), 0.0))
    return Fit(float(beta[0]), beta[1:], errors[1:])


def r_squared(y: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> float | None:
    """The share of the weighted variance of y that is predicted, at most 1; None where y does not vary."""
    if weights.sum() <= 0:
        return None
    spread = float((weights * (y - np.average(y, weights=weights)) ** 2).sum())
    largest = float(np.abs(y).max(initial=0.0))
    if spread <= weights.sum() * (1e-12 * largest) ** 2:
        return None
    return 1.0 - float((weights * (y - predicted) ** 2).sum()) / spread
