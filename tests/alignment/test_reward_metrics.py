"""The held-out figures of a reward model, against hand-worked numbers."""

from __future__ import annotations

import numpy as np
import pytest

from alignment import calibration
from alignment.reward_metrics import pair_results, score_results


def test_pairs_by_hand() -> None:
    # right, right, wrong, and a tie, which is wrong
    results = pair_results([2, 1, 0, 3], [0, 0, 1, 3], [1, 2, 3, 4, 5, 6, 7, 8])
    assert results["pair_accuracy"]["value"] == 0.5 and results["pair_accuracy"]["n"] == 4
    # of 16: 2 is above 0 0 1, 1 above 0 0 and equal to 1, 0 equal to 0 0, 3 above 0 0 1 and equal to 3
    assert results["auc"]["value"] == pytest.approx((3 + 2.5 + 1 + 3.5) / 16)
    assert results["length_correlation"] == pytest.approx(
        float(np.corrcoef([2, 1, 0, 3, 0, 0, 1, 3], range(1, 9))[0, 1])
    )


def test_calibration_is_fitted_on_one_half_and_measured_on_the_other() -> None:
    rng = np.random.default_rng(3)
    differences = rng.normal(1, 2, 101)
    results = pair_results(differences, np.zeros(101), [0] * 202)
    order = np.random.default_rng(0).permutation(101)
    temperature = calibration.fit_temperature(differences[order[:50]])
    p = 1 / (1 + np.exp(-differences[order[50:]] / temperature))
    assert results["temperature"] == temperature
    assert results["brier"]["value"] == pytest.approx(((1 - p) ** 2).mean()) and results["brier"]["n"] == 51
    assert results["ece"] == pytest.approx(calibration.expected_calibration_error(p))
    assert sum(point["n"] for point in results["reliability"]) == 51


def test_three_pairs_are_too_few_to_calibrate() -> None:
    assert "temperature" not in pair_results([1, 2, 3], [0, 0, 0], [1] * 6)


def test_scores_by_hand() -> None:
    results = score_results([1, 2, 4], [1, 3, 2], [5, 6, 7], constant=2.0)
    # errors 0, 1, 2; of the constant 1, 1, 0
    assert results["mae"]["value"] == 1 and results["mae_of_constant"] == pytest.approx(2 / 3)
    # ranks 1 2 3 and 1 3 2: 1 - 6 (0 + 1 + 1) / (3 * 8)
    assert results["spearman"]["value"] == pytest.approx(0.5)
    # deviations -4/3 -1/3 5/3 and -1 1 0: 1 / sqrt(42/9 * 2)
    assert results["pearson"]["value"] == pytest.approx(1 / np.sqrt(42 / 9 * 2))


def test_a_constant_prediction_has_no_correlation() -> None:
    results = score_results([2, 2, 2], [1, 2, 3], [1, 2, 3])
    assert results["pearson"] is None and results["spearman"] is None and "mae_of_constant" not in results
