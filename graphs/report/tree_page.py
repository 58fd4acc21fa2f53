"""One council as a page of its own: question, verdict, tree, every thought in a table. No script, no network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from agents.thought import call_line
from graphs.report import formats, views
from graphs.report.palette import DARK, LIGHT, SERIES
from graphs.report.templates import template
from graphs.report.tree import STYLE, expert_colours, status_words
from graphs.report.tree_layout import answers, order, path

DEEPEST = 8  # levels by which a step is moved to the right
# numbers of a thought that not every council has, and how their column is headed
NUMBERS = {"score": "Score", "value": "Critic", "visits": "Visits", "logprob": "Log-prob."}


def tree_page(council: Mapping[str, Any]) -> str:
    """The page of one council.

    Args:
        council: its result, the JSON of ``junto run council --json``; thoughts may have ``value``, ``visits`` and
            ``logprob`` (nats).
    """
    thoughts = council.get("thoughts") or []
    shown = {
        key: title for key, title in NUMBERS.items() if any(formats.finite(t.get(key)) is not None for t in thoughts)
    }
    page = template("tree.html.j2").render(
        view=views.tree_view(council),
        columns=list(shown.values()),
        rows=_rows(council, list(shown)),
        tree_css=Markup(STYLE),
        light=LIGHT,
        dark=DARK,
        colours=range(1, SERIES + 1),
    )
    return formats.clean(page)


def _rows(council: Mapping[str, Any], numbers: list[str]) -> list[dict[str, Any]]:
    """The thoughts in the order of the tree, for the table."""
    nodes = order(council.get("thoughts") or [])
    chosen = answers(council, nodes)
    way = {i for answer in chosen for i in path(nodes, answer)}
    colours = expert_colours(council)
    rows = []
    for node in nodes:
        thought, is_answer = node.thought, node.index in chosen
        status = str(thought.get("status") or "")
        name = str(thought.get("expert"))
        rows.append(
            {
                "id": str(thought.get("id")),
                "expert": name,
                "colour": colours[name],
                "round": formats.number(thought.get("round")),
                "level": min(node.depth, DEEPEST),
                "text": str(thought.get("text") or ""),
                "calls": [call_line(call) for call in thought.get("calls") or [] if isinstance(call, Mapping)],
                "ended": status_words(thought, is_answer),
                "kind": "answer" if is_answer else status if status in ("left", "pruned") else "",
                "way": node.index in way,
                "numbers": [_number(key, thought.get(key)) for key in numbers],
            }
        )
    return rows


def _number(key: str, value: Any) -> str:
    real = formats.finite(value)
    return formats.number(value) if real is None or key == "visits" else formats.fixed(real, 2)
