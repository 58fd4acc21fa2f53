"""Results on stdout, everything else on stderr."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import termios
import unicodedata
from collections.abc import Iterator
from typing import IO, Any

from rich.console import Console


@contextlib.contextmanager
def results(as_json: bool) -> Iterator[IO[str]]:
    """The stream for results. With ``as_json`` whatever else prints to stdout meanwhile goes to stderr."""
    stdout = sys.stdout
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        yield stdout


def write_json(value: dict[str, Any], stream: IO[str]) -> None:
    """One JSON object and a newline; NaN and infinity, which JSON lacks, become null."""
    stream.write(json.dumps(_finite(value), indent=1, default=str) + "\n")


def console(stream: IO[str]) -> Console:
    """Plain where ``stream`` is no terminal or NO_COLOR is set; text is never read as markup."""
    # a file or pipe has no width: wide enough that names and paths stay whole
    width = None if stream.isatty() or "COLUMNS" in os.environ else 160
    return Console(file=stream, width=width, markup=False, highlight=False, emoji=False, soft_wrap=width is not None)


@contextlib.contextmanager
def unechoed() -> Iterator[None]:
    """Inside, what is typed (``^C``, too) is not shown, because it would shift what is drawn; the prompt that follows
    has it."""
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    flags = before[3] & ~termios.ECHO
    try:
        termios.tcsetattr(sys.stdin, termios.TCSANOW, [*before[:3], flags, *before[4:]])
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSANOW, before)


def printable(text: str) -> str:
    """Text of a model or a file without control characters, which could steer the terminal."""
    return "".join("\ufffd" if unicodedata.category(c) == "Cc" and c not in "\n\t" else c for c in text)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value
