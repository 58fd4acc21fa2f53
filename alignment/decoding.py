"""Decoding of a batch of rows: shared prefix, ragged prompts, a random stream, stops and a grammar for each row."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from alignment.backbone import Backbone
from alignment.batch import pad
from alignment.gumbel import draw
from alignment.replacement import shares_left

Prompt = list[dict[str, str]]
MIN_SHARED_PREFIX = 8  # tokens; below it, expanding a cache costs more than it saves


@dataclass(frozen=True)
class Lark:
    """A context-free grammar in llguidance's dialect of Lark, where ``%json {...}`` stands for JSON of a schema."""

    text: str


@dataclass(frozen=True)
class Request:
    """What to write.

    ``prefix`` is assistant text that stands already; ``temperature`` 0 is greedy; ``stop`` strings end a row and are
    kept in its text; ``grammar`` is a regular expression of the whole completion, or a ``Lark`` grammar; ``seed`` names
    the row's own random stream, so that its tokens do not depend on which rows it is batched with. A token is drawn
    among those at least ``min_p`` times as probable as the most probable one (Nguyen et al. 2024, arXiv 2407.01082).
    ``unlike``: earlier completions of this request (by other seeds) that are not to be written again
    (``alignment.replacement``).
    """

    prompt: Prompt
    prefix: str = ""
    role: str = "policy"
    max_tokens: int = 64
    temperature: float = 1.0
    min_p: float = 0.0
    seed: int | str = 0
    stop: tuple[str, ...] = ()
    grammar: str | Lark | None = None
    unlike: tuple[Completion, ...] = ()


@dataclass(frozen=True)
class Completion:
    """What was written. ``ids`` has the end-of-text token where the model ended; ``logprob`` is the sum over ``ids``
    of log-probabilities in nats at the request's temperature, before the grammar's mask; ``draw_logprobs`` are those
    among the tokens that the grammar and ``min_p`` allow. ``read``: tokens of the prompt that were computed for it; the
    others came from a cache, or were computed for a row that begins in the same way."""

    text: str
    ids: tuple[int, ...]
    prompt_tokens: int
    logprob: float
    finish: str  # "eos", "stop", "length" or "cancelled"
    read: int = 0
    logprobs: tuple[float, ...] = ()  # of each of ``ids``
    draw_logprobs: tuple[float, ...] = ()

    @property
    def tokens(self) -> int:
        return len(self.ids)


@dataclass
class Row:
    """A request on its way."""

    request: Request
    prompt_ids: list[int]
    emit: Callable[[str], None] | None = None
    cancelled: Callable[[], bool] = lambda: False
    ids: list[int] = field(default_factory=list)
    unread: int = 1  # of ``ids``, the last ones, that the model has not seen: one drawn, and what must follow it
    read: int = 0
    text: str = ""
    emitted: int = 0
    logprobs: list[float] = field(default_factory=list)
    draw_logprobs: list[float] = field(default_factory=list)
    finish: str = ""
    matcher: Any = None
    stream: random.Random = field(default_factory=random.Random)

    def completion(self) -> Completion:
        return Completion(
            self.text,
            tuple(self.ids),
            len(self.prompt_ids),
            sum(self.logprobs),
            self.finish,
            self.read,
            tuple(self.logprobs),
            tuple(self.draw_logprobs),
        )


def decode_rows(backbone: Backbone, rows: list[Row]) -> None:
    """Writes every row to its end, by transformers' forward. All rows share the role that is entered. Rows that finish
    leave the batch."""
    with torch.no_grad():
        hidden, mask, cache = prefill(backbone, [row.prompt_ids for row in rows])
        shared = common_prefix([row.prompt_ids for row in rows])
        for i, row in enumerate(rows):
            row.read = len(row.prompt_ids) - (shared if i else 0)
        active = rows
        while True:
            # one set of tokens: the distribution is needed at the last position of each row only
            advance(backbone, active, backbone.logits(hidden))
            keep = [i for i, row in enumerate(active) if not row.finish]
            if not keep:
                return
            if len(keep) < len(active):
                index = torch.tensor(keep)
                cache.batch_select_indices(index)
                mask, active = mask[index], [active[i] for i in keep]
            mask = torch.cat([mask, torch.ones((len(active), 1), dtype=torch.long)], dim=1)
            ids = torch.tensor([[row.ids[-1]] for row in active])
            hidden = backbone.hidden(ids, mask, cache).last_hidden_state[:, -1]


def prefill(backbone: Backbone, prompts: Sequence[list[int]], left: bool = True) -> tuple[Tensor, Tensor, Any]:
    """Reads prompts into a fresh cache, their common prefix once.

    Returns the hidden states of the last position [B, H] (``left``), or of all positions after the common prefix
    [B, T, H] with the rows padded on the right; the mask [B, P + T]; the cache.
    """
    cache = DynamicCache(config=backbone.model.config)
    shared = common_prefix(prompts)
    count = len(prompts)
    if shared:
        ids = torch.tensor([prompts[0][:shared]])
        backbone.hidden(ids, torch.ones_like(ids), cache)
        cache.batch_repeat_interleave(count)
    ids, mask = pad([p[shared:] for p in prompts], backbone.chat.pad_id, left=left)
    mask = torch.cat([torch.ones((count, shared), dtype=torch.long), mask], dim=1)
    hidden = backbone.hidden(ids, mask, cache).last_hidden_state
    return hidden[:, -1] if left else hidden, mask, cache


def common_prefix(prompts: Sequence[list[int]]) -> int:
    """Tokens that all prompts start with, at least one short of the shortest; 0 where sharing does not pay."""
    if len(prompts) < 2:
        return 0
    first, last = min(prompts), max(prompts)  # the extremes of the lexicographic order differ soonest
    limit = min(len(p) for p in prompts) - 1
    shared = next((i for i in range(min(limit, len(first))) if first[i] != last[i]), limit)
    return shared if shared >= MIN_SHARED_PREFIX else 0


def advance(backbone: Backbone, rows: Sequence[Row], logits: Tensor) -> None:
    """The next token of each row from float32 ``logits`` [B, V], which are overwritten."""
    scaled = logits.div_(torch.tensor([row.request.temperature or 1.0 for row in rows]).unsqueeze(1))
    totals = scaled.logsumexp(-1).tolist()
    allowed = [_allowed(row, of_row) for row, of_row in zip(rows, scaled, strict=True)]
    among = [
        total if few is None else of_row[few].logsumexp(0).item()
        for of_row, few, total in zip(scaled, allowed, totals, strict=True)
    ]
    lowered = {
        (i, token): math.log(share)
        for i, row in enumerate(rows)
        for token, share in shares_left(row.request.unlike, row.ids).items()
    }
    for (i, token), change in lowered.items():
        scaled[i, token] += change
    streams = [row.stream if row.request.temperature > 0 else None for row in rows]
    tokens = draw(scaled, streams, allowed)
    chosen = scaled[range(len(rows)), tokens].tolist()
    for i, (row, token) in enumerate(zip(rows, tokens, strict=True)):
        logit = chosen[i] - lowered.get((i, token), 0.0)
        row.ids.append(token)
        row.logprobs.append(logit - totals[i])
        row.draw_logprobs.append(logit - among[i])
        if row.matcher is not None and token != backbone.chat.eos_id:
            row.matcher.consume_token(token)
        _finish(backbone, row, token)


def follow(backbone: Backbone, row: Row) -> None:
    """Adds to the token that was just drawn those that the grammar leaves no choice about, so that the model reads all
    at once (jump-forward decoding, Zheng et al. 2023, arXiv 2312.07104, section 4). One that would end the row is left
    to be drawn."""
    row.unread = 1
    if row.matcher is None or row.finish:
        return
    for token in row.matcher.compute_ff_tokens():
        row.ids.append(token)
        row.matcher.consume_token(token)
        if _ending(backbone, row, token):
            row.ids.pop()
            row.matcher.rollback(1)
            return
        row.unread += 1
        _tell(row)


def followed(row: Row, logits: Tensor) -> None:
    """Takes the log-probabilities of the tokens that ``follow`` added from float32 ``logits`` [unread, V] of the unread
    tokens; among what the grammar allows their probability is 1."""
    if row.unread > 1:
        logp = (logits[:-1] / (row.request.temperature or 1.0)).log_softmax(-1)
        row.logprobs += logp[range(row.unread - 1), row.ids[1 - row.unread :]].tolist()
        row.draw_logprobs += [0.0] * (row.unread - 1)


def _allowed(row: Row, logits: Tensor) -> Tensor | None:
    """Which tokens a row may have next, int64 [n] in their order, of its scaled ``logits`` [V]; None for all. The
    output layer may know more tokens than the tokenizer does."""
    allowed = None
    if row.matcher is not None:
        packed = np.frombuffer(row.matcher.compute_bitmask(), dtype=np.uint8)
        known = np.unpackbits(packed, bitorder="little")[: len(logits)].view(bool)
        allowed = torch.from_numpy(np.flatnonzero(known)).to(logits.device)
    if row.request.min_p > 0:
        among = logits if allowed is None else logits[allowed]
        likely = (among >= among.max() + math.log(row.request.min_p)).nonzero().squeeze(1)
        allowed = likely if allowed is None else allowed[likely]
    return allowed


def _finish(backbone: Backbone, row: Row, token: int) -> None:
    row.finish = _ending(backbone, row, token)
    if row.finish and row.emit is None:
        row.text = backbone.chat.text(row.ids[:-1] if row.finish == "eos" else row.ids)
    _tell(row)


def _ending(backbone: Backbone, row: Row, token: int) -> str:
    """Why ``row`` ends with ``token``, its last one; empty where it does not."""
    request = row.request
    if token == backbone.chat.eos_id:
        return "eos"
    if request.stop or row.emit is not None:  # otherwise nobody asks before the end
        row.text = backbone.chat.text(row.ids)
    if any(stop in row.text for stop in request.stop) or row.matcher is not None and row.matcher.is_stopped():
        return "stop"
    if len(row.ids) >= request.max_tokens:
        return "length"
    return "cancelled" if row.cancelled() else ""


def _tell(row: Row) -> None:
    """Emits what has come since the last time."""
    if row.emit is not None:
        # an unfinished UTF-8 sequence decodes to U+FFFD: wait for its other bytes
        ready = row.text if row.finish else row.text.rstrip("\ufffd")
        if len(ready) > row.emitted:
            row.emit(ready[row.emitted :])
            row.emitted = len(ready)


def matcher_of(grammar: str | Lark, grammar_tokenizer: Any) -> Any:
    """Of a regular expression or a Lark grammar; raises ValueError for one that llguidance cannot read."""
    from llguidance import LLMatcher

    if isinstance(grammar, Lark):
        compiled = LLMatcher.grammar_from_lark(grammar.text)
    else:
        compiled = LLMatcher.grammar_from_regex(grammar)
    matcher = LLMatcher(grammar_tokenizer, compiled)
    if matcher.get_error():
        raise ValueError(f"the grammar {grammar!r} cannot be used: {matcher.get_error()}")
    return matcher
