"""Rows that are being written together, a token a step: they join and leave between steps. And the store of what was
computed of earlier ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from alignment.backbone import Backbone
from alignment.decoding import MIN_SHARED_PREFIX, Row, advance, common_prefix, follow, followed
from alignment.lean import GROW, LeanDecoder, Span, States

PREFILL_TOKENS = 2048  # in one forward, so that rows which are written meanwhile do not wait longer


@dataclass
class Usage:
    """Tokens that went through the model: ``read`` of prompts, ``written``, and ``scored`` by a head. Those ``spared``
    were in a cache."""

    read: int = 0
    written: int = 0
    scored: int = 0
    spared: int = 0


@dataclass
class PrefixStore:
    """Keys and values of finished rows, the least recently used ones dropped beyond ``limit`` bytes."""

    limit: int
    entries: list[tuple[list[int], States]] = field(default_factory=list)  # last used last

    def best(self, ids: list[int]) -> tuple[int, States | None]:
        """The longest prefix of ``ids`` that is there, and its keys and values."""
        found = max(((overlap(ids, kept), i) for i, (kept, _) in enumerate(self.entries)), default=(0, -1))
        if found[0] < MIN_SHARED_PREFIX:
            return 0, None
        self.entries.append(self.entries.pop(found[1]))
        return found[0], self.entries[-1][1]

    def keep(self, ids: list[int], states: States) -> None:
        others = [entry for entry in self.entries if overlap(entry[0], ids) < len(entry[0])]
        self.entries = [*others, (ids, states)]
        while sum(states.nbytes for _, states in self.entries) > self.limit:
            self.entries.pop(0)


def overlap(a: list[int], b: list[int]) -> int:
    """Length of the common prefix."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


class Flight:
    """Rows of one role; row i has its keys and values in slot i."""

    def __init__(self, backbone: Backbone, decoder: LeanDecoder, store: PrefixStore, usage: Usage) -> None:
        self.backbone, self.decoder, self.store, self.usage = backbone, decoder, store, usage
        self.slots = decoder.slots()
        self.rows: list[Row] = []

    def join(self, rows: Sequence[Row]) -> None:
        """Reads the prompts, what several share once, and writes the first token of each row."""
        first = len(self.rows)
        self.rows += rows
        # what is longer finds its room when it gets there
        self.slots.fit(len(self.rows), max(len(row.prompt_ids) + min(row.request.max_tokens, GROW) for row in rows))
        prompts: dict[tuple[int, ...], list[int]] = {}  # slots of the rows of each prompt
        for slot, row in enumerate(rows, first):
            prompts.setdefault(tuple(row.prompt_ids), []).append(slot)
        unique = [(list(ids), slots[0]) for ids, slots in prompts.items()]
        there = self._start(unique)
        last = dict(zip((slot for _, slot in unique), self._read(unique, there), strict=True))
        for ids, slots in prompts.items():
            for slot in slots[1:]:
                self.slots.copy(slots[0], slot, len(ids))
                last[slot] = last[slots[0]]
        self.usage.spared += sum(len(row.prompt_ids) - row.read for row in rows)
        hidden = torch.stack([last[slot] for slot in range(first, len(self.rows))])
        self._advance(first, self.decoder.logits(hidden))

    def step(self) -> None:
        """One more token of every row, and those that must follow it."""
        ids: list[int] = []
        spans = []
        for slot, row in enumerate(self.rows):
            spans.append(Span(slot, len(row.prompt_ids) + len(row.ids) - row.unread, row.unread))
            ids += row.ids[-row.unread :]
        logits = self.decoder.logits(self.decoder(torch.tensor(ids), spans, self.slots))
        self.usage.written += len(ids)
        for row, own in zip(self.rows, logits.split([row.unread for row in self.rows]), strict=True):
            followed(row, own)
        self._advance(0, logits[torch.tensor([span.length for span in spans]).cumsum(0) - 1])

    def _start(self, unique: Sequence[tuple[list[int], int]]) -> list[int]:
        """Puts what is known of each prompt into its slot, at least one token short; returns how many tokens are."""
        there = []
        for ids, slot in unique:
            known, states = self.store.best(ids)
            known = min(known, len(ids) - 1)
            if states is not None:
                self.slots.put(slot, states, known)
            there.append(known)
        shared = common_prefix([ids for ids, _ in unique])
        source = max(range(len(unique)), key=there.__getitem__)
        if shared > there[source]:
            ids, slot = unique[source]
            self._forward([ids[there[source] : shared]], [Span(slot, there[source], shared - there[source])])
            there[source] = shared
        for i, (_, slot) in enumerate(unique):
            if there[i] < shared:
                self.slots.copy(unique[source][1], slot, shared)
                there[i] = shared
        return there

    def _read(self, unique: Sequence[tuple[list[int], int]], there: Sequence[int]) -> list[Tensor]:
        """The rest of each prompt; the hidden state [H] of its last token."""
        rest = [ids[known:] for (ids, _), known in zip(unique, there, strict=True)]
        spans = [Span(slot, known, len(r)) for (_, slot), known, r in zip(unique, there, rest, strict=True)]
        found: list[Tensor] = []
        while len(found) < len(rest):
            size, count = 0, 0
            while len(found) + count < len(rest) and (
                not count or size + len(rest[len(found) + count]) <= PREFILL_TOKENS
            ):
                size, count = size + len(rest[len(found) + count]), count + 1
            part = slice(len(found), len(found) + count)
            found += self._forward(rest[part], spans[part])
        return found

    def _forward(self, texts: Sequence[list[int]], spans: Sequence[Span]) -> list[Tensor]:
        self.usage.read += sum(map(len, texts))
        for text, span in zip(texts, spans, strict=True):
            self.rows[span.slot].read += len(text)
        hidden = self.decoder(torch.tensor([token for text in texts for token in text]), spans, self.slots)
        return [part[-1] for part in hidden.split([len(text) for text in texts])]

    def _advance(self, first: int, logits: Tensor) -> None:
        advance(self.backbone, self.rows[first:], logits)
        for row in self.rows[first:]:
            follow(self.backbone, row)
        for i in reversed(range(first, len(self.rows))):
            if self.rows[i].finish:
                self._leave(i)

    def _leave(self, slot: int) -> None:
        """Keeps what the row's slot holds, and moves the last row into it."""
        row = self.rows[slot]
        known = len(row.prompt_ids) + len(row.ids) - 1
        if self.store.limit:
            self.store.keep([*row.prompt_ids, *row.ids[:-1]], self.slots.take(slot, known))
        moved = self.rows.pop()
        if moved is not row:
            self.rows[slot] = moved
            self.slots.copy(len(self.rows), slot, len(moved.prompt_ids) + len(moved.ids) - 1)
