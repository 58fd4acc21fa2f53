"""An explanation as a picture: one bar per unit. matplotlib is imported when it is asked for."""

from __future__ import annotations

import io
import warnings

from explain.parts import EMPTY, Part, key, parts, printable
from explain.result import PairExplanation, TextExplanation

_LONGEST = 60  # characters of a label
_ADD, _TAKE = "#2563eb", "#dc2626"


def png(explanation: TextExplanation | PairExplanation, dpi: int = 120) -> bytes:
    """The bytes of a PNG file: bars to the right add, those to the left take away; whiskers are standard errors.

    Of more than 40 units the strongest are shown. An anchor's units have a star. Text is drawn as it is, also "$".
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # no pyplot: it would keep state of the process

    shown = parts(explanation)
    heights = [max(1, len(part.strongest())) + 2 for part in shown]
    figure = Figure(figsize=(9.0, 0.26 * sum(heights) + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(shown), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    limits = _limits(shown)
    for part, axis in zip(shown, axes, strict=True):
        _bars(axis, part, limits)
    axes[-1].set_xlabel(key(explanation), fontsize=8, loc="left", parse_math=False)
    file = io.BytesIO()
    with warnings.catch_warnings():  # a font may lack a character, which then is a box
        warnings.simplefilter("ignore", UserWarning)
        figure.savefig(file, format="png", dpi=dpi)
    return file.getvalue()


def _bars(axis, part: Part, limits: tuple[float, float]) -> None:  # type: ignore[no-untyped-def]  # matplotlib's Axes
    units = part.strongest()
    weights = [part.weights[unit] for unit in units]
    colours = [_ADD if weight > 0 else _TAKE for weight in weights]
    errors = [part.errors[unit] for unit in units] if part.errors else None
    axis.barh(range(len(units)), weights, color=colours, xerr=errors, height=0.7, ecolor="#555")
    axis.set_yticks(range(len(units)), [_label(part, unit) for unit in units], fontsize=8)
    for text in axis.get_yticklabels():
        text.set_parse_math(False)
    axis.set_title(part.heading + part.left_out(), fontsize=9, loc="left", parse_math=False)
    axis.axvline(0.0, color="#555", linewidth=0.8)
    axis.set_xlim(*limits)
    axis.set_ylim(max(1, len(units)) - 0.4, -0.6)
    axis.tick_params(axis="x", labelsize=8)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)


def _limits(shown: list[Part]) -> tuple[float, float]:
    """One scale for all parts, with some room."""
    ends = [0.0]
    for part in shown:
        errors = part.errors or (0.0,) * len(part.weights)
        ends += [weight + sign * error for weight, error in zip(part.weights, errors, strict=True) for sign in (-1, 1)]
    room = 0.05 * (max(ends) - min(ends)) or 1.0
    return min(ends) - room, max(ends) + room


def _label(part: Part, unit: int) -> str:
    text = " ".join(printable(part.units[unit]).split()) or EMPTY
    short = text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
    return f"★ {short}" if unit in part.anchored else short
