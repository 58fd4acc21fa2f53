"""Rows of token ids to padded tensors, and log-probabilities of the tokens that count."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from alignment.chat_format import ChatFormat
from alignment.errors import UsageError
from alignment.rows import place_of

MULTIPLE = 8
HEAD_PART = 64  # places that get logits at once: 13 MB a copy at a vocabulary of 49,152


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
    logp = _distributions(backbone, ids, mask, wanted, temperature, positions)
    return _at(wanted, logp.gather(-1, ids[wanted].unsqueeze(-1)).squeeze(-1))


def token_logprobs_and_entropy(
    backbone: Any, ids: Tensor, mask: Tensor, wanted: Tensor, temperature: float = 1.0, entropy_grad: bool = False
) -> tuple[Tensor, Tensor]:
    """``token_logprobs``, and the entropy in nats of each token's distribution, float32 [B, T], which has a gradient
    only on ``entropy_grad``. For adapters: the output embedding gets no gradient."""
    hidden = backbone.hidden(ids, mask).last_hidden_state
    chosen, entropies = _HeadInParts.apply(
        hidden[:, :-1][wanted[:, 1:]], ids[wanted], backbone.logits, temperature, entropy_grad
    )
    return _at(wanted, chosen), _at(wanted, entropies)


class _HeadInParts(torch.autograd.Function):
    """Log-probabilities of the tokens ``ids`` [N] and entropies, float32 [N], from hidden states [N, H], with logits
    of ``HEAD_PART`` places at a time.

    Whole, N x V logits, their probabilities and gradients were the largest part of an update's memory. A place's
    log-probability depends on its own hidden state alone, so its gradient [H] can be computed on the way forward,
    while its logits are there, and the way back is a product. It costs no second pass over the head.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, ids: Tensor, head: Callable[[Tensor], Tensor], temperature: float, entropy_grad: bool
    ) -> tuple[Tensor, Tensor]:
        train = ctx.needs_input_grad[0]
        found: list[tuple[Tensor, ...]] = []
        for part, tokens in zip(hidden.split(HEAD_PART), ids.split(HEAD_PART), strict=True):
            with torch.set_grad_enabled(train):
                states = part.detach().requires_grad_(train)
                logits = head(states)
                logp = (logits if temperature == 1.0 else logits / temperature).log_softmax(-1)
                chosen = logp.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
                measured = logp if entropy_grad else logp.detach()
                entropy = -(measured.exp() * measured).sum(-1)
                kept = []
                if train:
                    kept += torch.autograd.grad(chosen.sum(), states, retain_graph=entropy_grad)
                if train and entropy_grad:
                    kept += torch.autograd.grad(entropy.sum(), states)
            found.append((chosen.detach(), entropy.detach(), *kept))
        chosen, entropy, *kept = (torch.cat(parts) for parts in zip(*found, strict=True))
        ctx.save_for_backward(*kept)
        if not entropy_grad:
            ctx.mark_non_differentiable(entropy)
        return chosen, entropy

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        pairs = zip(gradients, ctx.saved_tensors, strict=False)  # that of the entropy counts where it was asked for
        return sum(g.unsqueeze(-1) * own for g, own in pairs).to(ctx.saved_tensors[0].dtype), None, None, None, None


def _distributions(
    backbone: Any, ids: Tensor, mask: Tensor, wanted: Tensor, temperature: float, positions: Tensor | None
) -> Tensor:
    """float32 [N, V]: log-probabilities of all tokens at each of the N wanted places."""
    if positions is None:
        hidden = backbone.hidden(ids, mask).last_hidden_state
    else:
        hidden = backbone.hidden_packed(ids, positions)
    logits = backbone.logits(hidden[:, :-1][wanted[:, 1:]])
    return (logits if temperature == 1.0 else logits / temperature).log_softmax(-1)


def _at(wanted: Tensor, values: Tensor) -> Tensor:
    """``values`` [N] at the N wanted places of a float32 [B, T] that is 0 elsewhere."""
    return torch.zeros(wanted.shape, device=wanted.device).masked_scatter(wanted, values)
