"""A council in the terminal, side by side: one column per expert, with its line so far and the step being written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from graphs.cli.output import printable

NARROWEST = 60  # columns of a terminal in which experts can stand side by side
EACH = 16  # columns that an expert needs at least
MOST = 6  # experts


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


def fits(console: Console, experts: Sequence[str]) -> bool:
    """Whether so many experts can stand side by side in this terminal."""
    moving = console.is_terminal and not console.is_dumb_terminal
    wide = console.width >= max(NARROWEST, EACH * len(experts))
    return moving and wide and 0 < len(experts) <= MOST


def drawn(board: Board, console: Console) -> RenderableType:
    """The board in the width of the terminal, and no taller than it: of a long column the end is shown."""
    grid = Table.grid(padding=(0, 2, 0, 0), expand=True)
    width = max(8, console.width // len(board.columns) - 2)
    height = max(4, console.height - 3)
    cells = []
    for name, column in board.columns.items():
        grid.add_column(ratio=1, width=width)
        cells.append(_cell(name, column, console, width, height))
    grid.add_row(*cells)
    heading = Text("" if board.round is None else f"round {board.round}", style="bold")
    return Group(heading, grid)


def _cell(name: str, column: Column, console: Console, width: int, height: int) -> Text:
    style = "dim" if column.left is not None else ""
    head = Text(printable(name), style="bold green" if column.finished else style or "bold", end="")
    if column.score is not None:
        head.append(f"  {column.score:+.2f}", style=style or "cyan")
    rows = [Text(f"{i} {step}", style=style) for i, step in enumerate(column.line, 1)]
    if column.word:
        rows.append(Text(column.word, style="dim italic"))
    if column.left is not None:
        rows.append(Text(f"leaves: {column.left}", style="yellow"))
    rows += [Text(f"› {shown}", style="italic") for text in column.writing.values() if (shown := one_line(text))]
    wrapped = [part for row in rows for part in row.wrap(console, width)]
    top = head.wrap(console, width)[:1]
    return Text("\n").join([*top, *wrapped[-(height - 1) :]])


def one_line(text: Any) -> str:
    """A model's text without control characters, its line breaks as slashes."""
    return printable(str(text or "")).strip().replace("\n", " / ").replace("\t", " ")
