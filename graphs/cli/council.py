"""A council in the terminal: steps as they are written, departures, the answer, the tree of thoughts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text
from rich.tree import Tree

from agents.thought import call_line
from graphs.board import Board, one_line
from graphs.cli.columns import drawn, fits
from graphs.cli.output import printable, unechoed


class CouncilView:
    """Takes the events of a council, inside a ``with`` block.

    ``event``: ``kind`` (token, call, thought, left, share, answer, note), and of ``expert``, ``round``, ``text``,
    ``score``, ``reason``, ``parent`` (the thought that a step continues) and ``id`` (of a thought, also while it is
    written; without one it is the expert's name) what the kind has. In a terminal that is wide enough the ``experts``
    stand side by side; else every event is a line, below which a terminal shows the steps that are being written.
    """

    def __init__(self, console: Console, experts: Sequence[str] = ()) -> None:
        self.console = console
        self.round: int | None = None
        self.board = Board(experts) if fits(console, experts) else None
        self.writing: dict[str, tuple[str, str]] = {}  # id: expert and its unfinished step
        stays = self.board is not None  # the columns are all that was told
        self.live = Live(console=console, transient=not stays, refresh_per_second=8) if console.is_terminal else None
        self._drawing = ExitStack()

    def __enter__(self) -> CouncilView:
        self._draw()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.live:
            if not self.board:
                self.live.update(Text(""))
            self._leave_off()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Inside, the terminal is free for something else."""
        self._leave_off()
        try:
            yield
        finally:
            self._draw()

    def _draw(self) -> None:
        if self.live:
            self._drawing.enter_context(unechoed())
            self._drawing.enter_context(self.live)

    def _leave_off(self) -> None:
        self._drawing.close()

    def __call__(self, event: dict[str, Any]) -> None:
        if self.board:
            if not self.board.take(event):
                self.console.print(event_line(event))
            if self.live:
                self.live.update(drawn(self.board, self.console))
            return
        expert = str(event.get("expert") or "")
        if event["kind"] == "token":
            step = str(event.get("id") or expert)
            _, before = self.writing.get(step, (expert, ""))
            self.writing[step] = (expert, before + str(event.get("text") or ""))
        else:
            self.writing = {key: row for key, row in self.writing.items() if row[0] != expert}
            if event.get("round") not in (None, self.round):
                self.round = event["round"]
                self.console.print(Text(f"round {self.round}", style="bold"))
            self.console.print(event_line(event))
        if self.live:
            self.live.update(Group(*(self._unfinished(name, text) for name, text in self.writing.values())))

    def _unfinished(self, expert: str, text: str) -> Text:
        shown = printable(text).replace("\n", " ")
        return Text(f"  {expert}: {shown[-max(10, self.console.width - len(expert) - 6) :]}", style="dim")


def event_line(event: dict[str, Any]) -> Text:
    """One event as one line."""
    expert = printable(str(event.get("expert") or ""))
    text, reason = one_line(event.get("text")), one_line(event.get("reason"))
    kind = event["kind"]
    if kind == "thought":
        return Text.assemble(f"  {expert}: {text}", (_score(event.get("score")), "cyan"))
    if kind == "call":
        return Text(f"  {expert} calls {text}", style="dim")
    if kind == "left":
        return Text(f"  {expert} leaves: {reason or text or 'no reason given'}{_score(event.get('score'))}", "yellow")
    if kind == "share":
        return Text(f"  shared: {f'{expert}: ' if expert else ''}{text or reason}", style="dim")
    if kind == "answer":
        return Text(f"  the vote takes {expert or 'no one'}'s line{_score(event.get('score'))}", style="green")
    return Text(f"  note: {text or reason}", style="dim")


def print_result(result: dict[str, Any], out: Console) -> None:
    """The answer, who stayed, and the tree."""
    answer = result.get("answer")
    solved = {True: "  (checked: solved)", False: "  (checked: not solved)"}.get(result.get("solved"), "")  # type: ignore[arg-type]
    out.print(Text(f"answer: {printable(answer) if answer else 'none'}{solved}", style="bold"))
    for expert in result["experts"]:
        reason = f", {printable(expert['reason'])}" if expert.get("reason") else ""
        out.print(Text(f"  {printable(expert['name'])}: {expert['status']}{reason}"))
    for note in result.get("notes", []):
        out.print(Text(f"  note: {printable(note)}"))
    out.print(tree(result))
    out.print(Text(f"{result['rounds']} rounds, {result['tokens']} tokens, {result['seconds']:.1f} s", style="dim"))


def tree(result: dict[str, Any]) -> Tree:
    """The thoughts by their parents, under the question. A thought whose parent is unknown is a first step."""
    thoughts = result["thoughts"]
    known = {thought["id"] for thought in thoughts}
    root = Tree(Text(printable(str(result["question"])), style="bold"))
    nodes: dict[str, Tree] = {}
    waiting = list(thoughts)
    while waiting:
        ready = [t for t in waiting if t["parent"] not in known or t["parent"] in nodes] or waiting[:1]
        for thought in ready:
            parent = nodes.get(thought["parent"], root)
            nodes[thought["id"]] = parent.add(_label(thought))
        waiting = [t for t in waiting if t["id"] not in nodes]
    return root


def _label(thought: dict[str, Any]) -> Text:
    text = printable(thought["text"]).strip().replace("\n", " / ")
    status = thought.get("status")
    reason = f": {printable(thought['reason'])}" if thought.get("reason") else ""
    ending = "" if status in (None, "active") else f"  [{status}{reason}]"
    style = {"left": "yellow", "final": "green", "pruned": "dim"}.get(status or "", "")
    calls = [(f"\n  {one_line(call_line(call))}", "dim") for call in thought.get("calls", [])]
    return Text.assemble(
        (f"{printable(thought['expert'])}: {text}{_score(thought.get('score'))}{ending}", style), *calls
    )


def _score(score: float | None) -> str:
    return "" if score is None else f"  {score:+.2f}"
