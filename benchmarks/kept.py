"""Rows of a long measurement, on disk as they come, and not measured again while what they come from is the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alignment.run_dir import read_rows, to_jsonl, write_atomic

Row = dict[str, Any]


@contextmanager
def kept(path: Path, about: Any) -> Iterator[tuple[list[Row], Callable[[Row], None]]]:
    """The rows of ``path`` that were measured on the same ``about`` (JSON: the model, the settings), and what adds one.
    Others stay in the file."""
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
    rows = read_rows(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, to_jsonl(rows))  # without a line that a kill has torn
    with path.open("a", encoding="utf-8") as out:

        def keep(row: Row) -> None:
            out.write(to_jsonl([row | {"about": digest}]))
            out.flush()

        yield [row for row in rows if row.get("about") == digest], keep
