"""What every picture of an explanation shows: its parts, their weights, and text that is safe to show."""

from __future__ import annotations

from dataclasses import dataclass
from unicodedata import category

from explain.ask import shown_question
from explain.lime import LimeExplanation
from explain.result import PairExplanation, TextExplanation
from explain.units import Units
from explain.words import number

_TURNED = {chr(code) for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}  # these turn what follows about
MOST = 40  # units that a table, a picture, and the numbers in a text show
EMPTY = "\N{EMPTY SET}"  # a unit without text, where only the other response has something


@dataclass(frozen=True)
class Part:
    """One text with a weight for each unit. errors: standard errors, or empty. anchored: units of the anchor."""

    heading: str
    units: Units
    weights: tuple[float, ...]
    errors: tuple[float, ...]
    anchored: tuple[int, ...]

    def strongest(self) -> list[int]:
        """The units to show where room is scarce: the 40 of largest weight and the anchored ones, in their order."""
        by_weight = sorted(range(len(self.weights)), key=lambda unit: -abs(self.weights[unit]))
        return sorted({*by_weight[:MOST], *self.anchored})

    def left_out(self) -> str:
        """What to say of the others."""
        count = len(self.weights) - len(self.strongest())
        return f" ({count} weaker units left out)" if count else ""


def parts(explanation: TextExplanation | PairExplanation) -> list[Part]:
    """One part per text, and one more for a unit that was explained again by its words."""
    values = explanation.method == "shapley"
    found = explanation.anchor.anchors if explanation.anchor else ()
    anchored = found[0].units if found else ()
    if isinstance(explanation, PairExplanation):
        shown = []
        for name, side, mine in (("Chosen", explanation.chosen, anchored), ("Rejected", explanation.rejected, ())):
            weights = side.margin_values if values else side.margin_weights
            errors = side.shapley.standard_errors if values and side.shapley else side.lime.standard_errors
            heading = f"{name}, reward {number(side.lime.reward)}"
            shown.append(Part(heading, side.lime.units, weights, errors or (), mine))
            if side.drill is not None:
                shown.append(_inner(side.drill.lime, name, -1.0 if name == "Rejected" else 1.0))
        return shown
    lime = explanation.lime
    weights, errors = lime.weights, lime.standard_errors
    if values and explanation.shapley is not None:
        weights, errors = explanation.shapley.values, explanation.shapley.standard_errors
    name = "Response" if explanation.response is None else "Prompt"
    shown = [Part(f"{name}, reward {number(lime.reward)}", lime.units, weights, errors or (), anchored)]
    return [*shown, _inner(explanation.drill.lime, name, 1.0)] if explanation.drill is not None else shown


def _inner(lime: LimeExplanation, name: str, sign: float) -> Part:
    return Part(f"{name}, the strongest part by word (LIME)", lime.units, tuple(sign * w for w in lime.weights), (), ())


def scale(shown: list[Part]) -> float:
    """The largest weight of all, which has the strongest colour."""
    return max((abs(weight) for part in shown for weight in part.weights), default=0.0)


def key(explanation: TextExplanation | PairExplanation) -> str:
    """What the numbers are."""
    what = "the margin" if isinstance(explanation, PairExplanation) else "the reward"
    by = "Shapley value" if explanation.method == "shapley" else "LIME"
    return f"What each unit adds to {what} ({by}): blue and + add, red and - take away."


def asked(explanation: TextExplanation | PairExplanation) -> str:
    """What was asked, or, where the prompt is explained, what was answered."""
    if isinstance(explanation, TextExplanation) and explanation.response is not None:
        return explanation.response
    return shown_question(explanation.prompt)


def printable(text: str) -> str:
    """Without what could drive a terminal or turn a line about, and without what no file can hold."""
    lines = text.replace("\r\n", "\n")
    return "".join("\N{REPLACEMENT CHARACTER}" if _unsafe(char) else char for char in lines)


def _unsafe(char: str) -> bool:
    return (category(char) in ("Cc", "Cs") and char not in "\n\t") or char in _TURNED
