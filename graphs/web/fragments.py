"""Parts of the page as HTML: conversations, a council's columns, what the judges say. Everything is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from markdown_it import MarkdownIt
from markupsafe import Markup

from explain.parts import printable
from explain.render import CSS, html_fragment
from explain.result import from_json
from graphs.asking import Asked, request_of
from graphs.board import Board
from graphs.judged import Judged
from graphs.report.formats import clean, duration, fixed
from graphs.report.palette import DARK, LIGHT, SERIES, colour_class
from graphs.report.templates import template
from graphs.report.tree import STYLE, expert_words, verdict
from graphs.report.views import tree_view
from graphs.web.conversations import Writing

# as text alone: an address behind other words would mislead, and an image tells its server who reads
WITHOUT = ["link", "image", "autolink"]
MARKDOWN = MarkdownIt("commonmark", {"html": False, "breaks": True}).enable("table").disable(WITHOUT)
WHO = {"human": "You", "ai": "Answer", "system": "System"}


def rendered(name: str, /, **values: Any) -> str:
    return clean(template(name).render(**values))


def head() -> str:
    """The page's style: the report's, within ``.junto``, and its own."""
    colours = range(1, SERIES + 1)
    page = rendered(
        "page.css.j2", light=LIGHT, dark=DARK, tree_css=Markup(STYLE), explain_css=Markup(CSS), colours=colours
    )
    return f"<style>{page}</style>"


def markdown(text: str) -> Markup:
    return Markup(MARKDOWN.render(printable(text)))


def conversation(messages: Sequence[AnyMessage], asked: str = "") -> str:
    """The turns; ``asked`` is a question that is being answered and is not kept yet."""
    turns = []
    for message in messages:
        text = markdown(message.text) if isinstance(message, AIMessage) else printable(message.text)
        turns.append({"who": WHO.get(message.type, message.type), "kind": message.type, "text": text})
        turns[-1]["facts"] = _facts(message)
    last = messages[-1] if messages else None
    if asked and not (isinstance(last, HumanMessage) and last.text == asked):
        turns.append({"who": WHO["human"], "kind": "human", "text": printable(asked), "facts": []})
    return rendered("conversation.html.j2", turns=turns)


def _facts(message: AnyMessage) -> list[tuple[str, str]]:
    """What is known of a council's reply: (class, words)."""
    sat = message.response_metadata.get("council")
    if message.response_metadata.get("finish_reason") == "cancelled":
        return [("soft", "stopped")]
    if not sat:
        return []
    words, kind = verdict(sat.get("solved"))
    told = [(kind, words), ("soft", f"{sat['rounds']} rounds, {duration(sat['seconds'])}")]
    return told + [("soft", f"{one['name']} {expert_words(one)}") for one in sat["experts"] if one["status"] == "left"]


def written(writing: Writing | None) -> str:
    """A reply as far as it is written: words, or a council's columns."""
    if writing is None:
        return ""
    text = markdown(writing.text) if writing.text else ""
    return rendered(
        "written.html.j2",
        columns=_columns(writing.board),
        round=writing.board.round,
        text=text,
        notes=[printable(note) for note in writing.notes],
        error=printable(writing.error),
        ended=writing.ended,
    )


def _columns(board: Board) -> list[dict[str, Any]]:
    return [
        {
            "name": printable(name),
            "colour": colour_class(number),
            "line": column.line,
            "score": "" if column.score is None else fixed(column.score, 2),
            "left": column.left,
            "word": column.word,
            "finished": column.finished,
            "writing": [printable(text) for text in list(column.writing.values()) if text.strip()],
        }
        for number, (name, column) in enumerate(list(board.columns.items()))
    ]


def decision(asked: dict[str, Asked]) -> str:
    """What a person is asked."""
    return rendered("decision.html.j2", requests=[request_of(one) for one in asked.values()])


def tree(one: Judged) -> str:
    assert one.result is not None
    return rendered("tree_part.html.j2", view=tree_view(one.result))


def scores(one: Judged, reward: float | None) -> str:
    lines = [(printable(e), printable(text), "" if s is None else fixed(s, 3)) for e, text, s in one.lines]
    return rendered("scores.html.j2", lines=lines, reward=None if reward is None else fixed(reward, 3))


def why(explanations: Sequence[dict[str, Any]]) -> str:
    shown = [Markup(html_fragment(from_json(one))) for one in explanations]
    return rendered("why.html.j2", explanations=shown)


def sentence(text: str, kind: str = "warning") -> str:
    """One sentence for the user: a warning, or ``soft``."""
    return rendered("sentence.html.j2", text=printable(text), kind=kind) if text else ""
