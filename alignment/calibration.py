"""How far a reward model's probabilities can be trusted. numpy only.

A pair's rewards say p = P(chosen is preferred) = sigmoid((r_chosen - r_rejected) / T), Bradley and Terry's model with
one temperature T (Guo et al. 2017, arXiv 1706.04599, section 4.2). The prediction is the text with the higher reward,
its confidence max(p, 1 - p), and it is right where that text is the chosen one; a tie is wrong.
"""

from __future__ import annotations

import numpy as np

from alignment.statistics import Numbers

BINS = 15


def fit_temperature(differences: Numbers) -> float:
    """The T > 0 with the smallest negative log-likelihood, mean log(1 + exp(-d / T)), of d = r_chosen - r_rejected [N].

    The likelihood is concave in 1 / T, so its slope is bisected. T stays within 1/1000 to 1000 times the root mean
    square of the differences: there is no best T where every pair is right, or where chance would do better.
    """
    d = np.asarray(differences, float)
    scale = float(np.sqrt((d**2).mean())) or 1.0
    low, high = 1e-3, 1e3  # of 1 / T, on differences of root mean square 1
    for _ in range(100):
        middle = float(np.sqrt(low * high))
        slope = float((d / scale * sigmoid(-middle * d / scale)).mean())  # of the log-likelihood
        low, high = (middle, high) if slope > 0 else (low, middle)
    return scale / middle


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * x))


def probabilities(differences: Numbers, temperature: float) -> np.ndarray:
    """P(chosen is preferred) [N] of d = r_chosen - r_rejected [N]."""
    return sigmoid(np.asarray(differences, float) / temperature)


def brier(chosen: Numbers) -> float:
    """Mean of (1 - p)^2 over p = P(chosen is preferred) [N]: 0 is perfect, 0.25 is a coin (Brier 1950, who sums over
    both outcomes, which is twice this)."""
    return float(((1 - np.asarray(chosen, float)) ** 2).mean())


def reliability(chosen: Numbers, bins: int = BINS) -> list[dict[str, float]]:
    """The reliability curve of p = P(chosen is preferred) [N]: for each bin that is not empty its mean ``confidence``,
    its ``accuracy`` and its ``n``. Bins have equal width in confidence, from 0.5 to 1."""
    p = np.asarray(chosen, float)
    confidence, right = np.maximum(p, 1 - p), p > 0.5
    place = np.minimum(((confidence - 0.5) * 2 * bins).astype(int), bins - 1)
    return [
        {"confidence": float(confidence[here].mean()), "accuracy": float(right[here].mean()), "n": int(here.sum())}
        for here in (place == i for i in range(bins))
        if here.any()
    ]


def expected_calibration_error(chosen: Numbers, bins: int = BINS) -> float:
    """ECE: the mean of |accuracy - confidence| over the bins of ``reliability``, weighted by their n (Guo et al. 2017,
    equation 3). Even perfect probabilities have an ECE above 0 in a small sample."""
    curve = reliability(chosen, bins)
    return sum(b["n"] * abs(b["accuracy"] - b["confidence"]) for b in curve) / sum(b["n"] for b in curve)
