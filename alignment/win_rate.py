"""Which of two models writes the better answers, by a judge's preference for each pair of answers. numpy only."""

from __future__ import annotations

import numpy as np

from alignment.calibration import sigmoid
from alignment.statistics import Interval, Numbers, paired_bootstrap, share

RIDGE = 1e-4  # per pair, on both coefficients: where all pairs are won, the likelihood alone has no maximum
ROUNDS = 100
UNTOLD = 0.9  # width of an interval of a share that says nothing


def preferences(rewards: Numbers, others: Numbers) -> np.ndarray:
    """1 where the first text of a pair has the higher reward, 0 where the second has, 0.5 for a tie."""
    return (np.sign(np.asarray(rewards, float) - np.asarray(others, float)) + 1) / 2


def win_rate(preferred: Numbers) -> Interval:
    """The mean of preferences in [0, 1], a tie counted half, with its interval over pairs."""
    return share(preferred)


def at_equal_length(
    preferred: Numbers, lengths: Numbers, other_lengths: Numbers
) -> tuple[Interval, None] | tuple[None, str]:
    """The win rate at equal length, or why these pairs cannot tell it. Raises ValueError as ``length_controlled``."""
    wanted = np.asarray(preferred, float)
    signs = set(np.sign(np.asarray(lengths, float) - np.asarray(other_lengths, float)).tolist())
    if signs == {0}:
        return win_rate(wanted), None
    if len(signs) == 1:
        return None, ": one side's texts are always the longer ones"
    if len(set(wanted.tolist())) == 1:  # then a regression goes by its ridge alone
        return None, ": all of them end alike"
    found = length_controlled(wanted, lengths, other_lengths)
    if found["high"] - found["low"] > UNTOLD:
        return None, f" (95 % interval {found['low']:.1%} to {found['high']:.1%})"
    return found, None


def length_controlled(preferred: Numbers, lengths: Numbers, other_lengths: Numbers) -> Interval:
    """The win rate that would be, were both texts of every pair equally long.

    A logistic regression of the preferences on an intercept and the tanh of the standardized difference in length,
    read at difference 0 (Dubois et al. 2024, arXiv 2404.04475, equation 1, without the difficulty of each instruction,
    which takes many models to estimate). The interval resamples pairs. Raises ValueError where the three are not of
    one length, or there is no pair.
    """
    wanted = np.asarray(preferred, float)
    difference = np.asarray(lengths, float) - np.asarray(other_lengths, float)
    if not len(wanted) or len(wanted) != len(difference):
        raise ValueError(f"{len(wanted)} preferences and {len(difference)} differences in length do not make pairs")
    spread = float(difference.std())
    longer = np.tanh(difference / spread) if spread else np.zeros_like(difference)
    found = paired_bootstrap(lambda rows: _at_equal_length(longer[rows], wanted[rows]), len(wanted))
    assert found is not None
    return found


def _at_equal_length(longer: np.ndarray, wanted: np.ndarray) -> float:
    """Newton's method on the penalized log-likelihood of soft labels."""
    inputs = np.stack([np.ones_like(longer), longer], axis=1)
    weights = np.zeros(2)
    penalty = RIDGE * np.eye(2) * len(wanted)
    for _ in range(ROUNDS):
        p = sigmoid(inputs @ weights)
        gradient = inputs.T @ (wanted - p) - penalty @ weights
        step = np.linalg.solve((inputs * (p * (1 - p))[:, None]).T @ inputs + penalty, gradient)
        weights += np.clip(step, -2, 2)  # a step from where all is won would overshoot
        if np.abs(step).max() < 1e-10:
            break
    return float(sigmoid(weights[0]))
