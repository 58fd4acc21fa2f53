"""``junto data check``: whether a file of rows can be trained on, and what one should know of it before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from alignment.errors import UsageError
from graphs import rows as shapes
from graphs.cli.output import printable
from graphs.cli.tokenize import open_tokenizer
from graphs.tasks import Row
from graphs.tasks.jsonl import distinct, records

PARSERS: dict[str, Callable[[Any], Row]] = {
    "pairs": shapes.preference,
    "instructions": shapes.instruction,
    "prompts": shapes.question,
}
NAMED = 10  # rows that are named of each fault
PARTS = ("prompt", "completion", "chosen", "rejected", "response")
MARKS = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "[INST]", "</s>")


def check(path: Path, kind: str | None, tokenizer: str, limit: int) -> dict[str, Any]:
    """What is in a file of ``kind`` (pairs, instructions or prompts; without it the richest that fits most rows):
    counts, faults by place, tokens of each part, and how many rows are above ``limit`` tokens. Raises UsageError for a
    file that cannot be read or has no rows."""
    kind = "pairs" if kind == "scores" else kind  # which of both it is, the rows say
    if kind is not None and kind not in PARSERS:
        raise UsageError(f"there is no kind {kind!r} of rows; there are {', '.join(PARSERS)}")
    read = list(records(path))
    if not read:
        raise UsageError(f"{path}: the file has no rows")
    parsed = {name: _parsed(read, PARSERS[name]) for name in ([kind] if kind else PARSERS)}
    sound = {name: len(rows) for name, (rows, _) in parsed.items()}
    # a prompt is in rows of every kind: what fits more rows is not what they are meant to be
    name = next((name for name in parsed if sound[name] * 2 > len(read)), max(sound, key=lambda name: sound[name]))
    rows, malformed = parsed[name]
    found: dict[str, Any] = {"file": str(path), "kind": name, "rows": len(read), "sound": len(rows)}
    found["malformed"] = malformed
    found["repeated"] = distinct(rows)[1]
    if name == "pairs":
        scored = [row["source"] for row in rows if "score" in row]
        if 0 < len(scored) < len(rows):
            pair = next(row["source"] for row in rows if "score" not in row)
            found["malformed"] = [*malformed, f"{scored[0]} has a score and {pair} a pair; a file holds one kind"]
        found["kind"] = "scores" if len(scored) * 2 > len(rows) else "pairs"
    texts = {key: [_text(row[key]) for row in rows] for key in PARTS if rows and all(key in row for row in rows)}
    encode = open_tokenizer(tokenizer).encode_batch
    tokens = {
        key: np.array([len(one.ids) for one in encode(own, add_special_tokens=False)]) for key, own in texts.items()
    }
    found |= {"tokenizer": tokenizer, "tokens": {key: _spread(counts) for key, counts in tokens.items()}}
    # a row is as long as its prompt and the longer of its answers
    answers = [counts for key, counts in tokens.items() if key != "prompt"]
    longest = tokens.get("prompt", np.zeros(len(rows))) + (np.max(answers, axis=0) if answers else 0)
    found |= {"limit": limit, "above_limit": int(np.sum(longest > limit))}
    if "chosen" in tokens:
        found["chosen_is_longer"] = float(np.mean(tokens["chosen"] > tokens["rejected"]))
    marked = [any(mark in own[i] for own in texts.values() for mark in MARKS) for i in range(len(rows))]
    found["control_tokens"] = sum(marked)
    return found


def _parsed(read: Sequence[tuple[str, Callable[[], Any]]], parse: Callable[[Any], Row]) -> Any:
    rows, malformed = [], []
    for place, decode in read:
        try:
            rows.append(parse(decode()) | {"source": place})
        except ValueError as error:
            malformed.append(f"{place}: {error}")
    return rows, malformed


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "\n".join(message["content"] for message in value)


def _spread(values: Any) -> dict[str, float]:
    median, most, largest = np.percentile(values, [50, 95, 100])
    return {"median": float(median), "p95": float(most), "largest": float(largest)}


def print_check(found: dict[str, Any], out: Console) -> None:
    out.print(f"{printable(found['file'])}: {found['rows']} rows of {found['kind']}, {found['sound']} sound")
    for fault in ("malformed", "repeated"):
        for said in found[fault][:NAMED]:
            out.print(f"  {fault}: {printable(said)}")
        if len(found[fault]) > NAMED:
            out.print(f"  {len(found[fault]) - NAMED} more are {fault}")
    if found["tokens"]:
        table = Table("part", "median", "95 %", "largest", box=None, pad_edge=False)
        for key, spread in found["tokens"].items():
            table.add_row(key, *(f"{spread[name]:.0f}" for name in ("median", "p95", "largest")))
        out.print(f"tokens ({printable(found['tokenizer'])}):")
        out.print(table)
        out.print(
            f"{found['above_limit']} rows are above {found['limit']} tokens, the chat template's own not counted: they "
            "are cut, skipped or refused as long_rows says"
            if found["above_limit"]
            else f"no row is above {found['limit']} tokens"
        )
    if "chosen_is_longer" in found:
        share = found["chosen_is_longer"]
        told = "; a reward model may learn length" if abs(share - 0.5) > 0.1 else ""
        out.print(f"the chosen answer is the longer one in {share:.0%} of the pairs{told}")
    if found["control_tokens"]:
        out.print(f"{found['control_tokens']} rows hold control tokens of chat templates; they are read as text")
