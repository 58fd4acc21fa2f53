"""Audits of a reward model over rows of data, for ``junto explain audit`` and the gate before PPO. Free of torch."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from alignment.run_dir import write_atomic
from explain.audit import Example
from graphs import rows as shapes
from graphs.tasks import Row, jsonl

FOLDER = "audits"  # of a run directory


def read_examples(path: Path, limit: int, seed: int, system: str = "") -> tuple[list[Example], list[str]]:
    """At most ``limit`` rows of a file of pairs, of scored answers, or of answers alone, drawn by ``seed``; and notes
    on rows that were left out.

    Rows are as in ``graphs.tasks.jsonl``; a pair may say which answer people saw first, ``"first": "chosen"`` or
    ``"rejected"``. Raises UsageError for a file that holds no such row.
    """
    rows, notes = jsonl.read(path, _row, system)
    return _drawn(examples_of(rows), limit, seed), notes


def examples_of(rows: Iterable[Row]) -> list[Example]:
    """Rows of ``TaskData.pairs``, or answers without a judgement, as examples."""
    found = []
    for row in rows:
        prompt = row["prompt"]
        if "chosen" in row:
            first = row.get("first") or "chosen"
            both = (row["chosen"], row["rejected"]) if first == "chosen" else (row["rejected"], row["chosen"])
            label = 1.0 if first == "chosen" else -1.0
            found.append(Example(prompt, both, label, ordered=row.get("first") is not None))
            continue
        texts = row.get("responses") or [row["response"]]
        scores = row.get("scores") or [row.get("score")] * len(texts)
        found += [Example(prompt, (text,), score) for text, score in zip(texts, scores, strict=True)]
    return found


def sample(rows: Sequence[Row], limit: int, seed: int) -> list[Example]:
    """At most ``limit`` examples of a task's pairs, drawn by ``seed``."""
    return _drawn(examples_of(rows), limit, seed)


def keep(run: Path, name: str, found: dict[str, Any]) -> Path:
    """Writes a result where the run's report finds it."""
    path = run / FOLDER / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    write_atomic(path, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    return path


def name_of(path: Path, *settings: Any) -> str:
    """A file name for the audit of one file with these settings."""
    digest = hashlib.sha256(json.dumps([str(path.resolve()), *settings]).encode()).hexdigest()[:8]
    return f"{path.name.split('.')[0][:40] or 'data'}-{digest}"


def _drawn(examples: list[Example], limit: int, seed: int) -> list[Example]:
    if len(examples) <= limit:
        return examples
    kept = sorted(random.Random(f"{seed}/audit").sample(range(len(examples)), limit))
    return [examples[i] for i in kept]


def _row(value: Any) -> Row:
    """A row of a file; an answer alone is one of instructions, a plain text or a response without a score."""
    if not isinstance(value, dict) or {"chosen", "rejected", "score"} & value.keys():
        row = shapes.preference(value)
        first = value.get("first")
        if "chosen" in row and first is not None:
            if first not in ("chosen", "rejected"):
                raise ValueError('"first" is neither "chosen" nor "rejected"; expected the answer that was shown first')
            row["first"] = first
        return row
    if "text" in value or "response" in value:
        scored = shapes.preference({**value, "score": 0})
        return {"prompt": scored["prompt"], "response": scored["response"]}
    row = shapes.instruction(value)
    return {"prompt": row["prompt"], "response": row["completion"]}
