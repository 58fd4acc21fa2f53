"""``/score``, ``/why`` and ``/tree`` of a chat in the terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from alignment.errors import UsageError
from explain.result import METHODS, from_json
from graphs.cli.council import tree as drawn
from graphs.cli.output import console, printable
from graphs.cli.progress import Reporter
from graphs.judged import Judged, judge_of, judged

if TYPE_CHECKING:
    from graphs.cli.chat_terminal import Terminal


def _last(terminal: Terminal) -> Judged:
    talk = terminal.talk
    return judged(terminal.chats.messages(terminal.session), talk.council, talk.database)


def score(terminal: Terminal, argument: str) -> None:
    one = _last(terminal)
    screen = console(sys.stdout)
    if one.result is not None:
        if not one.lines:
            raise UsageError("the council finished no line, so there is nothing to score; /tree shows what it wrote")
        table = Table("expert", "line", "score", box=None, pad_edge=False)
        for expert, text, value in one.lines:
            table.add_row(printable(expert), Text(printable(text)), "-" if value is None else f"{value:+.3f}")
        screen.print(table)
        return
    value = judge_of(terminal.talk.run, terminal.talk.engine).reward(one)
    screen.print(Text(f"reward of the last reply: {value:+.3f}"))


def why(terminal: Terminal, method: str) -> None:
    from explain.render import terminal as rendered

    if method and method not in METHODS:
        raise UsageError(f"there is no method {method!r}; there are {', '.join(METHODS)}")
    one = _last(terminal)
    judge = judge_of(terminal.talk.run, terminal.talk.engine)
    with Reporter() as report:
        explanations = judge.why(one, method or "lime", report)
    screen = console(sys.stdout)
    for number, explanation in enumerate(explanations):
        if number:
            screen.print(Text("against the runner-up:"))
        screen.print(rendered(from_json(explanation)))


def tree(terminal: Terminal, argument: str) -> None:
    one = _last(terminal)
    if one.result is None:
        raise UsageError("one model replied, so there is no tree; junto chat --graph council seats a council")
    from graphs.report import write_report
    from graphs.results import keep

    screen = console(sys.stdout)
    screen.print(drawn(one.result))
    if run := terminal.talk.run:
        path = keep(run.path, "trees", one.result)
        write_report(run.path)
        screen.print(Text(f"page: {path.with_suffix('.html')}"))
