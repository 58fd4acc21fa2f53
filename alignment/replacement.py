"""Sampling without replacement from a model of sequences: what was written already is not drawn again.

Shi, Bieber and Sutton, "Incremental Sampling Without Replacement for Sequence Models" (ICML 2020, arXiv 2002.09067):
at each token the probability of every continuation is lowered by the share of it that has been drawn before. Beside
rejection it costs no second draw, and unlike a ban of the last token that would repeat a text, it turns away where the
model itself would have: a ban there forces a text that is wrong to its last but one token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alignment.decoding import Completion

# What is written in place of a repetition may be that much less likely; where all else is less likely still (a grammar
# that has no other text, say), it is repeated.
LEAST = 1e-9


def shares_left(written: Sequence[Completion], ids: Sequence[int]) -> dict[int, float]:
    """After ``ids``: token -> the share of what may follow with it, ``LEAST`` to 1, that is not among ``written``, for
    the tokens that some of them have there. Those must be of one prompt, temperature and grammar; one that was cut has
    no probability of its own, and counts for nothing."""
    n = len(ids)
    left: dict[int, float] = {}
    for one in {one.ids: one for one in written if one.finish in ("eos", "stop")}.values():
        if len(one.ids) > n and one.ids[:n] == tuple(ids):
            left[one.ids[n]] = left.get(one.ids[n], 1.0) - math.exp(sum(one.draw_logprobs[n + 1 :]))
    return {token: max(share, LEAST) for token, share in left.items()}
