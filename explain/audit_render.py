"""An audit for the eye: in the terminal, and as a self-contained HTML fragment."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from explain.audit_result import ALARM, Audit, Finding
from explain.audit_words import bounded, describe, signed
from explain.parts import printable

if TYPE_CHECKING:
    from rich.console import Group

CSS = """
.audit table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.audit th, .audit td { padding: .2em .6em; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--rule, rgba(128, 128, 128, .4)); }
.audit .au-alarm { font-weight: 650; }
.audit small { display: block; opacity: .8; }
.au-scroll { overflow-x: auto; }
.au-text { white-space: pre-wrap; overflow-wrap: anywhere; }
.au-add { background: rgba(var(--positive-rgb, 37, 99, 235), var(--au-share)); }
.au-take { background: rgba(var(--negative-rgb, 220, 38, 38), var(--au-share)); }
""".strip()

HEADINGS = ("feature", "verdict", "probe", "beyond control", "reward", "model", "people", "model − people")
KEY = (
    "Probe: the reward of the same answer with the feature less without it, and beyond neutral words in its place, in "
    "standard deviations. Reward: its part per standard deviation of the feature in the data, the other features held "
    "fixed. Model, people: the same of their choices, 1 for one answer and −1 for the other (of single answers, of "
    "rewards and people's scores). Each ± half of its 95 % interval."
)


def cells(finding: Finding) -> tuple[str, ...]:
    """A finding as the row of a table under `HEADINGS`."""
    probe, seen = finding.probe, finding.observed
    return (
        finding.feature,
        finding.verdict.upper() if finding.verdict == ALARM else finding.verdict,
        bounded(probe.change if probe else None),
        bounded(probe.beyond if probe else None),
        bounded(seen.reward if seen else None),
        bounded(seen.model if seen else None),
        bounded(seen.people if seen else None),
        bounded(seen.excess if seen else None),
    )


def html_fragment(audit: Audit) -> str:
    """A <section class="audit"> without script; the page supplies `CSS` once. Everything is escaped."""
    head = "".join(f'<th scope="col">{escape(heading)}</th>' for heading in HEADINGS)
    rows = "".join(_row(finding) for finding in audit.findings)
    said = "".join(f"<li>{escape(line)}</li>" for line in describe(audit))
    return (
        f'<section class="audit"><ul>{said}</ul><div class="au-scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div><p><small>{escape(KEY)}</small></p>{_picks(audit)}</section>"
    )


def _picks(audit: Audit) -> str:
    """The answers to read, each word tinted by its weight."""
    largest = max((abs(weight) for pick in audit.picks for _, weight in pick.units), default=0.0) or 1.0
    shown = []
    for pick in audit.picks:
        text = "".join(_tinted(unit, weight, 0.45 * abs(weight) / largest) for unit, weight in pick.units)
        shown.append(f'<p><small>{escape(printable(pick.question))}</small></p><div class="au-text">{text}</div>')
    return f"<h4>Answers to read first</h4>{''.join(shown)}" if shown else ""


def _tinted(unit: str, weight: float, share: float) -> str:
    side = "au-add" if weight > 0 else "au-take"
    style = f'style="--au-share: {share:.3f}" title="{signed(weight)}"'
    return f'<span class="{side}" {style}>{escape(printable(unit))}</span>'


def _row(finding: Finding) -> str:
    name, *rest = map(escape, cells(finding))
    what = f"<small>{escape(finding.definition)}; in {finding.rows} rows</small>"
    style = ' class="au-alarm"' if finding.verdict == ALARM else ""
    return f'<tr{style}><th scope="row">{name}{what}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>'


def terminal(audit: Audit) -> Group:
    """What rich prints: the findings in words, and the table."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(*HEADINGS)
    for finding in audit.findings:
        style = "bold red" if finding.verdict == ALARM else ""
        table.add_row(*(Text(cell, style=style) for cell in cells(finding)))
    return Group(*(Text(line) for line in describe(audit)), table, Text(KEY, style="dim"))
