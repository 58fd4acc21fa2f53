"""A conversation as a page of its own. No script, no network."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from graphs.report import formats
from graphs.report.palette import DARK, LIGHT, SERIES
from graphs.report.templates import template
from graphs.report.tree import STYLE


def chat_page(title: str, model: str, turns: Sequence[dict[str, str]]) -> str:
    """``turns``: ``{"role", "content"}`` in their order."""
    page = template("chat.html.j2").render(
        title=title,
        model=model,
        turns=turns,
        tree_css=Markup(STYLE),
        light=LIGHT,
        dark=DARK,
        colours=range(1, SERIES + 1),
    )
    return formats.clean(page)
