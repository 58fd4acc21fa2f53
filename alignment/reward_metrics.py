"""What a reward model is worth on held-out rows: figures from its rewards alone. numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from alignment import calibration
from alignment.statistics import Numbers, auc, bootstrap, correlation, paired_bootstrap, spearman, wilson

FEWEST = 4  # pairs, of which half fit the temperature


def pair_results(chosen: Numbers, rejected: Numbers, lengths: Sequence[int]) -> dict[str, Any]:
    """Figures of N pairs: ``pair_accuracy`` (a tie is wrong), ``auc``, and the calibration of the pairs' probabilities.

    The ``temperature`` is fitted on one random half of the pairs; ``ece`` (15 bins of equal width in confidence
    max(p, 1 - p), from 0.5 to 1), ``brier`` and the points of ``reliability`` are of the other half.
    ``length_correlation`` is Pearson's r of all 2 N rewards with ``lengths`` [chosen, then rejected] in tokens.
    """
    good, bad = np.asarray(chosen, float), np.asarray(rejected, float)
    results: dict[str, Any] = {
        "pair_accuracy": wilson(int((good > bad).sum()), len(good)),
        "auc": paired_bootstrap(lambda i: auc(good[i], bad[i]), len(good)),
        "length_correlation": correlation([*good, *bad], lengths),
    }
    if len(good) < FEWEST:
        return results
    order = np.random.default_rng(0).permutation(len(good))
    fit, rest = order[: len(order) // 2], order[len(order) // 2 :]
    temperature = calibration.fit_temperature((good - bad)[fit])
    p = calibration.probabilities((good - bad)[rest], temperature)
    return results | {
        "temperature": temperature,
        "ece": calibration.expected_calibration_error(p),  # no interval: resamples of a sample have a larger ECE
        "brier": bootstrap((1 - p) ** 2),
        "reliability": calibration.reliability(p),
    }


def score_results(
    predicted: Numbers, scores: Numbers, lengths: Sequence[int], constant: float | None = None
) -> dict[str, Any]:
    """Figures of N predicted scores: ``pearson`` and ``spearman`` correlation, ``mae`` in the unit of the scores, and
    ``mae_of_constant``, that of predicting ``constant`` for every text (the mean of the training scores)."""
    guess, truth = np.asarray(predicted, float), np.asarray(scores, float)
    results: dict[str, Any] = {
        "pearson": paired_bootstrap(lambda i: correlation(guess[i], truth[i]), len(truth)),
        "spearman": paired_bootstrap(lambda i: spearman(guess[i], truth[i]), len(truth)),
        "mae": bootstrap(np.abs(guess - truth)),
        "length_correlation": correlation(guess, lengths),
    }
    return results if constant is None else results | {"mae_of_constant": float(np.abs(constant - truth).mean())}
