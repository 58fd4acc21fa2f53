"""Line charts as inline SVG: several series, direct labels, no script; the page gives the colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from graphs.report.formats import fixed, number
from graphs.report.palette import colour_class

WIDTH, HEIGHT = 420, 236  # user units; one unit is about one CSS pixel in a column of the page
LEFT, TOP, BOTTOM = 60, 50, 36  # margins; the right one depends on the labels
DOTS = 24  # up to so many points each one is drawn
BUCKETS = 400  # longer series are drawn as means of equal buckets
DASHES = ("none", "7 3", "2 3", "9 3 2 3", "4 4", "1 4")

Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """One line: points (x, y) in ascending x. A y of NaN or infinity is a gap."""

    name: str
    points: Sequence[Point]


@dataclass(frozen=True)
class Scale:
    """A linear map from values [low, high] to pixels [start, end]; end may lie before start (the y axis)."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten, about ``count`` steps, that enclose [low, high].

    The step is the smallest such number that needs at most ``count + 1`` steps. A single value (up to
    rounding) is widened by half its size, or by 1 at zero.
    """
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        spread = abs(low) / 2 or 1.0
        low, high = low - spread, high + spread
    power = 10.0 ** math.floor(math.log10((high - low) / (count + 1)))
    for factor in (1, 2, 5, 10, 20):
        step = factor * power
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        if last - first <= count + 1:
            break
    return [index * step for index in range(first, last + 1)]


def tick_label(value: float, step: float) -> str:
    """A tick's label, with the decimals that its step needs."""
    if abs(value) >= 1e6 or step < 1e-4:
        return number(value)
    return fixed(value, max(0, -math.floor(math.log10(step) + 1e-9)))


def bucket_means(points: Sequence[Point], buckets: int) -> list[Point]:
    """Means of x and y over equal runs of neighbouring points; short series come back as they are."""
    size = math.ceil(len(points) / buckets)
    if size <= 1:
        return list(points)
    runs = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(x for x, _ in run) / len(run), sum(y for _, y in run) / len(run)) for run in runs]


def spread_labels(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions near the wanted ones, at least ``gap`` apart, inside [low, high] if they fit."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    placed = [0.0] * len(wanted)
    floor = low
    for i in order:
        placed[i] = floor = max(wanted[i], floor)
        floor += gap
    ceiling = high
    for i in reversed(order):
        placed[i] = ceiling = min(placed[i], ceiling)
        ceiling -= gap
    return placed


def _segments(points: Sequence[Point]) -> list[list[Point]]:
    """The points between gaps."""
    runs: list[list[Point]] = [[]]
    for x, y in points:
        if math.isfinite(y):
            runs[-1].append((x, y))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _path(run: Sequence[Point], sx: Scale, sy: Scale) -> str:
    return "M" + "L".join(f"{sx(x):.1f} {sy(y):.1f}" for x, y in run)


def _finite(series: Sequence[Series]) -> list[Point]:
    return [p for s in series for p in s.points if math.isfinite(p[1])]


def y_axis(series: Sequence[Series], include: Sequence[float]) -> tuple[Scale, list[float]]:
    """The y scale and its ticks; the first and the last tick are the axis' ends."""
    values = [y for _, y in _finite(series)] + list(include)
    marks = ticks(min(values), max(values))
    return Scale(marks[0], marks[-1], HEIGHT - BOTTOM, TOP), marks


def x_axis(series: Sequence[Series], edge: float) -> tuple[Scale, list[float]]:
    """The x scale, from the first to the last step, and its ticks: whole numbers within."""
    steps = [x for x, _ in _finite(series)]
    low, high = min(steps), max(steps)
    if low == high:
        low, high = low - 1, high + 1
    return Scale(low, high, LEFT + 6, edge), [t for t in ticks(low, high) if low <= t <= high and t == round(t)]


def line_chart(
    title: str,
    series: Sequence[Series],
    unit: str = "",
    x_label: str = "step",
    include: Sequence[float] = (),
    reference: float | None = None,
) -> Markup:
    """An SVG chart, or an empty string if there is no finite point.

    Args:
        title: shown on top, and the beginning of the text alternative.
        series: the lines; one alone is labelled by its last value, several by name and last value.
        unit: of the y axis, shown under the title.
        x_label: shown before the ticks of the x axis.
        include: y values that the axis must contain.
        reference: a y value marked by a dashed line.
    """
    series = [s for s in series if any(math.isfinite(y) for _, y in s.points)]
    if not series:
        return Markup("")
    lasts = [[p for p in s.points if math.isfinite(p[1])][-1] for s in series]
    firsts = [[p for p in s.points if math.isfinite(p[1])][0] for s in series]
    include = [*include, *([] if reference is None else [reference])]
    sy, y_ticks = y_axis(series, include)
    step = y_ticks[1] - y_ticks[0]
    values = [tick_label(last[1], step / 10) for last in lasts]  # one decimal more than the ticks
    labels = values if len(series) == 1 else [f"{s.name} {v}" for s, v in zip(series, values, strict=True)]
    edge = WIDTH - 14 - 6.7 * max(len(label) for label in labels)
    sx, x_ticks = x_axis(series, edge)
    base = HEIGHT - BOTTOM

    spoken = "; ".join(
        f"{s.name} from {number(a[1])} at {x_label} {number(a[0])} to {number(b[1])} at {x_label} {number(b[0])}"
        for s, a, b in zip(series, firsts, lasts, strict=True)
    )
    out = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" xmlns="http://www.w3.org/2000/svg" '
        f'aria-label="{escape(title)}{escape(f" ({unit})" if unit else "")}: {escape(spoken)}">',
        f'<text class="g-title" x="0" y="15">{escape(title)}</text>',
        f'<text class="g-soft" x="0" y="32">{escape(unit)}</text>',
    ]
    for value in y_ticks:
        y = sy(value)
        out.append(f'<path class="g-grid" d="M{LEFT} {y:.1f}H{edge:.1f}"/>')
        out.append(f'<text class="g-tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">')
        out.append(f"{tick_label(value, step)}</text>")
    for value in x_ticks:
        out.append(f'<path class="g-axis" d="M{sx(value):.1f} {base}v4"/>')
        out.append(f'<text class="g-tick" x="{sx(value):.1f}" y="{base + 17}" text-anchor="middle">')
        out.append(f"{fixed(value, 0)}</text>")
    out.append(f'<path class="g-axis" d="M{LEFT} {base}H{edge:.1f}"/>')
    out.append(f'<text class="g-soft" x="0" y="{base + 17}">{escape(x_label)}</text>')
    if reference is not None:
        out.append(f'<path class="g-reference" d="M{LEFT} {sy(reference):.1f}H{edge:.1f}"/>')

    for index, one in enumerate(series):
        dash = f' stroke-dasharray="{DASHES[index % len(DASHES)]}"' if index else ""
        out.append(f'<g class="s{colour_class(index)}">')
        for run in _segments(one.points):
            path = _path(bucket_means(run, BUCKETS), sx, sy)
            out.append(f'<path class="g-line" d="{path}"{dash}/>')
            if len(one.points) <= DOTS:
                out += [
                    f'<circle class="g-dot" cx="{sx(x):.1f}" cy="{sy(y):.1f}" r="3">'
                    f"<title>{escape(x_label)} {number(x)}: {number(y)}</title></circle>"
                    for x, y in run
                ]
        out.append("</g>")
    heights = spread_labels([sy(last[1]) for last in lasts], 15, TOP, base)
    for index, (label, last, y) in enumerate(zip(labels, lasts, heights, strict=True)):
        out.append(f'<text class="g-label s{colour_class(index)}" x="{sx(last[0]) + 8:.1f}" y="{y + 4:.1f}">')
        out.append(f"{escape(label)}</text>")
    return Markup("".join(out) + "</svg>")
