"""Best-of-n at equal KL: the baseline of every policy that was trained towards a reward."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np


def kl_of_best(n: int) -> float:
    """KL of best-of-n from what it samples, in nats; the exact value where no two rewards are equal, else a bound."""
    return math.log(n) - (n - 1) / n


def expected_of_best(judged: Sequence[float], measured: Sequence[float], n: int) -> float:
    """Mean of ``measured`` for the best by ``judged`` of n samples, over all choices of n from this pool: unbiased,
    where drawing again and again from the pool with replacement is not."""
    order = sorted(range(len(judged)), key=judged.__getitem__)
    wins = [math.comb(below, n - 1) for below in range(len(order))]  # choices in which the one of this rank is best
    return sum(w * measured[i] for w, i in zip(wins, order, strict=True)) / math.comb(len(order), n)


def at_equal_kl(points: Sequence[dict[str, Any]], key: str, kl: float) -> float | None:
    """What best-of-n has at this KL, straight lines between its points over the root of KL; None beyond them."""
    if not 0 <= kl <= points[-1]["kl"]:
        return None
    return float(np.interp(kl**0.5, [p["kl"] ** 0.5 for p in points], [p[key]["value"] for p in points]))
