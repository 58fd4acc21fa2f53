"""Rewards and infills kept on disk, one JSON line each; a broken line or file only costs a recomputation."""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def file_for(folder: Path, fingerprint: str, of: str = "rewards") -> Path:
    """The cache file of one scorer, or of one infill."""
    digest = hashlib.sha256(fingerprint.encode("utf-8", "surrogatepass")).hexdigest()
    return folder / f"{of}-{digest[:16]}.jsonl"


def key(fingerprint: str, prompt: Sequence[dict[str, str]], text: str) -> str:
    """sha256 over the scorer's fingerprint, the prompt and the text, as 64 hex digits."""
    return hashlib.sha256(json.dumps([fingerprint, list(prompt), text], sort_keys=True).encode()).hexdigest()


def is_reward(value: object) -> bool:
    """A finite float."""
    return type(value) is float and math.isfinite(value)


def is_texts(value: object) -> bool:
    """A list of strings."""
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def read(path: Path, is_sound: Callable[[object], bool] = is_reward) -> dict[str, Any]:
    """All sound entries {key: value}; lines that are torn or foreign are passed over."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError:  # not there yet, or not readable: then nothing is known
        return {}
    known = {}
    for line in lines:
        try:
            name, value = json.loads(line)
        except (ValueError, TypeError, RecursionError):
            continue
        if isinstance(name, str) and len(name) == 64 and is_sound(value):
            known[name] = value
    return known


def append(path: Path, values: dict[str, Any]) -> None:
    """Add entries; a folder that cannot be written costs a warning, not the explanation."""
    # The leading newline closes a line that an interrupted writer may have left open.
    block = "\n" + "".join(json.dumps([name, value]) + "\n" for name, value in values.items())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(block.encode())
    except OSError as error:
        warnings.warn(f"The reward cache {path} cannot be written ({error.strerror}).", stacklevel=2)
