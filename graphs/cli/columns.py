"""A council in the terminal, side by side: one column per expert, with its line so far and the step being written."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from graphs.board import Board, Column, one_line
from graphs.cli.output import printable

NARROWEST = 60  # columns of a terminal in which experts can stand side by side
EACH = 16  # columns that an expert needs at least
MOST = 6  # experts


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
