"""An explanation for the eye: in the terminal, and as a self-contained HTML fragment."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING
from unicodedata import category

from explain.lime import LimeExplanation
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
# Heading, lime, the weights to show, the anchored units.
_Part = tuple[str, LimeExplanation, tuple[float, ...], tuple[int, ...]]


def html_fragment(explanation: TextExplanation | PairExplanation) -> str:
    """A <section class="explanation"> without script; the page supplies `CSS` once. Everything is escaped."""
    parts = _parts(explanation)
    scale = _scale(parts)
    body = "".join(f"<h4>{escape(part[0])}</h4>{_heat_map(part, scale)}" for part in parts)
    outlined = " Outlined: the anchor." if any(anchored for *_, anchored in parts) else ""
    findings = "".join(f"<li>{escape(line)}</li>" for line in describe(explanation))
    return (
        f'<section class="explanation"><p class="ex-prompt">{escape(_question(explanation))}</p>{body}'
        f'<p class="ex-key">{escape(_key(explanation))}{outlined}</p>'
        f'<ul class="ex-findings">{findings}</ul></section>'
    )


def terminal(explanation: TextExplanation | PairExplanation) -> Group:
    """What rich prints: a table of weights per response, and the findings."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    blocks: list[Table | Text] = [Text(_printable(_question(explanation)), style="dim")]
    for heading, lime, weights, anchored in _parts(explanation):
        table = Table("weight", "unit", title=Text(heading, style="bold"), title_justify="left")
        table.columns[0].justify = "right"
        for unit, weight in enumerate(weights):
            style = "blue" if weight > 1e-9 else "red" if weight < -1e-9 else "dim"
            mark = " (anchor)" if unit in anchored else ""
            text = Text(_printable(lime.units[unit]).strip()).append(mark, style="bold")
            table.add_row(Text(number(weight, signed=True), style=style), text)
        blocks.append(table)
    blocks.append(Text(_key(explanation), style="dim"))
    blocks += [Text(f"- {_printable(line)}") for line in describe(explanation)]
    return Group(*blocks)


def _parts(explanation: TextExplanation | PairExplanation) -> list[_Part]:
    found = explanation.anchor.anchors
    anchored = found[0].units if found else ()
    if isinstance(explanation, PairExplanation):
        chosen, rejected = explanation.chosen, explanation.rejected
        return [
            (f"Chosen, reward {number(chosen.lime.reward)}", chosen.lime, chosen.margin_weights, anchored),
            (f"Rejected, reward {number(rejected.lime.reward)}", rejected.lime, rejected.margin_weights, ()),
        ]
    lime = explanation.lime
    return [(f"Response, reward {number(lime.reward)}", lime, lime.weights, anchored)]


def _scale(parts: list[_Part]) -> float:
    return max((abs(weight) for _, _, weights, _ in parts for weight in weights), default=0.0)


def _heat_map(part: _Part, scale: float) -> str:
    _, lime, weights, anchored = part
    pieces, position = [], 0
    for unit, ((start, end), weight) in enumerate(zip(lime.units.spans, weights, strict=True)):
        text = lime.units[unit]
        shown = text.rstrip()  # the number stands before the line's end
        share = _STRONGEST * abs(weight) / scale if scale > 1e-9 else 0.0
        side = " ex-add" if weight > 1e-9 else " ex-take" if weight < -1e-9 else ""
        outline = " ex-anchor" if unit in anchored else ""
        pieces.append(
            f"{escape(lime.units.text[position:start])}"
            f'<span class="ex-unit{side}{outline}" style="--ex-share: {share:.3f}">{escape(shown)}'
            f'<span class="ex-weight">{number(weight, signed=True)}</span></span>{escape(text[len(shown) :])}'
        )
        position = end
    return f'<div class="ex-text">{"".join(pieces)}{escape(lime.units.text[position:])}</div>'


def _key(explanation: TextExplanation | PairExplanation) -> str:
    what = "the margin" if isinstance(explanation, PairExplanation) else "the reward"
    return f"What each unit adds to {what} (LIME): blue and + add, red and - take away."


def _question(explanation: TextExplanation | PairExplanation) -> str:
    asked = [message["content"] for message in explanation.prompt if message["role"] == "user"]
    return asked[-1] if asked else ""


def _printable(text: str) -> str:
    """Without control characters, which in a model's output could drive the terminal."""
    return "".join(
        "\N{REPLACEMENT CHARACTER}" if category(char) == "Cc" and char not in "\n\t" else char for char in text
    )
