"""The optimizer and the learning-rate schedule of our own training loops."""

from __future__ import annotations

import random
from collections.abc import Iterable

import torch
from torch import nn


def adamw(parameters: Iterable[nn.Parameter], learning_rate: float) -> torch.optim.AdamW:
    """AdamW without weight decay; eps 1e-5 keeps the first PPO steps small (Huang et al., arXiv 2403.17031)."""
    return torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.999), eps=1e-5, weight_decay=0.0)


def set_learning_rate(optimizer: torch.optim.Optimizer, peak: float, step: int, total: int, warmup: int = 0) -> float:
    """Linear warm-up over ``warmup`` steps, then linear decay to 0; ``step`` counts from 0. A pure function of the
    step, so that nothing of it needs to be saved."""
    rate = peak * min((step + 1) / max(warmup, 1), (total - step) / max(total - warmup, 1), 1.0)
    for group in optimizer.param_groups:
        group["lr"] = rate
    return rate


def batch_indices(count: int, size: int, step: int, seed: str) -> list[int]:
    """Rows of ``step``: a pure function, so that a resumed training sees the same ones. Each epoch is reshuffled."""
    orders: dict[int, list[int]] = {}
    found = []
    for position in range(step * size, (step + 1) * size):
        epoch, place = divmod(position, count)
        if epoch not in orders:
            orders[epoch] = list(range(count))
            random.Random(f"{seed}/{epoch}").shuffle(orders[epoch])
        found.append(orders[epoch][place])
    return found
