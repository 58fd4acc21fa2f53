"""Rows of token ids to padded tensors, and log-probabilities of the tokens that count."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from alignment.chat_format import ChatFormat
from alignment.errors import UsageError
from alignment.rows import place_of

MULTIPLE = 8
LOGITS = 2**24  # that are held at once: 64 MiB in float32


def width_of(tokens: int) -> int:
    """Width of a training batch whose longest sequence has ``tokens``: the next multiple of 8.

    oneDNN compiles its kernels for every new shape and keeps them: on a CPU each width that had not occurred cost
    about 0.1 s and 15 MB (measured on the embedded model), and 40 steps met 30 widths. It suits tensor cores too.
    """
    return -(-tokens // MULTIPLE) * MULTIPLE


def pad(rows: Sequence[Sequence[int]], pad_id: int, left: bool = False, rounded: bool = False) -> tuple[Tensor, Tensor]:
    """int64 ids and mask [B, T] of ragged rows, padded to the longest, or ``rounded`` to a training batch's width.
    The mask, never the id, marks padding: the padding token may be the end-of-text token."""
    width = max(len(row) for row in rows)
    width = width_of(width) if rounded else width
    ids = torch.full((len(rows), width), pad_id, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for i, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(0, len(row))
        ids[i, place] = torch.tensor(row, dtype=torch.long)
        mask[i, place] = 1
    return ids, mask


def encode_completion(chat: ChatFormat, row: dict[str, Any]) -> tuple[list[int], list[int]]:
    """Ids and labels of a supervised row: the prompt and the row's ``prefix`` carry the label -100 (no loss)."""
    before = chat.prompt_ids(row["prompt"]) + chat.text_ids(row.get("prefix", ""))
    after = [*chat.text_ids(row["completion"]), chat.eos_id]
    return before + after, [-100] * len(before) + after


def encode_rows(chat: ChatFormat, rows: Sequence[dict[str, Any]], max_length: int) -> list[dict[str, list[int]]]:
    """``input_ids`` and ``labels`` of supervised rows, cut to ``max_length``; raises UsageError for a row of which
    nothing is left to learn."""
    encoded = []
    for number, row in enumerate(rows, 1):
        ids, labels = encode_completion(chat, row)
        ids, labels = ids[:max_length], labels[:max_length]
        if all(label == -100 for label in labels):
            raise UsageError(
                f"{place_of(row, number, 'supervised')}: the prompt alone fills sft.max_length ({max_length} tokens); "
                "raise it, or set sft.long_rows to skip"
            )
        encoded.append({"input_ids": ids, "labels": labels})
    return encoded


def encode_scored(chat: ChatFormat, prompt: Sequence[dict[str, str]], response: str, drop: int = 0) -> list[int]:
    """Ids of a text that gets a scalar: it is read at the response's last token that is not white space. ``drop``
    tokens of the prompt's contents are left out, from the beginning on."""
    return chat.prompt_ids(prompt, drop) + chat.text_ids(response.rstrip())


def token_logprobs(
    backbone: Any,
    ids: Tensor,
    mask: Tensor,
    wanted: Tensor,
    temperature: float = 1.0,
    positions: Tensor | None = None,
) -> Tensor:
    """Log-probabilities of tokens given what stands before them, under the role that is entered.

    ``ids``, ``mask``: int64 [B, T]; ``wanted``: bool [B, T], never at column 0; ``positions``: int64 [B, T] where a
    row holds several texts, each from position 0, that must not see each other. Returns float32 [B, T] of
    log p(ids[:, t] | ids[:, :t]) with logits divided by ``temperature``, 0 where not wanted. Logits are computed at
    wanted positions only.
    """
    if positions is None:
        hidden = backbone.hidden(ids, mask).last_hidden_state
    else:
        hidden = backbone.hidden_packed(ids, positions)
    return _at(wanted, of_targets(backbone, hidden[:, :-1][wanted[:, 1:]], ids[wanted], temperature)[0])


def token_logprobs_and_entropy(
    backbone: Any, ids: Tensor, mask: Tensor, wanted: Tensor, temperature: float = 1.0, entropy_grad: bool = False
) -> tuple[Tensor, Tensor]:
    """``token_logprobs``, and the entropy in nats of each token's distribution, float32 [B, T], which has a gradient
    only on ``entropy_grad``."""
    states = backbone.hidden(ids, mask).last_hidden_state[:, :-1][wanted[:, 1:]]
    logp, entropies = of_targets(backbone, states, ids[wanted], temperature, "grad" if entropy_grad else "value")
    return _at(wanted, logp), _at(wanted, entropies)


def of_targets(
    backbone: Any, states: Tensor, targets: Tensor, temperature: float = 1.0, entropy: str = "none"
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of ``targets`` int64 [N] after the hidden states [N, H], and entropies ("none": zeros; "value"
    without, "grad" with gradient), float32 [N].

    As many positions at a time as have ``LOGITS`` logits: a vocabulary's row is as wide as a layer's many hidden
    states, and the logits of a whole batch would outweigh the model. Where there are several parts, the backward pass
    computes each part's logits again (Chen et al. 2016, arXiv 1604.06174).
    """
    size = max(1, LOGITS // backbone.vocabulary)
    if len(states) <= size:
        return _part(backbone, states, targets, temperature, entropy)
    parts = []
    for some, those in zip(states.split(size), targets.split(size), strict=True):
        if torch.is_grad_enabled():
            part = checkpoint(
                _part, backbone, some, those, temperature, entropy, use_reentrant=False, preserve_rng_state=False
            )
        else:
            part = _part(backbone, some, those, temperature, entropy)
        parts.append(part)
    logp, entropies = zip(*parts, strict=True)
    return torch.cat(logp), torch.cat(entropies)


def _part(backbone: Any, states: Tensor, targets: Tensor, temperature: float, entropy: str) -> tuple[Tensor, Tensor]:
    logits = backbone.logits(states)
    logp = (logits if temperature == 1.0 else logits / temperature).log_softmax(-1)
    del logits
    chosen = logp.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    if entropy == "none":
        return chosen, torch.zeros_like(chosen)
    measured = logp if entropy == "grad" else logp.detach()
    return chosen, -(measured.exp() * measured).sum(-1)


def _at(wanted: Tensor, values: Tensor) -> Tensor:
    """``values`` [N] at the N wanted places of a float32 [B, T] that is 0 elsewhere."""
    return torch.zeros(wanted.shape, device=wanted.device).masked_scatter(wanted, values)
