"""Rewards kept on disk, one JSON line each; a broken line or file only costs a recomputation."""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Sequence
from pathlib import Path


def file_for(folder: Path, fingerprint: str) -> Path:
    """The cache file of one scorer."""
    digest = hashlib.sha256(fingerprint.encode("utf-8", "surrogatepass")).hexdigest()
    return folder / f"rewards-{digest[:16]}.jsonl"


def key(fingerprint: str, prompt: Sequence[dict[str, str]], text: str) -> str:
    """sha256 over the scorer's fingerprint, the prompt and the text, as 64 hex digits."""
    return hashlib.sha256(json.dumps([fingerprint, list(prompt), text], sort_keys=True).encode()).hexdigest()


def read(path: Path) -> dict[str, float]:
    """All sound entries {key: reward}; lines that are torn, foreign or not finite are passed over."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError:  # not there yet, or not readable: then nothing is known
        return {}
    known = {}
    for line in lines:
        try:
            name, reward = json.loads(line)
        except (ValueError, TypeError, RecursionError):
            continue
        if isinstance(name, str) and len(name) == 64 and type(reward) is float and math.isfinite(reward):
            known[name] = reward
    return known


def append(path: Path, rewards: dict[str, float]) -> None:
    """Add entries; a folder that cannot be written costs a warning, not the explanation."""
    # The leading newline closes a line that an interrupted writer may have left open.
    block = "\n" + "".join(json.dumps([name, reward]) + "\n" for name, reward in rewards.items())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(block.encode())
    except OSError as error:
        warnings.warn(f"The reward cache {path} cannot be written ({error.strerror}).", stacklevel=2)
