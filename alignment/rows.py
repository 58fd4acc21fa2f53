"""Rows that a stage cannot learn from as they are: too long ones, and ones of another kind. Free of torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from alignment.config import LongRowChoice, RewardConfig
from alignment.errors import UsageError

Row = dict[str, Any]
NAMED = 3  # rows that a sentence names


def place_of(row: Row, number: int, kind: str) -> str:
    """Where a row comes from: its ``source`` (a file and a line) where the task gave one, else ``kind`` and number."""
    return str(row.get("source") or f"{kind} row {number}")


def fit_lengths(
    rows: Sequence[Row], tokens: Sequence[int], limit: int, choice: LongRowChoice, section: str, kind: str
) -> tuple[list[Row], list[str]]:
    """The rows that stay, and a sentence (or none) that counts and names those of more than ``limit`` tokens.

    ``refuse`` raises UsageError; ``skip`` leaves them out; ``cut`` keeps them, and who encodes them cuts. ``tokens``
    are the rows' lengths, ``section`` is the recipe's, ``kind`` says which rows these are ("training").
    """
    long = [(place_of(row, i, kind), n) for i, (row, n) in enumerate(zip(rows, tokens, strict=True), 1) if n > limit]
    if not long:
        return list(rows), []
    named = ", ".join(f"{place}: {n:,} tokens" for place, n in long[:NAMED])
    named += f", and {len(long) - NAMED} more" if len(long) > NAMED else ""
    said = f"{len(long)} of {len(rows)} {kind} rows have more than {section}.max_length ({limit:,}) tokens"
    kept = [row for row, n in zip(rows, tokens, strict=True) if n <= limit] if choice == "skip" else list(rows)
    if choice == "refuse" or not kept:
        raise UsageError(
            f"{said} ({named}); shorten them, raise {section}.max_length, or set {section}.long_rows to "
            f"{'skip or cut' if choice == 'refuse' else 'cut'}"
        )
    return kept, [f"{said} and were {'left out' if choice == 'skip' else 'cut'} ({named})"]


def texts_of(row: Row, config: RewardConfig) -> list[str]:
    """The texts of a row that the loss of ``config`` reads: chosen and rejected, or those with a score. Raises KeyError
    where they are not there."""
    if config.loss != "regression":
        return [row["chosen"], row["rejected"]]
    return [text for text, _ in scored_texts(row)]


def scored_texts(row: Row) -> list[tuple[str, float]]:
    """The texts of a row of scores, each with its own."""
    if "responses" not in row:
        return [(row["response"], float(row["score"]))]
    return list(zip(row["responses"], map(float, row["scores"]), strict=True))


def refuse_other_kind(config: RewardConfig, rows: Sequence[Row], kind: str = "preference") -> None:
    """Raises UsageError where a row is no mapping, is a score and the loss wants pairs, or the reverse, or has not a
    score for every response, or where there are no rows."""
    if not rows:
        raise UsageError("the reward model has no rows to learn from; give data.pairs, or a reward.function")
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise UsageError(f"{kind} row {number} of the task is no mapping but {type(row).__name__}; give its keys")
        own = {"response", "responses"} if config.loss == "regression" else {"chosen", "rejected"}
        found = own & row.keys()
        if not found or (config.loss != "regression" and found != own):
            wants, has, other = "pairs of chosen and rejected", "a score", "regression"
            if config.loss == "regression":
                wants, has, other = "scored texts", "a pair", "bradley_terry or margin_ranking"
            raise UsageError(
                f"{place_of(row, number, kind)}: reward.loss {config.loss} learns from {wants}, and this row is {has}; "
                f"set reward.loss to {other}, or give other rows"
            )
        if config.loss == "regression" and not _scored(row):
            raise UsageError(
                f"{place_of(row, number, kind)}: it has not one score for each text; give response and score, or lists "
                "responses and scores of one length"
            )


def _scored(row: Row) -> bool:
    if "responses" not in row:
        return "score" in row
    texts, scores = row["responses"], row.get("scores")
    return isinstance(texts, list) and isinstance(scores, list) and 0 < len(texts) == len(scores)
