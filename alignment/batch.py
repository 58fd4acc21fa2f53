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
PART = 64  # positions whose logits are held at once: 13 MB a copy at a vocabulary of 49,152


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
    """Ids and labels of a supervised row: the prompt and the row's ``prefix`` carry the label -100 (no loss). A prefix
    may be a list of pairs instead, of a text and whether a loss is taken on it."""
    ids = chat.prompt_ids(row["prompt"])
    labels = [-100] * len(ids)
    prefix = row.get("prefix", "")
    for text, learned in [(prefix, False)] if isinstance(prefix, str) else prefix:
        piece = chat.text_ids(text)
        ids += piece
        labels += piece if learned else [-100] * len(piece)
    after = [*chat.text_ids(row["completion"]), chat.eos_id]
    return ids + after, labels + after


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
    return chat.prompt_ids(prompt, drop) + scored_ids(chat, response)


def scored_ids(chat: ChatFormat, response: str) -> list[int]:
    """Ids of such a text's response, without white space at its end."""
    return chat.text_ids(response.rstrip())


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
    without, "grad" with gradient), float32 [N]. The output embedding gets a gradient only where it is trained."""
    head = backbone.causal_lm.get_output_embeddings()
    if head.weight.requires_grad:  # full tuning
        return _measured(backbone.logits(states), targets, temperature, entropy)
    return _InParts.apply(states, targets, backbone.logits, temperature, entropy)


def _measured(logits: Tensor, targets: Tensor, temperature: float, entropy: str) -> tuple[Tensor, Tensor]:
    logp = (logits if temperature == 1.0 else logits / temperature).log_softmax(-1)
    chosen = logp.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    if entropy == "none":
        return chosen, torch.zeros_like(chosen)
    kept = logp if entropy == "grad" else logp.detach()
    return chosen, -(kept.exp() * kept).sum(-1)


class _InParts(torch.autograd.Function):
    """``_measured`` with logits of ``PART`` positions at a time: whole, [N, V] logits, probabilities and gradients
    would outweigh the model.

    What is measured at a position depends on its own hidden state alone, so its gradient [H] is taken on the way
    forward, while its logits are there, and the way back is a product: no second pass over the head.
    """

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, targets: Tensor, head: Callable[[Tensor], Tensor], temperature: float, entropy: str
    ) -> tuple[Tensor, Tensor]:
        train = ctx.needs_input_grad[0]
        found: list[tuple[Tensor, ...]] = []
        for part, wanted in zip(states.split(PART), targets.split(PART), strict=True):
            with torch.set_grad_enabled(train):
                inputs = part.detach().requires_grad_(train)
                outputs = _measured(head(inputs), wanted, temperature, entropy)
                sums = [output.sum() for output in outputs if train and output.requires_grad]
                own = [torch.autograd.grad(one, inputs, retain_graph=one is not sums[-1])[0] for one in sums]
            found.append((*(output.detach() for output in outputs), *own))
        chosen, entropies, *gradients = (torch.cat(parts) for parts in zip(*found, strict=True))
        ctx.save_for_backward(*gradients)
        if entropy != "grad":
            ctx.mark_non_differentiable(entropies)
        return chosen, entropies

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor | None, ...]:
        # the second is the entropies', which may have none
        found = sum(g.unsqueeze(-1) * own for g, own in zip(given, ctx.saved_tensors, strict=False))
        return found.to(ctx.saved_tensors[0].dtype), None, None, None, None


def _at(wanted: Tensor, values: Tensor) -> Tensor:
    """``values`` [N] at the N wanted places of a float32 [B, T] that is 0 elsewhere."""
    return torch.zeros(wanted.shape, device=wanted.device).masked_scatter(wanted, values)
