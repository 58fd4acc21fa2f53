"""Results that a run keeps: one JSON file per question, called after it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from alignment.run_dir import write_atomic


def place(run: Path, kind: str, question: str) -> Path:
    """Where the result on a question is kept; ``kind`` is the folder: ``trees`` or ``revisions``."""
    slug = re.sub(r"[^a-z0-9]+", "-", question.lower()).strip("-")[:60] or "question"
    return run / kind / f"{slug}.json"


def keep(run: Path, kind: str, result: dict[str, Any]) -> Path:
    """Writes a result; a later one on the same question takes its place."""
    path = place(run, kind, result["question"])
    path.parent.mkdir(exist_ok=True)
    write_atomic(path, json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    return path
