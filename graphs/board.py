"""A council as it sits: a column per expert, with its line so far and the step that it writes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from explain.parts import printable


@dataclass
class Column:
    """What is shown of one expert. ``left``: why it is gone, where it is."""

    line: tuple[str, ...] = ()
    score: float | None = None
    left: str | None = None
    word: str = ""  # what it did last besides thinking
    finished: bool = False
    writing: dict[str, str] = field(default_factory=dict)  # id of a step: its text so far


class Board:
    """The columns, and the lines that can be continued."""

    def __init__(self, experts: Iterable[str]) -> None:
        self.round: int | None = None
        self.columns = {name: Column() for name in experts}
        self.lines: dict[str, tuple[str, ...]] = {}  # id of a thought: the steps down to it

    def take(self, event: dict[str, Any]) -> bool:
        """Shows an event in its expert's column; False where it has none, or is not told in columns."""
        name, kind = str(event.get("expert") or ""), event["kind"]
        self.round = event.get("round") or self.round
        column = self.columns.get(name)
        if column is None or kind not in ("token", "call", "thought", "left", "share", "answer"):
            return False
        text = one_line(event.get("text"))
        step = str(event.get("id") or name)
        if kind == "token":
            column.writing[step] = column.writing.get(step, "") + str(event.get("text") or "")
            column.left = None
        elif kind == "thought":
            column.writing.clear()  # a round's steps are told when all of them are written
            # where no parent is named, an expert goes on from its own last step
            named = "parent" in event
            before = () if named and event["parent"] is None else self.lines.get(str(event.get("parent")), column.line)
            column.line = self.lines[step] = (*before, text)
            column.score, column.left, column.word = event.get("score"), None, ""
        elif kind == "left":
            column.writing.clear()
            column.left = one_line(event.get("reason")) or text or "no reason given"
        elif kind in ("call", "share"):
            column.left, column.word = None, text or one_line(event.get("reason"))
        else:
            column.finished = True
        return True


def one_line(text: Any) -> str:
    """A model's text without control characters, its line breaks as slashes."""
    return printable(str(text or "")).strip().replace("\n", " / ").replace("\t", " ")
