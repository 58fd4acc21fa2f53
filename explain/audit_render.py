"""An audit for the eye: in the terminal, and as a self-contained HTML fragment."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from explain.audit_result import ALARM, Audit, Finding
from explain.audit_words import bounded, describe

if TYPE_CHECKING:
    from rich.console import Group

CSS = """
.audit table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.audit th, .audit td { padding: .2em .6em; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--rule, rgba(128, 128, 128, .4)); }
.audit .au-alarm { font-weight: 650; }
.audit small { display: block; opacity: .8; }
.au-scroll { overflow-x: auto; }
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
        f"<tbody>{rows}</tbody></table></div><p><small>{escape(KEY)}</small></p></section>"
    )


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
