"""Sampling by the Gumbel-max trick: the argmax of logits and Gumbel noise is a draw from their softmax (Maddison et al.
2014, arXiv 1411.0030).

By inverse CDF a token hangs on the sum of all probabilities before it, so that rounding in any of them moves it: over a
vocabulary of 49,152 nearly half of the tokens of a flat distribution in bfloat16 came out otherwise in another batch,
and some in float32. Here it hangs on the largest alone. Fresh noise for a whole vocabulary costs more than the rest of
sampling, so it is read from two tables, each at a random place: the greater of two independent Gumbel variables is one
too, log 2 higher, and there are 2^40 pairs of places. (Places of one table could hand two tokens the same number.)
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

PLACES = 2**20


@lru_cache(1)
def table(width: int, device: torch.device) -> Tensor:
    """Standard Gumbel noise, float32 [2, PLACES + width]; the same for every process."""
    uniform = np.random.default_rng(20261123).random((2, PLACES + width))
    return torch.from_numpy((-np.log(-np.log(np.clip(uniform, 1e-300, None)))).astype(np.float32)).to(device)


def draw(
    logits: Tensor, streams: Sequence[random.Random | None], allowed: Sequence[Tensor | None] | None = None
) -> list[int]:
    """One token per row of float32 ``logits`` [B, V]: the most probable one where the row has no stream. ``allowed``,
    int64 [n] of a row: others are never drawn. Nor is a logit of minus infinity, while there is another."""
    width = logits.shape[1]
    noise = table(width, logits.device)
    place = torch.empty(width, device=logits.device)  # a row at a time: it stays in the processor's cache
    tokens = []
    for i, (row, stream) in enumerate(zip(logits, streams, strict=True)):
        few = allowed[i] if allowed else None
        chances = row if few is None else row[few]
        if stream is not None:
            first, second = stream.randrange(PLACES), stream.randrange(PLACES)
            if few is None:
                chances = torch.maximum(noise[0, first : first + width], noise[1, second : second + width], out=place)
                chances += row
            else:
                chances += torch.maximum(noise[0, first + few], noise[1, second + few])
        best = int(chances.argmax())
        tokens.append(best if few is None else int(few[best]))
    return tokens
