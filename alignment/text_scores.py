"""Scores and log-probabilities of texts that are given, some rows at a time, and what decides them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from alignment.backbone import Backbone
from alignment.batch import pad, token_logprobs
from alignment.decoding import prefill
from alignment.flight import Usage
from alignment.prefix_tree import knows, last_states

SCORE_ROWS = 32  # rows per forward


def scores(backbone: Backbone, rows: Sequence[list[int]], role: str, usage: Usage) -> list[float]:
    """The scalar of ``role`` at the last token of each row of ids; ``usage`` counts what went through the model. Rows
    that are the same are computed once."""
    distinct = list(dict.fromkeys(map(tuple, rows)))
    found: dict[tuple[int, ...], float] = {}
    read = last_states if knows(backbone) else _padded
    with backbone.role(role), torch.no_grad():
        for numbers, states, count in read(backbone, distinct):
            usage.scored += count
            values = backbone.scalar(role, states).tolist()
            found |= {distinct[i]: value for i, value in zip(numbers, values, strict=True)}
    return [found[tuple(row)] for row in rows]


def _padded(backbone: Backbone, rows: Sequence[tuple[int, ...]]) -> Iterator[tuple[list[int], Tensor, int]]:
    """As ``last_states``, for any model: some rows at a time, padded, what all of them begin with computed once."""
    order = sorted(range(len(rows)), key=lambda i: rows[i])  # neighbours share a prefix
    for start in range(0, len(order), SCORE_ROWS):
        chunk = order[start : start + SCORE_ROWS]
        hidden, mask, _ = prefill(backbone, [list(rows[i]) for i in chunk], left=False)
        skipped = mask.shape[1] - hidden.shape[1]
        last = hidden[torch.arange(len(chunk)), mask.sum(-1) - 1 - skipped]
        yield chunk, last, int(mask.sum()) - skipped * (len(chunk) - 1)


def logprobs(
    backbone: Backbone, prompts: Sequence[list[int]], ids: Sequence[Sequence[int]], role: str, temperature: float
) -> list[list[float]]:
    """Log-probabilities in nats of the tokens ``ids`` after ``prompts`` under ``role``."""
    found: list[list[float]] = []
    with backbone.role(role), torch.no_grad():
        for start in range(0, len(ids), SCORE_ROWS):
            before, after = prompts[start : start + SCORE_ROWS], ids[start : start + SCORE_ROWS]
            rows, mask = pad([[*p, *r] for p, r in zip(before, after, strict=True)], backbone.chat.pad_id)
            wanted: Tensor = mask.bool()
            for i, prompt in enumerate(before):
                wanted[i, : len(prompt)] = False
            logp = token_logprobs(backbone, rows, mask, wanted, temperature)
            found += [logp[i][wanted[i]].tolist() for i in range(len(before))]
    return found


def fingerprint(backbone: Backbone) -> dict[str, Any]:
    """What decides a score: base weights, storage, arithmetic and adapters, for cache keys and records."""
    digests = {}
    for role in backbone.roles[1:]:
        digest = hashlib.sha256()
        for name, value in backbone.weights(role).items():
            digest.update(name.encode() + value.float().cpu().numpy().tobytes())
        digests[role] = digest.hexdigest()
    config = backbone.config
    template = str(getattr(backbone.tokenizer, "chat_template", ""))
    return {
        "backbone": backbone.sha256,
        "quantization": config.quantization,
        "compute_dtype": config.compute_dtype,
        "adapters": digests,
        "scales": {role: list(scale) for role, scale in sorted(backbone.scales.items())},
        "chat_template": hashlib.sha256(template.encode()).hexdigest(),
    }
