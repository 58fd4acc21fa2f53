"""Estimates with their intervals as a forest plot: two arms, and below them their paired difference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

from graphs.report.curves import Scale, tick_label, ticks
from graphs.report.formats import DASH, finite, interval, is_interval

WIDTH = 420
AXIS_LEFT, AXIS_RIGHT = 138, 404  # pixels of the axis' ends
ROW, AXIS = 30, 40  # heights of a row, and of the ticks under a panel
TOP = 4

Interval = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """One estimate: a label, its interval (JSON), and a marker: "open", "filled" or "diamond"."""

    label: str
    interval: Interval
    marker: str = "filled"


@dataclass(frozen=True)
class Panel:
    """Rows that share an axis. ``factor`` multiplies the values (100: shares in percent)."""

    unit: str
    rows: Sequence[Row]
    zero: bool = False
    factor: float = 1.0


def reading(difference: Any) -> str:
    """What a paired difference shows, in words: whether its interval lies above, below or across zero."""
    if not is_interval(difference):
        return ""
    low, high = finite(difference["low"]), finite(difference["high"])
    if low is None or high is None or low == high:
        return "There is no interval, so nothing can be said about a change."
    if low > 0:
        return "The interval lies above zero: a rise."
    if high < 0:
        return "The interval lies below zero: a fall."
    return "The interval contains zero: a change is not shown."


def methods(values: Sequence[Any]) -> str:
    """How some intervals were made, each level and method once: "95% interval: Wilson; paired bootstrap."."""
    found: dict[str, list[str]] = {}
    for value in values:
        if is_interval(value) and value.get("method"):
            level = finite(value.get("level"))
            names = found.setdefault("" if level is None else f"{100 * level:g}% ", [])
            if str(value["method"]) not in names:
                names.append(str(value["method"]))
    return " ".join(f"{level}interval: {'; '.join(names)}." for level, names in found.items())


def _numbers(row: Row, factor: float) -> tuple[float, float, float] | None:
    """(value, low, high) times the factor, or None if one of them is undefined."""
    value, low, high = (finite(row.interval.get(key)) for key in ("value", "low", "high"))
    if value is None or low is None or high is None:
        return None
    return value * factor, low * factor, high * factor


def _marker(kind: str, x: float, y: float) -> str:
    if kind == "diamond":
        return f'<path class="f-mark" d="M{x - 6:.1f} {y:.1f}l6 -6l6 6l-6 6z"/>'
    return f'<circle class="f-mark{" f-open" if kind == "open" else ""}" cx="{x:.1f}" cy="{y:.1f}" r="5"/>'


def panel_scale(panel: Panel) -> tuple[Scale, list[float]]:
    """The x scale and ticks that enclose every defined interval of a panel, and zero where asked."""
    known = [n for row in panel.rows if (n := _numbers(row, panel.factor))]
    values = [v for triple in known for v in triple] + ([0.0] if panel.zero or not known else [])
    marks = ticks(min(values), max(values))
    return Scale(marks[0], marks[-1], AXIS_LEFT, AXIS_RIGHT), marks


def forest(title: str, panels: Sequence[Panel], form: Callable[[Any], str] | None = None) -> Markup:
    """An SVG forest plot, one panel under the other.

    ``title`` and the values, written by ``form``, are the text alternative; the plot has no visible heading.
    """
    body: list[str] = []
    spoken: list[str] = []
    y = float(TOP)
    for panel in panels:
        scale, marks = panel_scale(panel)
        bottom = y + ROW * len(panel.rows)
        for mark in marks:
            body.append(f'<path class="g-grid" d="M{scale(mark):.1f} {y:.1f}V{bottom:.1f}"/>')
            text = tick_label(mark, marks[1] - marks[0])
            place = f'x="{scale(mark):.1f}" y="{bottom + 15:.1f}" text-anchor="middle"'
            body.append(f'<text class="g-tick" {place}>{text}</text>')
        if panel.zero:
            body.append(f'<path class="g-reference" d="M{scale(0):.1f} {y:.1f}V{bottom:.1f}"/>')
        body.append(f'<path class="g-axis" d="M{AXIS_LEFT} {bottom:.1f}H{AXIS_RIGHT}"/>')
        body.append(f'<text class="g-soft" x="0" y="{bottom + 15:.1f}">{escape(panel.unit)}</text>')
        for row in panel.rows:
            middle = y + ROW / 2
            body.append(f'<text class="f-label" x="0" y="{middle + 4:.1f}">{escape(row.label)}</text>')
            estimate, bounds = interval(row.interval, form)
            spoken.append(f"{row.label} {estimate}, {bounds}")
            numbers = _numbers(row, panel.factor)
            if numbers is None:
                body.append(f'<text class="g-tick" x="{AXIS_LEFT + 4}" y="{middle + 4:.1f}">{DASH}</text>')
            else:
                value, low, high = numbers
                left, right, cap = scale(low), scale(high), middle - 4
                ends = f"M{left:.1f} {cap:.1f}v8M{right:.1f} {cap:.1f}v8"
                body.append(f'<path class="f-bar" d="M{left:.1f} {middle:.1f}H{right:.1f}{ends}"/>')
                body.append(_marker(row.marker, scale(value), middle))
            y += ROW
        y += AXIS
    label = f"{title}: {'; '.join(spoken)}"
    head = (
        f'<svg class="forest" viewBox="0 0 {WIDTH} {y - 18:.0f}" role="img" aria-label="{escape(label)}" '
        'xmlns="http://www.w3.org/2000/svg">'
    )
    return Markup(head + "".join(body) + "</svg>")
