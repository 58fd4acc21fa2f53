"""An explanation for the eye: in the terminal, and as a self-contained HTML fragment."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from explain.parts import EMPTY, Part, asked, key, parts, printable, scale
from explain.result import PairExplanation, TextExplanation
from explain.words import describe, number

if TYPE_CHECKING:
    from rich.console import Group

# Blue adds, red takes away; the signed number says it again for those who do not see the difference. The text
# keeps the page's own colour and the tint stays below half, so that it reads on light and on dark.
CSS = """
.explanation { --ex-add: var(--positive-rgb, 37, 99, 235); --ex-take: var(--negative-rgb, 220, 38, 38);
  color: var(--text, inherit); line-height: 1.7; }
.explanation h4 { margin: .8em 0 .2em; }
.explanation ul { margin: .6em 0 0; padding-left: 1.2em; }
.ex-prompt { opacity: .75; white-space: pre-wrap; overflow-wrap: anywhere; }
.ex-text { white-space: pre-wrap; overflow-wrap: anywhere; padding: .5em .7em; border-radius: .4em;
  border: 1px solid var(--border, rgba(128, 128, 128, .4)); }
.ex-unit { border-radius: .25em; padding: .1em .15em; box-decoration-break: clone;
  -webkit-box-decoration-break: clone; }
.ex-add { background: rgba(var(--ex-add), var(--ex-share)); }
.ex-take { background: rgba(var(--ex-take), var(--ex-share)); }
.ex-anchor { outline: 2px solid currentColor; outline-offset: -1px; }
.ex-weight { font-size: .75em; font-variant-numeric: tabular-nums; margin-left: .35em; opacity: .85; }
.ex-key { font-size: .85em; opacity: .8; }
""".strip()

_STRONGEST = 0.45


def html_fragment(explanation: TextExplanation | PairExplanation) -> str:
    """A <section class="explanation"> without script; the page supplies `CSS` once. Everything is escaped."""
    shown = parts(explanation)
    largest = scale(shown)
    body = "".join(f"<h4>{_escaped(part.heading)}</h4>{_heat_map(part, largest)}" for part in shown)
    outlined = " Outlined: the anchor." if any(part.anchored for part in shown) else ""
    findings = "".join(f"<li>{_escaped(line)}</li>" for line in describe(explanation))
    return (
        f'<section class="explanation"><p class="ex-prompt">{_escaped(asked(explanation))}</p>{body}'
        f'<p class="ex-key">{_escaped(key(explanation))}{outlined}</p>'
        f'<ul class="ex-findings">{findings}</ul></section>'
    )


def terminal(explanation: TextExplanation | PairExplanation) -> Group:
    """What rich prints: a table of weights per response, and the findings."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    blocks: list[Table | Text] = [Text(printable(asked(explanation)), style="dim")]
    for part in parts(explanation):
        blocks.append(Text(part.heading + part.left_out(), style="bold"))  # a table's title is as narrow as the table
        table = Table("weight", "unit")
        table.columns[0].justify = "right"
        for unit in part.strongest():
            weight = part.weights[unit]
            style = "blue" if weight > 1e-9 else "red" if weight < -1e-9 else "dim"
            mark = " (anchor)" if unit in part.anchored else ""
            text = Text(printable(part.units[unit]).strip() or EMPTY).append(mark, style="bold")
            table.add_row(Text(_weight(part, unit), style=style), text)
        blocks.append(table)
    blocks.append(Text(key(explanation), style="dim"))
    blocks += [Text(f"- {printable(line)}") for line in describe(explanation)]
    return Group(*blocks)


def _heat_map(part: Part, largest: float) -> str:
    pieces, position, numbered = [], 0, set(part.strongest())
    for unit, ((start, end), weight) in enumerate(zip(part.units.spans, part.weights, strict=True)):
        text = part.units[unit]
        shown = text.rstrip()  # the number stands before the line's end
        share = _STRONGEST * abs(weight) / largest if largest > 1e-9 else 0.0
        side = " ex-add" if weight > 1e-9 else " ex-take" if weight < -1e-9 else ""
        outline = " ex-anchor" if unit in part.anchored else ""
        weighed = f'<span class="ex-weight">{_weight(part, unit)}</span>' if unit in numbered else ""
        pieces.append(
            f"{_escaped(part.units.text[position:start])}"
            f'<span class="ex-unit{side}{outline}" style="--ex-share: {share:.3f}">{_escaped(shown or EMPTY)}'
            f"{weighed}</span>{_escaped(text[len(shown) :])}"
        )
        position = end
    return f'<div class="ex-text">{"".join(pieces)}{_escaped(part.units.text[position:])}</div>'


def _weight(part: Part, unit: int) -> str:
    error = f" ±{number(part.errors[unit])}" if part.errors else ""
    return number(part.weights[unit], signed=True) + error


def _escaped(text: str) -> str:
    return escape(printable(text))
