"""What a revision came to, in the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from graphs.cli.output import printable

VERDICTS = {True: "  (checked: solved)", False: "  (checked: not solved)"}


def print_revision(result: dict[str, Any], kept: Path, out: Console) -> None:
    """The answer, how each turn was judged, and where the result is kept."""
    answer = printable(result["answer"] or "none")
    out.print(Text(f"answer: {answer}{VERDICTS.get(result['solved'], '')}", style="bold"))
    for number, turn in enumerate(result["turns"], 1):
        value = "" if turn["value"] is None else f", critic {turn['value']:+.2f}"
        verdict = ", accepted" if turn["accepted"] else ""
        out.print(Text(f"  turn {number}: score {turn['score']:+.2f}{value}{verdict}"))
    for note in result["notes"]:
        out.print(Text(f"  note: {printable(note)}"))
    out.print(Text(f"{result['tokens']} tokens, {result['seconds']:.1f} s", style="dim"))
    out.print(Text(f"kept: {kept}"))
