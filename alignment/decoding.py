"""Decoding of a batch of rows: shared prefix, ragged prompts, a random stream, stops and a grammar for each row."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache

from alignment.backbone import Backbone
from alignment.batch import pad

Prompt = list[dict[str, str]]
BLOCK = 256  # tokens whose probabilities are added up first when one is drawn
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
    the row's own random stream, so that its tokens do not depend on which rows it is batched with.
    """

    prompt: Prompt
    prefix: str = ""
    role: str = "policy"
    max_tokens: int = 64
    temperature: float = 1.0
    seed: int | str = 0
    stop: tuple[str, ...] = ()
    grammar: str | Lark | None = None


@dataclass(frozen=True)
class Completion:
    """What was written. ``ids`` has the end-of-text token where the model ended; ``logprob`` is the sum over ``ids``
    of log-probabilities in nats at the request's temperature, before the grammar's mask. ``read``: tokens of the prompt
    that were computed for it; the others came from a cache, or were computed for a row that begins in the same way."""

    text: str
    ids: tuple[int, ...]
    prompt_tokens: int
    logprob: float
    finish: str  # "eos", "stop", "length" or "cancelled"
    read: int = 0

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
    read: int = 0
    text: str = ""
    emitted: int = 0
    logprob: float = 0.0
    finish: str = ""
    matcher: Any = None
    stream: random.Random = field(default_factory=random.Random)

    def completion(self) -> Completion:
        return Completion(self.text, tuple(self.ids), len(self.prompt_ids), self.logprob, self.finish, self.read)


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
    scaled = scaled.sub_(scaled.amax(-1, keepdim=True))
    bound = [i for i, row in enumerate(rows) if row.matcher is not None]
    allowed, tops = _masked(scaled[bound], [rows[i].matcher for i in bound]) if bound else (scaled[:0], [])
    weights = scaled.exp_()
    totals = weights.sum(-1, dtype=torch.float64).log().tolist()
    free = [i for i, row in enumerate(rows) if row.matcher is None]
    tokens = dict(zip(free, _choose(weights[free] if bound else weights, [rows[i] for i in free]), strict=True))
    tokens |= dict(zip(bound, _choose(allowed, [rows[i] for i in bound]), strict=True))
    # what a grammar forces may be so improbable that its weight among all tokens is 0, but not among the allowed ones
    logp = {i: top + allowed[k, tokens[i]].log().item() for k, (i, top) in enumerate(zip(bound, tops, strict=True))}
    for i, row in enumerate(rows):
        token = tokens[i]
        row.ids.append(token)
        row.logprob += (logp[i] if i in logp else weights[i, token].log().item()) - totals[i]
        if row.matcher is not None and token != backbone.chat.eos_id:
            row.matcher.consume_token(token)
        _finish(backbone, row, token)


def _masked(scaled: Tensor, matchers: Sequence[Any]) -> tuple[Tensor, list[float]]:
    """Weights of the tokens that each row's grammar allows, the greatest of them 1, and 0 for the others; and the
    logarithms of what the greatest were."""
    packed = np.stack([np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8) for matcher in matchers])
    allowed = torch.from_numpy(np.unpackbits(packed, axis=1, bitorder="little").view(bool))
    width = scaled.shape[1]  # that of the output layer, which may have more rows than the tokenizer has tokens
    allowed = functional.pad(allowed, (0, max(0, width - allowed.shape[1])))[:, :width]
    scaled = scaled.masked_fill_(~allowed, -torch.inf)
    tops = scaled.amax(-1, keepdim=True)
    return scaled.sub_(tops).exp_(), tops.flatten().tolist()


def _choose(weights: Tensor, rows: Sequence[Row]) -> list[int]:
    """By chance, in proportion to the weights; the heaviest at temperature 0."""
    if not rows:
        return []
    drawn = _draw(weights, [row.stream.random() if row.request.temperature > 0 else 0.0 for row in rows])
    if all(row.request.temperature > 0 for row in rows):
        return drawn
    best = weights.argmax(-1).tolist()
    return [drawn[i] if row.request.temperature > 0 else best[i] for i, row in enumerate(rows)]


def _draw(weights: Tensor, uniforms: Sequence[float]) -> list[int]:
    """Inverse CDF with one uniform number per row: first the block of tokens, then the token in it, so that the sums
    in float64 are over few numbers."""
    rows = torch.arange(len(weights))
    blocks = functional.pad(weights, (0, -weights.shape[1] % BLOCK)).view(len(weights), -1, BLOCK)
    ends = blocks.sum(-1).double().cumsum(-1)
    wanted = torch.tensor(uniforms, dtype=torch.float64) * ends[:, -1]
    block = torch.searchsorted(ends, wanted.unsqueeze(1), right=True).squeeze(1).clamp(max=ends.shape[1] - 1)
    inside = blocks[rows, block].double().cumsum(-1)
    left = wanted - torch.where(block > 0, ends[rows, (block - 1).clamp(min=0)], 0.0)
    # strictly below the block's sum, so that rounding never picks a token of probability 0 behind the last one
    left = torch.minimum(left, inside[:, -1] * (1 - 1e-12)).unsqueeze(1)
    token = torch.searchsorted(inside, left, right=True).squeeze(1)
    return (block * BLOCK + token).tolist()


def _finish(backbone: Backbone, row: Row, token: int) -> None:
    request = row.request
    if token == backbone.chat.eos_id:
        row.finish = "eos"
    else:
        row.text = backbone.chat.text(row.ids)
        if any(stop in row.text for stop in request.stop) or row.matcher is not None and row.matcher.is_stopped():
            row.finish = "stop"
        elif len(row.ids) >= request.max_tokens:
            row.finish = "length"
        elif row.cancelled():
            row.finish = "cancelled"
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
