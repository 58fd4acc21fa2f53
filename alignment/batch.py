"""Rows of token ids to padded tensors, and log-probabilities of the tokens that count."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from alignment.chat_format import ChatFormat


def pad(rows: Sequence[Sequence[int]], pad_id: int, left: bool = False) -> tuple[Tensor, Tensor]:
    """int64 ids and mask [B, T] of ragged rows, padded to the longest. The mask, never the id, marks padding:
    the padding token may be the end-of-text token."""
    width = max(len(row) for row in rows)
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


def encode_scored(chat: ChatFormat, prompt: Sequence[dict[str, str]], response: str) -> list[int]:
    """Ids of a text that gets a scalar: it is read at the response's last token that is not white space."""
    return chat.prompt_ids(prompt) + chat.text_ids(response.rstrip())


def token_logprobs(
    backbone: Any, ids: Tensor, mask: Tensor, wanted: Tensor, temperature: float = 1.0, entropy_grad: bool = False
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of tokens given what stands before them, under the role that is entered.

    ``ids``, ``mask``: int64 [B, T]; ``wanted``: bool [B, T], never at column 0. Returns float32 [B, T] of
    log p(ids[:, t] | ids[:, :t]) with logits divided by ``temperature``, and the entropy of each distribution in
    nats (with a gradient only on ``entropy_grad``); both 0 where not wanted. Logits are computed at wanted positions
    only.
    """
    hidden = backbone.hidden(ids, mask).last_hidden_state[:, :-1]
    chosen = wanted[:, 1:]
    logits = backbone.logits(hidden[chosen]) / temperature
    logp = logits.log_softmax(-1)
    values = logp.gather(-1, ids[:, 1:][chosen].unsqueeze(-1)).squeeze(-1)
    measured = logp if entropy_grad else logp.detach()
    entropies = -(measured.exp() * measured).sum(-1)
    zeros = torch.zeros(ids.shape, dtype=torch.float32, device=ids.device)

    def spread(found: Tensor) -> Tensor:
        return torch.cat([zeros[:, :1], zeros[:, 1:].masked_scatter(chosen, found)], dim=1)

    return spread(values), spread(entropies)
