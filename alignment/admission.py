"""Which rows may begin, and with what each role is written: its copy of the weights, its flight, its store."""

from __future__ import annotations

from collections.abc import Sequence

from alignment.backbone import Backbone
from alignment.decoding import Row, decode_rows
from alignment.flight import Flight, PrefixStore, Usage
from alignment.lean import LeanDecoder, copy_bytes, knows
from alignment.machine import free_memory

MAX_ROWS = 64  # written at a time; others wait
SLOT_BYTES = 2**30  # of keys and values of the rows of one role that are being written
STORE_BYTES = 2**28  # of those of finished rows, kept for texts that begin in the same way


class Admission:
    """The rows of every role that are being written, and what was made of the weights for them."""

    def __init__(self, backbone: Backbone, usage: Usage) -> None:
        self.backbone, self.usage = backbone, usage
        self.training = False  # adapters stay beside the weights, and nothing is kept
        self.flights: dict[str, Flight] = {}
        self._stores: dict[str, PrefixStore] = {}
        self._decoders: dict[str, LeanDecoder] = {}
        self._made_for = (-1, False)  # the state of the weights, and whether it was for training

    def renew(self) -> None:
        """Forgets what was made of other weights."""
        if self._made_for != (self.backbone.changes, self.training):
            self._made_for = (self.backbone.changes, self.training)
            self.forget()

    def forget(self) -> None:
        self._stores.clear()
        self._decoders.clear()

    def forget_texts(self) -> None:
        for store in self._stores.values():
            store.entries.clear()

    def join(self, role: str, rows: list[Row]) -> None:
        """Lets as many of ``rows`` as fit join those of their role; a model that only transformers knows writes all of
        them to their end."""
        decoder = self.decoder(role)
        if decoder is None:
            with self.backbone.role(role):
                decode_rows(self.backbone, rows)
            self.usage.read += sum(row.read for row in rows)
            self.usage.spared += sum(len(row.prompt_ids) - row.read for row in rows)
            self.usage.written += sum(len(row.ids) - 1 for row in rows)  # the last one is not read
            return
        store = self._stores.setdefault(role, PrefixStore(0 if self.training else STORE_BYTES))
        flight = self.flights.get(role) or Flight(self.backbone, decoder, store, self.usage)
        if rows := rows[: _room(flight, rows)]:
            self.flights[role] = flight
            flight.join(rows)

    def decoder(self, role: str) -> LeanDecoder | None:
        """The lean forward of ``role``, or None where ``alignment.lean`` does not know the model."""
        if role not in self._decoders:
            fits = copy_bytes(self.backbone) < free_memory() / 4
            if not knows(self.backbone, role, fits):
                return None
            merged = fits and role != "base" and not self.training
            if merged:  # one copy at a time, but for those that are being used
                self._decoders = {name: one for name, one in self._decoders.items() if name in self.flights}
            self._decoders[role] = LeanDecoder(self.backbone, role, merged)
        return self._decoders[role]


def _room(flight: Flight, rows: Sequence[Row]) -> int:
    """How many of ``rows`` can join: within ``MAX_ROWS`` and ``SLOT_BYTES``, but one at least where none is there."""
    longest, count = 0, len(flight.rows)
    for row in flight.rows:
        longest = max(longest, len(row.prompt_ids) + row.request.max_tokens)
    joined = 0
    for row in rows:
        longest = max(longest, len(row.prompt_ids) + row.request.max_tokens)
        count += 1
        if count > MAX_ROWS or count * longest * flight.decoder.position_bytes > SLOT_BYTES and count > 1:
            break
        joined += 1
    return joined
