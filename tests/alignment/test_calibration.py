"""Calibration against hand-worked numbers, and against samples whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignment import calibration


def test_reliability_ece_and_brier_by_hand() -> None:
    p = [0.9, 0.95, 0.2, 0.5]  # right with .9 and .95, wrong with .8, a tie is wrong
    # bins of width 1/30 from .5: .5 -> 0, .8 -> 9, .9 -> 12, .95 -> 13
    curve = calibration.reliability(p)
    assert [round(b["confidence"], 6) for b in curve] == [0.5, 0.8, 0.9, 0.95]
    assert [b["accuracy"] for b in curve] == [0, 0, 1, 1] and [b["n"] for b in curve] == [1, 1, 1, 1]
    assert calibration.expected_calibration_error(p) == pytest.approx((0.5 + 0.8 + 0.1 + 0.05) / 4)
    assert calibration.brier(p) == pytest.approx((0.01 + 0.0025 + 0.64 + 0.25) / 4)
    # one bin: mean confidence (.9 + .95 + .8 + .5) / 4, accuracy 1/2
    assert calibration.expected_calibration_error(p, bins=1) == pytest.approx(0.7875 - 0.5)


def test_temperature_by_hand() -> None:
    # three pairs right by 1 and one wrong by 1: sigmoid(1 / T) = 3/4, so T = 1 / log 3
    assert calibration.fit_temperature([1, 1, 1, -1]) == pytest.approx(1 / np.log(3), rel=1e-6)


@given(st.floats(0.05, 20), st.floats(0.1, 50))
def test_temperature_follows_the_unit_of_the_rewards(scale: float, unit: float) -> None:
    d = scale * np.random.default_rng(0).normal(0.7, 1, 200)
    assert calibration.fit_temperature(unit * d) == pytest.approx(unit * calibration.fit_temperature(d), rel=1e-6)


def test_temperature_recovers_the_truth_and_calibrates() -> None:
    """Preferences drawn from known probabilities, rewards three times too large: T is 3, and ECE and Brier improve."""
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 1.5, 20000)
    first_wins = rng.random(20000) < calibration.sigmoid(logits)
    differences = 3 * np.where(first_wins, logits, -logits)
    fit, rest = differences[::2], differences[1::2]
    temperature = calibration.fit_temperature(fit)
    assert temperature == pytest.approx(3, rel=0.05)
    before, after = (calibration.probabilities(rest, t) for t in (1.0, temperature))
    assert calibration.expected_calibration_error(after) < 0.02 < calibration.expected_calibration_error(before)
    assert calibration.brier(after) < calibration.brier(before)


@pytest.mark.parametrize("d", [[1.0, 2.0, 3.0], [-1.0, -2.0], [0.0, 0.0]])
def test_temperature_is_finite_where_there_is_no_best_one(d: list[float]) -> None:
    temperature = calibration.fit_temperature(d)
    assert 0 < temperature < np.inf
    p = calibration.probabilities(d, temperature)
    assert np.isfinite(p).all() and 0 <= calibration.brier(p) < 0.251
