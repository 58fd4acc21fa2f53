"""Masks (which units are kept) and the weights that LIME for text gives them."""

from __future__ import annotations

from collections.abc import Iterable
from math import comb

import numpy as np


def all_masks(d: int) -> np.ndarray:
    """Every mask over d units, bool[2^d, d]; row 0 keeps everything, the last row nothing.

    Row i is the binary number 2^d - 1 - i with unit j as bit j.
    """
    codes = np.arange(2**d)[::-1]
    return ((codes[:, None] >> np.arange(d)) & 1).astype(bool)


def row_keeping(kept: Iterable[int], d: int) -> int:
    """The row of `all_masks(d)` that keeps exactly these units."""
    return 2**d - 1 - sum(1 << unit for unit in set(kept))


def lime_distances(masks: np.ndarray) -> np.ndarray:
    """Cosine distance of each mask to the all-ones mask, times 100, as in lime.lime_text; float[n]."""
    return 100.0 * (1.0 - np.sqrt(masks.mean(axis=1)))


def lime_kernel(distances: np.ndarray, width: float = 25.0) -> np.ndarray:
    """LimeTextExplainer's kernel: sqrt(exp(-D^2 / width^2)), width 25."""
    return np.sqrt(np.exp(-(distances**2) / width**2))


def lime_probabilities(masks: np.ndarray, num_samples: int = 5000) -> np.ndarray:
    """The expected share of each mask among LimeTextExplainer's samples; float[n], sums to 1 over all masks.

    lime_text draws how many units to remove uniformly from 1..d and then which, so a mask that removes k >= 1
    of d units has probability 1 / (d * C(d, k)). The text itself is not drawn: it is one of `num_samples`
    rows (lime's default 5000).
    """
    d = masks.shape[1]
    removed = d - masks.sum(axis=1)
    drawn = np.array([1.0 / (d * comb(d, int(count))) for count in removed]) * (num_samples - 1) / num_samples
    return np.where(removed == 0, 1.0 / num_samples, drawn)


def draw_masks(d: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """bool[count, d], as LimeTextExplainer draws: how many units to remove uniformly from 1..d, then which."""
    removed = rng.integers(1, d + 1, size=count)
    ranks = rng.random((count, d)).argsort(axis=1).argsort(axis=1)
    return ranks >= removed[:, None]
