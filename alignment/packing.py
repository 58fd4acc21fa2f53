"""Packing: several texts in one sequence instead of padding, each blind to the others."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from alignment.batch import width_of


def bins(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Indices of texts that share a sequence: first-fit decreasing, at most 11/9 of the fewest sequences (+ 2/3).

    A text longer than ``capacity`` gets a sequence of its own. Equal lengths keep their order, so the result is a
    function of ``lengths`` alone.
    """
    found: list[list[int]] = []
    room: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        place = next((b for b, free in enumerate(room) if lengths[i] <= free), None)
        if place is None:
            found.append([i])
            room.append(capacity - lengths[i])
        else:
            found[place].append(i)
            room[place] -= lengths[i]
    return found


def pack(
    ids: Sequence[Sequence[int]], labels: Sequence[Sequence[int]], capacity: int, pad_id: int
) -> dict[str, Tensor]:
    """The texts of a batch in as few sequences of up to ``capacity`` tokens as first-fit decreasing needs.

    int64 [B, T] each: ``input_ids``; ``labels``, -100 where no loss is taken (a text's first token among them);
    ``position_ids``, from 0 in every text, the padding at the end counting as one more text; ``attention_mask``,
    1 on texts, for counting tokens: the model gets the positions instead.
    """
    groups = bins([len(row) for row in ids], capacity)
    width = width_of(max(sum(len(ids[i]) for i in group) for group in groups))
    packed = {
        "input_ids": torch.full((len(groups), width), pad_id, dtype=torch.long),
        "labels": torch.full((len(groups), width), -100, dtype=torch.long),
        "position_ids": torch.zeros((len(groups), width), dtype=torch.long),
        "attention_mask": torch.zeros((len(groups), width), dtype=torch.long),
    }
    for row, group in enumerate(groups):
        start = 0
        for i in group:
            place = slice(start, start + len(ids[i]))
            packed["input_ids"][row, place] = torch.tensor(ids[i])
            packed["labels"][row, place] = torch.tensor(labels[i])
            packed["labels"][row, start] = -100  # nothing of its own text stands before it
            packed["position_ids"][row, place] = torch.arange(len(ids[i]))
            packed["attention_mask"][row, place] = 1
            start = place.stop
        packed["position_ids"][row, start:] = torch.arange(width - start)
    return packed
