"""The learned score, and the gold score where there is one, against KL: how far a policy was optimised, and for what.

The KL axis has a square-root scale, as in Gao, Schulman and Hilton 2022 (arXiv 2210.10760). ``best_of_n.json`` in a run
directory adds the baseline: ``{"points": [{"n", "kl", "reward", "gold"}]}``, of which ``reward`` (in the unit of
``objective/scores``) and ``gold`` are intervals, and ``kl`` is ln n - (n - 1) / n nats.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from markupsafe import Markup, escape

from graphs.report.curves import BUCKETS, DOTS, LEFT, WIDTH, Point, Scale, bucket_means, tick_label, ticks
from graphs.report.files import Json
from graphs.report.formats import finite, number
from graphs.report.palette import colour_class

TOP, PANEL, GAP, BOTTOM = 74, 132, 40, 50  # above the first panel, a panel, between two, below the last
EDGE = WIDTH - 14
APART = 34  # pixels between two labels of the KL axis
ROUND_KL = (0.1, 0.2, 0.5)  # and these times every power of ten


@dataclass(frozen=True)
class Sampled:
    """Best of n by the learned score: its KL, and a mean with its bounds (equal to it where there are none)."""

    n: int
    kl: float
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Panel:
    """One score over the iterations, (KL, score) in the order of ``steps``, and of best-of-n."""

    name: str
    unit: str
    steps: Sequence[float]
    points: Sequence[Point]
    sampled: Sequence[Sampled]


def score_against_kl(metrics: Sequence[Json], best_of_n: Json) -> Markup:
    """An SVG of one panel per score, or an empty string where fewer than two iterations have a score and a KL."""
    best = partial(sampled_points, best_of_n)
    # a step that was done twice (a resumed run) counts once
    by_step = {finite(row.get("step")) or 0.0: row for row in metrics if row.get("stage") == "ppo"}
    rows = sorted(by_step.items())
    panels = [
        Panel("score", "objective/scores, which PPO raises", *_points(rows, "objective/scores"), best("reward")),
        Panel(
            "gold score", "objective/gold, which nothing is trained on", *_points(rows, "objective/gold"), best("gold")
        ),
    ]
    panels = [panel for panel in panels if len(panel.points) > 1]
    return _drawn(panels) if panels else Markup("")


def sampled_points(best_of_n: Json, key: str) -> list[Sampled]:
    """The points of ``best_of_n.json`` that have a number for ``key``, by n."""
    given = best_of_n.get("points")
    found = []
    for point in given if isinstance(given, list) else []:
        interval = point.get(key) if isinstance(point, dict) else None
        if not isinstance(interval, dict):
            continue
        n, kl, value = finite(point.get("n")), finite(point.get("kl")), finite(interval.get("value"))
        if n is None or kl is None or value is None:
            continue
        low, high = finite(interval.get("low")), finite(interval.get("high"))
        bounds = (value, value) if low is None or high is None else (low, high)
        found.append(Sampled(int(n), kl, value, *bounds))
    return sorted(found, key=lambda s: s.n)


def kl_ticks(highest: float, scale: Scale) -> list[float]:
    """Round KL values up to ``highest`` whose labels do not touch on the square-root ``scale``."""
    powers = range(-3, math.ceil(math.log10(highest)) + 2)
    chosen = [0.0]
    for value in (factor * 10.0**power for power in powers for factor in ROUND_KL):
        if value <= highest and scale(math.sqrt(value)) - scale(math.sqrt(chosen[-1])) >= APART:
            chosen.append(value)
    return chosen


def _points(rows: Sequence[tuple[float, Json]], key: str) -> tuple[list[float], list[Point]]:
    found = [(step, finite(row.get("objective/kl")), finite(row.get(key))) for step, row in rows]
    # an estimated KL may fall below 0, a square root may not
    known = [(step, (max(kl, 0.0), value)) for step, kl, value in found if kl is not None and value is not None]
    return [step for step, _ in known], [point for _, point in known]


def _drawn(panels: Sequence[Panel]) -> Markup:
    highest = max(x for p in panels for x in [*(kl for kl, _ in p.points), *(s.kl for s in p.sampled), 1e-3])
    sx = Scale(0.0, math.sqrt(highest), LEFT + 6, EDGE - 6)
    marks = kl_ticks(highest, sx)
    base = TOP + len(panels) * PANEL + (len(panels) - 1) * GAP
    title = "Score and gold score against KL" if len(panels) > 1 else f"{panels[0].name.capitalize()} against KL"
    axis = "KL to the SFT adapter, nats per response, square-root scale"
    out = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {base + BOTTOM}" role="img" xmlns="http://www.w3.org/2000/svg" '
        f'aria-label="{escape(title)} ({axis}): {escape("; ".join(map(_spoken, panels)))}">',
        f'<text class="g-title" x="0" y="15">{escape(title)}</text>',
        *_legend(bool(panels[0].sampled)),
    ]
    for index, panel in enumerate(panels):
        out += _panel(panel, sx, marks, TOP + index * (PANEL + GAP))
    for value in marks:
        place = f'x="{sx(math.sqrt(value)):.1f}" y="{base + 17}" text-anchor="middle"'
        out.append(f'<text class="g-tick" {place}>{value:g}</text>')
    out.append(f'<text class="g-soft" x="0" y="{base + 38}">{axis}</text>')
    return Markup("".join(out) + "</svg>")


def _legend(sampled: bool) -> list[str]:
    ppo = '<path class="g-line" d="M0 28h22"/><circle class="g-dot" cx="11" cy="28" r="3"/>'
    words = '<text class="g-label" x="28" y="32">PPO, an iteration each</text>'
    out = [f'<g class="s{colour_class(0)}">{ppo}{words}</g>']
    if sampled:
        best = f'<g class="s{colour_class(1)}">{_diamond(206, 28)}'
        out.append(f'{best}<text class="g-label" x="218" y="32">best of n of the SFT model</text></g>')
    return out


def _diamond(x: float, y: float) -> str:
    return f'<path class="g-line" d="M{x - 5:.1f} {y:.1f}l5 -5l5 5l-5 5z"/>'


def _panel(panel: Panel, sx: Scale, marks: Sequence[float], top: float) -> list[str]:
    bottom = top + PANEL
    values = [y for _, y in panel.points] + [y for s in panel.sampled for y in (s.low, s.high)]
    heights = ticks(min(values), max(values))
    sy = Scale(heights[0], heights[-1], bottom, top)
    out = [f'<text class="g-soft" x="0" y="{top - 14}">{escape(f"{panel.name}: {panel.unit}")}</text>']
    for value in heights:
        out.append(f'<path class="g-grid" d="M{LEFT} {sy(value):.1f}H{EDGE}"/>')
        out.append(f'<text class="g-tick" x="{LEFT - 6}" y="{sy(value) + 4:.1f}" text-anchor="end">')
        out.append(f"{tick_label(value, heights[1] - heights[0])}</text>")
    out += [f'<path class="g-axis" d="M{sx(math.sqrt(value)):.1f} {bottom}v4"/>' for value in marks]
    out.append(f'<path class="g-axis" d="M{LEFT} {bottom}H{EDGE}"/>')

    drawn = bucket_means(panel.points, BUCKETS)
    places = [(sx(math.sqrt(kl)), sy(value)) for kl, value in drawn]
    line = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    out.append(f'<g class="s{colour_class(0)}"><path class="g-line" d="M{line}"/>')
    if len(drawn) <= DOTS:
        for step, (x, y), (kl, value) in zip(panel.steps, places, drawn, strict=True):
            words = f"iteration {step:g}: KL {number(kl)}, {panel.name} {number(value)}"
            out.append(f'<circle class="g-dot" cx="{x:.1f}" cy="{y:.1f}" r="3"><title>{escape(words)}</title></circle>')
    out.append(f'</g><g class="s{colour_class(1)}">')
    for s in panel.sampled:
        x, y = sx(math.sqrt(s.kl)), sy(s.value)
        out.append(f'<path class="g-line" d="M{x:.1f} {sy(s.low):.1f}V{sy(s.high):.1f}"/>{_diamond(x, y)}')
        out.append(f'<text class="g-label g-halo" x="{x + 7:.1f}" y="{y - 5:.1f}">{s.n}</text>')
    return [*out, "</g>"]


def _spoken(panel: Panel) -> str:
    """The panel in words: where PPO begins, is highest and ends, and every point of best-of-n."""

    def at(point: Point) -> str:
        return f"{number(point[1])} at KL {number(point[0])}"

    highest = max(panel.points, key=lambda point: point[1])
    words = f"{panel.name} of PPO from {at(panel.points[0])} to {at(panel.points[-1])}, highest {at(highest)}"
    sampled = ", ".join(f"n = {s.n} {at((s.kl, s.value))}" for s in panel.sampled)
    return f"{words}; {panel.name} of best of n: {sampled}" if sampled else words
