"""The optimizer and the learning-rate schedule of our own training loops."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from itertools import count, islice
from typing import Any

import torch
from torch import nn


def adamw(parameters: Iterable[nn.Parameter] | list[dict[str, Any]], learning_rate: float) -> torch.optim.AdamW:
    """AdamW without weight decay; eps 1e-5 keeps the first PPO steps small (Huang et al., arXiv 2403.17031). Groups may
    have a ``scale``, by which ``set_learning_rate`` multiplies the rate."""
    return torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.999), eps=1e-5, weight_decay=0.0)


def set_learning_rate(optimizer: torch.optim.Optimizer, peak: float, step: int, total: int, warmup: int = 0) -> float:
    """Linear warm-up over ``warmup`` steps, then linear decay to 0; ``step`` counts from 0. A pure function of the
    step, so that nothing of it needs to be saved."""
    rate = peak * min((step + 1) / max(warmup, 1), (total - step) / max(total - warmup, 1), 1.0)
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("scale", 1.0)
    return rate


def batch_indices(n: int, size: int, step: int, seed: str) -> list[int]:
    """Rows of ``step``: a pure function, so that a resumed training sees the same ones. Each epoch is reshuffled."""
    orders: dict[int, list[int]] = {}
    found = []
    for position in range(step * size, (step + 1) * size):
        epoch, place = divmod(position, n)
        if epoch not in orders:
            orders[epoch] = shuffled(n, f"{seed}/{epoch}")
        found.append(orders[epoch][place])
    return found


def length_grouped(lengths: Sequence[int], size: int, steps: int, seed: str) -> list[list[int]]:
    """Rows of every step: batches of ``size`` rows of similar length, in random order.

    Rows are shuffled each epoch, sorted by length inside windows of 16 batches, and the batches of a window are
    shuffled again: sorted batches alone would bring the longest rows of every window first, and the loss jumps.
    """
    window = 16 * size
    positions = (i for epoch in count() for i in shuffled(len(lengths), f"{seed}/{epoch}"))
    found: list[list[int]] = []
    while len(found) < steps:
        rows = sorted(islice(positions, window), key=lambda i: lengths[i])
        order = shuffled(16, f"{seed}/window/{len(found)}")
        found += [rows[i * size : (i + 1) * size] for i in order]
    return found[:steps]


def shuffled(n: int, seed: str) -> list[int]:
    """0..n-1 in an order that ``seed`` decides."""
    order = list(range(n))
    random.Random(seed).shuffle(order)
    return order
