"""Preferences and scores as token ids: what a reward model is trained and measured on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from alignment import prefix_tree
from alignment.batch import encode_scored
from alignment.chat_format import ChatFormat
from alignment.config import RewardConfig
from alignment.errors import UsageError
from alignment.rows import NAMED, fit_lengths, place_of, refuse_other_kind, scored_texts, texts_of

Row = dict[str, Any]
MARGINS = {"margin_ranking": 1.0, "bradley_terry": 0.0}


@dataclass(frozen=True)
class Example:
    """A pair (ids of chosen and of rejected; its margin), or the texts of one prompt (their scores)."""

    texts: tuple[list[int], ...]
    targets: tuple[float, ...]

    @cached_property
    def tokens(self) -> int:
        """Those that are computed: of several texts of one prompt, what they share counts once."""
        return prefix_tree.size(self.texts)


def encode(chat: ChatFormat, rows: Sequence[Row], config: RewardConfig, kind: str) -> tuple[list[Example], list[str]]:
    """The rows as ids, and sentences about those that ``config.long_rows`` left out or cut.

    Raises UsageError for rows of the wrong kind, for long rows where they are refused, and for a pair whose two texts
    are the same; one that is so once it is cut is left out. ``kind`` says which rows these are ("training").
    """
    refuse_other_kind(config, rows, kind)
    ids = {id(row): [encode_scored(chat, row["prompt"], text) for text in texts_of(row, config)] for row in rows}
    tokens = [max(map(len, ids[id(row)])) for row in rows]
    kept, notes = fit_lengths(rows, tokens, config.max_length, config.long_rows, "reward", kind)
    examples, same = [], []
    for number, row in enumerate(kept, 1):
        texts = ids[id(row)]
        over = max(map(len, texts)) - config.max_length
        if over > 0:  # the same beginning is missing on both sides
            sides = texts_of(row, config)
            texts = [encode_scored(chat, row["prompt"], text, over)[: config.max_length] for text in sides]
        if config.loss != "regression" and texts[0] == texts[1]:
            place = place_of(row, number, kind)
            if over <= 0:
                raise UsageError(f"{place}: chosen and rejected are the same; drop the row")
            same.append(place)
            continue
        examples.append(Example(tuple(texts), _targets(row, config)))
    if same:
        named = ", ".join(same[:NAMED]) + (f", and {len(same) - NAMED} more" if len(same) > NAMED else "")
        notes.append(f"{len(same)} {kind} rows left out, whose chosen and rejected are the same once cut ({named})")
    return examples, notes


def _targets(row: Row, config: RewardConfig) -> tuple[float, ...]:
    if config.loss == "regression":
        return tuple(score for _, score in scored_texts(row))
    margin = MARGINS[config.loss] if config.margin is None else config.margin
    return (float(margin if row.get("margin") is None else row["margin"]),)
