"""Win rates: hand-worked, and the bias of a judge that counts words taken out."""

import numpy as np
import pytest

from alignment.calibration import sigmoid
from alignment.win_rate import length_controlled, preferences, win_rate


def test_a_tie_counts_half() -> None:
    assert preferences([1, 2, 3], [2, 2, 1]).tolist() == [0, 0.5, 1]
    assert win_rate(preferences([1, 2, 3], [2, 2, 1]))["value"] == 0.5


def test_equal_lengths_leave_the_win_rate_as_it_is() -> None:
    wins = np.array([1.0] * 30 + [0.0] * 70)
    assert length_controlled(wins, [5] * 100, [5] * 100)["value"] == pytest.approx(0.3, abs=1e-3)


@pytest.mark.parametrize("better", [0.0, 0.8])
def test_what_a_judge_gives_for_length_is_taken_out(better: float) -> None:
    # preferences drawn from P = sigmoid(better + 1.5 tanh(d / s)), where the first text is the longer one mostly
    rng = np.random.default_rng(1)
    difference = rng.normal(8, 10, 3000)
    p = sigmoid(better + 1.5 * np.tanh(difference / difference.std()))
    judged = rng.random(3000) < p
    assert win_rate(judged)["value"] > sigmoid(better) + 0.08
    found = length_controlled(judged, difference, np.zeros(3000))
    assert found["low"] < sigmoid(better) < found["high"]
    assert found["high"] - found["low"] < 0.07


@pytest.mark.parametrize("wins", [[1.0] * 8, [0.0] * 8])
def test_all_won_and_all_lost_are_finite(wins: list[float]) -> None:
    found = length_controlled(wins, range(8), [3] * 8)
    assert abs(found["value"] - wins[0]) < 0.05


def test_what_are_no_pairs_is_refused() -> None:
    with pytest.raises(ValueError, match="do not make pairs"):
        length_controlled([1.0], [1, 2], [1, 2])
