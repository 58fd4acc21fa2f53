"""An explanation as a picture: one bar per unit. matplotlib is imported when it is asked for."""

from __future__ import annotations

import io
import warnings

from explain.parts import EMPTY, Part, key, parts, printable, scale
from explain.result import PairExplanation, TextExplanation

_MOST = 40  # bars in one part; the strongest are shown
_LONGEST = 60  # characters of a label
_ADD, _TAKE = "#2563eb", "#dc2626"


def png(explanation: TextExplanation | PairExplanation, dpi: int = 120) -> bytes:
    """The bytes of a PNG file: bars to the right add, those to the left take away; whiskers are standard errors.

    Of more than 40 units the strongest are shown. An anchor's units have a star. Text is drawn as it is, also "$".
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # no pyplot: it would keep state of the process

    shown = parts(explanation)
    rows = [min(_MOST, len(part.weights)) for part in shown]
    heights = [max(1, count) + 2 for count in rows]
    figure = Figure(figsize=(9.0, 0.26 * sum(heights) + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(shown), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    largest = scale(shown)
    for part, axis in zip(shown, axes, strict=True):
        _bars(axis, part, largest)
    figure.text(0.01, 0.003, key(explanation), fontsize=7, parse_math=False)
    file = io.BytesIO()
    with warnings.catch_warnings():  # a font may lack a character, which then is a box
        warnings.simplefilter("ignore", UserWarning)
        figure.savefig(file, format="png", dpi=dpi)
    return file.getvalue()


def _bars(axis, part: Part, largest: float) -> None:  # type: ignore[no-untyped-def]  # matplotlib's Axes
    strongest = sorted(range(len(part.weights)), key=lambda unit: -abs(part.weights[unit]))[:_MOST]
    units = sorted(strongest)
    weights = [part.weights[unit] for unit in units]
    colours = [_ADD if weight > 0 else _TAKE for weight in weights]
    errors = [part.errors[unit] for unit in units] if part.errors else None
    axis.barh(range(len(units)), weights, color=colours, xerr=errors, height=0.7, ecolor="#555")
    labels = axis.set_yticks(range(len(units)), [_label(part, unit) for unit in units], fontsize=8)
    del labels
    for text in axis.get_yticklabels():
        text.set_parse_math(False)
    left_out = len(part.weights) - len(units)
    more = f" ({left_out} weaker units left out)" if left_out else ""
    axis.set_title(part.heading + more, fontsize=9, loc="left", parse_math=False)
    axis.invert_yaxis()
    axis.axvline(0.0, color="#555", linewidth=0.8)
    edge = 1.1 * largest if largest > 0 else 1.0
    axis.set_xlim(-edge, edge)
    axis.tick_params(axis="x", labelsize=8)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)


def _label(part: Part, unit: int) -> str:
    text = " ".join(printable(part.units[unit]).split()) or EMPTY
    short = text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
    return f"★ {short}" if unit in part.anchored else short
