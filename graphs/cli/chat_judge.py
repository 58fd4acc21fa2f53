"""What the judges say of the last reply: ``/score``, ``/why`` and ``/tree``."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage, HumanMessage
from rich.table import Table
from rich.text import Text

from agents.prompt import as_prompt
from agents.thought import Thought, line
from alignment.engine import Engine
from alignment.errors import UsageError
from explain.result import METHODS, from_json
from explain.score import EngineScorer
from graphs.chat import sitting_of
from graphs.cli.council import tree as drawn
from graphs.cli.output import console, printable
from graphs.council_chat import kept
from graphs.rewards import FunctionScorer

if TYPE_CHECKING:
    from graphs.cli.chat_terminal import Terminal


@dataclass(frozen=True)
class Judged:
    """The last reply as the reward model reads it, and, of a council, its ``result`` and its finished lines with their
    scores, the answer first."""

    prompt: list[dict[str, str]]
    text: str
    result: dict[str, Any] | None = None
    lines: tuple[tuple[str, str, float | None], ...] = ()  # expert, line, score


def judged(terminal: Terminal) -> Judged:
    """Raises UsageError where nothing was said."""
    messages = terminal.chats.messages(terminal.session)
    asked = max((i for i, m in enumerate(messages) if isinstance(m, HumanMessage)), default=None)
    replies = [m for m in messages[asked:] if isinstance(m, AIMessage)] if asked is not None else []
    if asked is None or not replies:
        raise UsageError("there is no reply yet")
    council = terminal.talk.council
    if council is None or "council" not in replies[-1].response_metadata:
        return Judged(as_prompt(list(messages[: asked + 1]), ""), replies[-1].text)
    question = messages[asked]
    result = kept(council, terminal.talk.database, question.text, sitting_of(question))
    prompt = council.task.prompt(result["question"], (), council.persona)
    return Judged(prompt, replies[-1].text, result, tuple(_finished(result)))


def _finished(result: dict[str, Any]) -> list[tuple[str, str, float | None]]:
    """The lines that the council finished, each once, the answer first, the others by score."""
    tree = {thought["id"]: Thought.model_validate(thought) for thought in result["thoughts"]}
    found = [(t.expert, "\n".join(line(tree, t.id)), t.score) for t in tree.values() if t.status == "final"]
    found.sort(key=lambda one: (one[1] != result["answer"], -(one[2] if one[2] is not None else float("-inf"))))
    first: dict[str, tuple[str, str, float | None]] = {}
    for one in found:
        first.setdefault(one[1], one)
    return list(first.values())


def score(terminal: Terminal, argument: str) -> None:
    one = judged(terminal)
    screen = console(sys.stdout)
    if one.result is not None:
        if not one.lines:
            raise UsageError("the council finished no line, so there is nothing to score; /tree shows what it wrote")
        table = Table("expert", "line", "score", box=None, pad_edge=False)
        for expert, text, value in one.lines:
            table.add_row(printable(expert), Text(printable(text)), "-" if value is None else f"{value:+.3f}")
        screen.print(table)
        return
    engine, function = _judge(terminal)
    scorer = EngineScorer(engine) if engine and not function else FunctionScorer(function)
    [value] = scorer.score(one.prompt, [one.text])
    screen.print(Text(f"reward of the last reply: {value:+.3f}"))


def why(terminal: Terminal, method: str) -> None:
    from explain.render import terminal as rendered
    from graphs.cli.explain import How, explanation_of

    if method and method not in METHODS:
        raise UsageError(f"there is no method {method!r}; there are {', '.join(METHODS)}")
    one = judged(terminal)
    texts = [one.text] if one.result is None else [text for _, text, _ in one.lines[:2]]
    if not texts:
        raise UsageError("the council finished no line, so there is nothing to explain; /tree shows what it wrote")
    if not texts[0].strip():
        raise UsageError("the last reply is empty, so there is nothing to explain")
    engine, function = _judge(terminal)
    how = How(method=method or "lime")
    screen = console(sys.stdout)
    for shown in [texts[:1], texts] if len(texts) > 1 else [texts]:
        if len(shown) > 1:
            screen.print(Text("against the runner-up:"))
        screen.print(rendered(from_json(explanation_of(engine, function, one.prompt, shown, how))))


def _judge(terminal: Terminal) -> tuple[Engine | None, str]:
    """The engine whose reward model scores, or the run's function that does. Raises UsageError where neither is."""
    run, engine = terminal.talk.run, terminal.talk.engine
    function = str((run.config().get("reward") or {}).get("function") or "") if run else ""
    if not function and (engine is None or "reward" not in engine.roles):
        raise UsageError("this model has no reward model; chat with a run that has one: junto chat game24")
    return engine, function


def tree(terminal: Terminal, argument: str) -> None:
    one = judged(terminal)
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
