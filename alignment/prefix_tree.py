"""Rows of tokens as one tree of prefixes: what rows share is computed once, and nothing is padded.

Rows are walked in lexicographic order, so that the tree's nodes come one after the other, and packed into chunks of new
tokens. A token sees its ancestors alone: those of its own chunk by a mask, those of earlier chunks in a cache that
holds one path of the tree at a time, from the root to where the walk stands. Memory is that of one row and one chunk,
however large the tree. The mask is that of tree attention (SpecInfer, arXiv 2305.09781, section 4.2).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import Cache, DynamicLayer

from alignment.backbone import Backbone
from alignment.batch import width_of

ROOM = 512  # new tokens of a chunk


class PathLayer(DynamicLayer):
    """Keys and values [1, heads, places, width] of a path and of a chunk behind it, at ``index`` in two buffers
    [layers, 1, heads, room, width]. The first layer that runs allocates them for all: in tensors of each
    layer's own, 50 MB more of the heap stay after rows of some 800 tokens of the embedded model."""

    def __init__(self, index: int, layers: int, room: int, buffers: list[Tensor]) -> None:
        super().__init__()
        self.index, self.layers, self.room, self.buffers = index, layers, room, buffers

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True
        if not self.buffers:
            for states in (key_states, value_states):
                batch, heads, _, width = states.shape
                self.buffers.append(states.new_empty(self.layers, batch, heads, self.room, width))
        self._show(0)

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        before = self.get_seq_length()
        after = before + key_states.shape[-2]
        for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[self.index, ..., before:after, :] = states
        self._show(after)
        return self.keys, self.values

    def keep(self, same: int, moved: Tensor) -> None:
        """Of what is there, the first ``same`` places and those of ``moved``, int64 and ascending."""
        if not self.is_initialized:
            return
        count = same + len(moved)
        for buffer in self.buffers:
            own = buffer[self.index]
            own[..., same:count, :] = own.index_select(-2, moved)
        self._show(count)

    def _show(self, count: int) -> None:
        self.keys, self.values = (buffer[self.index, ..., :count, :] for buffer in self.buffers)


class Chunk(NamedTuple):
    """``keep``: places of the cache, as the last chunk left it, that are the path to this chunk, in their order; K of
    them. ``ids``: its T new tokens; ``positions``: their places in their rows; ``seen`` bool [T, K + T]: what each
    sees. ``ends``: the number of each row that ends here, and where among the T."""

    keep: list[int]
    ids: list[int]
    positions: list[int]
    seen: np.ndarray
    ends: list[tuple[int, int]]


def knows(backbone: Backbone) -> bool:
    """Whether the model's attention takes a mask of its own for every token, and sees all of it in every layer; places
    are rotary, since ALiBi and windows of older models follow from the mask's shape and not from ``position_ids``. Nor
    has it what torch's attention would leave out, such as sinks."""
    decoder = backbone.causal_lm.get_decoder()
    config = decoder.config
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    # models from before layer_types may say it by a window alone
    window = getattr(config, "sliding_window", None) if not getattr(config, "layer_types", None) else None
    implementation = getattr(config, "_attn_implementation", None)
    rotary = getattr(config, "rope_parameters", None) is not None and not getattr(config, "alibi", False)
    fused = implementation in ("eager", "sdpa") and getattr(decoder, "_supports_sdpa", True)
    return rotary and fused and kinds == {"full_attention"} and window is None


def last_states(backbone: Backbone, rows: Sequence[tuple[int, ...]]) -> Iterator[tuple[list[int], Tensor, int]]:
    """Hidden states at the last token of each row, under the role that is entered: a chunk at a time the numbers of
    rows that end in it, their states [N, H], and how many tokens were computed."""
    for chunk, hidden in walk(backbone, rows):
        yield [number for number, _ in chunk.ends], hidden[[place for _, place in chunk.ends]], len(chunk.ids)


def walk(backbone: Backbone, rows: Sequence[tuple[int, ...]]) -> Iterator[tuple[Chunk, Tensor]]:
    """Each chunk of the tree and the hidden states [T, H] of its new tokens, under the role that is entered; without
    gradients, since keys and values are written in place."""
    decoder, device = backbone.causal_lm.get_decoder(), backbone.device
    lengths = [len(row) for row in rows]
    room = min(sum(lengths), max(lengths, default=0) + ROOM)
    count, buffers = decoder.config.num_hidden_layers, list[Tensor]()
    layers = [PathLayer(index, count, room, buffers) for index in range(count)]
    cache = Cache(layers=layers)
    for chunk in chunks(rows, ROOM):
        same = shared(chunk.keep, range(len(chunk.keep)))
        moved = torch.tensor(chunk.keep[same:], dtype=torch.long, device=device)
        for layer in layers:
            layer.keep(same, moved)
        seen = torch.from_numpy(chunk.seen).to(device)
        with _fused_attention(decoder):
            hidden = decoder(
                input_ids=torch.tensor([chunk.ids], device=device),
                position_ids=torch.tensor([chunk.positions], device=device),
                attention_mask=_added(seen, decoder.dtype)[None, None],
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state[0]
        yield chunk, hidden


def size(texts: Sequence[Sequence[int]]) -> int:
    """Tokens of the tree that ``texts`` form."""
    rows = sorted(map(tuple, texts))
    return sum(len(row) - shared(before, row) for before, row in zip([(), *rows], rows, strict=False))


def ends_of(backbone: Backbone, groups: Sequence[Sequence[Sequence[int]]]) -> Tensor:
    """Hidden states [N, H] at the last token of every text, one group after the other, under the role that is entered:
    each group is one sequence, the tree of its texts, padded to the longest. With gradients, where they are wanted."""
    rows = [list(dict.fromkeys(map(tuple, texts))) for texts in groups]
    trees = [next(chunks(own, sum(map(len, own)))) for own in rows]
    width = width_of(max(len(tree.ids) for tree in trees))
    ids = torch.full((len(trees), width), backbone.chat.pad_id)
    positions = torch.zeros((len(trees), width), dtype=torch.long)
    seen = torch.eye(width, dtype=torch.bool).repeat(len(trees), 1, 1)  # padding sees itself, or softmax has nothing
    places: list[tuple[int, int]] = []
    for i, (tree, own, texts) in enumerate(zip(trees, rows, groups, strict=True)):
        count = len(tree.ids)
        ids[i, :count] = torch.tensor(tree.ids)
        positions[i, :count] = torch.tensor(tree.positions)
        seen[i, :count, :count] = torch.from_numpy(tree.seen)
        ends = {own[number]: place for number, place in tree.ends}
        places += [(i, ends[tuple(text)]) for text in texts]
    decoder, device = backbone.causal_lm.get_decoder(), backbone.device
    hidden = decoder(
        input_ids=ids.to(device),
        position_ids=positions.to(device),
        attention_mask=_added(seen.to(device), decoder.dtype)[:, None],
        use_cache=False,
    ).last_hidden_state
    numbers, at = zip(*places, strict=True)
    return hidden[list(numbers), list(at)]


@contextmanager
def _fused_attention(decoder: Any) -> Iterator[None]:
    """torch's own attention, which never holds all scores: of 512 new tokens behind 600 of a cache, eager attention has
    177 MB more at its peak (embedded model, float32). By the config alone: ``set_attn_implementation`` goes through all
    modules."""
    config = decoder.config
    usual, config._attn_implementation = config._attn_implementation, "sdpa"
    try:
        yield
    finally:
        config._attn_implementation = usual


def _added(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """What attention adds to its scores: 0 where a token sees, the least number where not."""
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, torch.finfo(dtype).min)


def chunks(rows: Sequence[tuple[int, ...]], room: int) -> Iterator[Chunk]:
    """The tree of ``rows``, none of them empty or twice the same, in chunks of at most ``room`` new tokens."""
    keep: list[int] = []
    path: list[int] = []  # places in cache and chunk of the tokens from the root to where the walk stands
    new: list[tuple[int, int]] = []  # (token, position)
    runs: list[tuple[int, int, list[int]]] = []  # new tokens in a row: from, to, and what they all see
    ends: list[tuple[int, int]] = []
    before: tuple[int, ...] = ()
    for number in sorted(range(len(rows)), key=lambda i: rows[i]):
        row = rows[number]
        done = shared(before, row)
        del path[done:]
        while done < len(row):
            if len(new) == room:
                yield _chunk(keep, new, runs, ends)
                keep, path, new, runs, ends = path, list(range(len(path))), [], [], []
            take = row[done : done + room - len(new)]
            runs.append((len(new), len(new) + len(take), list(path)))
            path += range(len(keep) + len(new), len(keep) + len(new) + len(take))
            new += zip(take, range(done, done + len(take)), strict=True)
            done += len(take)
        ends.append((number, len(new) - 1))
        before = row
    if new:
        yield _chunk(keep, new, runs, ends)


def _chunk(
    keep: list[int],
    new: list[tuple[int, int]],
    runs: list[tuple[int, int, list[int]]],
    ends: list[tuple[int, int]],
) -> Chunk:
    seen = np.zeros((len(new), len(keep) + len(new)), dtype=bool)
    for start, end, path in runs:
        seen[start:end, path] = True
        seen[start:end, len(keep) + start : len(keep) + end] = np.tri(end - start, dtype=bool)
    return Chunk(keep, [token for token, _ in new], [position for _, position in new], seen, ends)


def shared(a: Sequence[int], b: Sequence[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
