"""An explanation in plain sentences, shared by the terminal and the HTML."""

from __future__ import annotations

from explain.anchors import Anchor, AnchorExplanation
from explain.faithful import Agreement, Faithfulness
from explain.lime import LimeExplanation
from explain.result import PairExplanation, TextExplanation
from explain.shapley import ShapleyExplanation
from explain.units import Units

_LONGEST_QUOTE = 48
_MOST_QUOTED = 6


def number(value: float, signed: bool = False) -> str:
    """Three significant digits; what is nothing but rounding is 0."""
    if abs(value) < 1e-9:
        return "0"
    return f"{value:+.3g}" if signed else f"{value:.3g}"


def describe(explanation: TextExplanation | PairExplanation) -> list[str]:
    """Every finding but the weights, one sentence or two each."""
    if isinstance(explanation, PairExplanation):
        sides = [("Chosen", explanation.chosen), ("Rejected", explanation.rejected)]
        lines = [
            _margin(explanation),
            *(_reward(name, side.lime) for name, side in sides),
            _anchor(explanation.anchor, "chosen beats all of rejected", "chosen does not beat all of rejected"),
            _flip(explanation),
            *(_fit(name, side.lime) for name, side in sides),
            *(_length(name, side.lime) for name, side in sides),
            *(_faithful(name, side.faithfulness) for name, side in sides),
            *(_shapley(name, side.shapley) for name, side in sides),
            *(_agreement(name, side.agreement) for name, side in sides),
        ]
    else:
        name = "Response" if explanation.response is None else "Prompt"
        tau = number(explanation.anchor.decision.tau) if explanation.anchor else ""
        lines = [
            _reward(name, explanation.lime),
            _anchor(explanation.anchor, f"the reward reaches {tau}", f"the reward stays below {tau}"),
            _fit(name, explanation.lime),
            _length(name, explanation.lime),
            _faithful(name, explanation.faithfulness),
            _shapley(name, explanation.shapley),
            _agreement(name, explanation.agreement),
        ]
    return [line for line in [*lines, _OFF.get(explanation.perturbation, ""), explanation.note] if line]


_OFF = {
    "placeholder": "Units that are off are replaced by “...”, so “removed” means that here.",
    "swap": "Units that are off become what the other response has in their place, so “removed” means that here.",
    "infill": "Units that are off are written anew by the infill, so “removed” means that here.",
}


def _margin(pair: PairExplanation) -> str:
    said = {
        "chosen": "the reward model prefers the chosen response",
        "rejected": "the reward model prefers the REJECTED response, not the chosen one",
        "neither": "the reward model prefers neither",
    }[pair.preferred]
    return f"Margin {number(pair.margin, signed=True)}: {said}."


def _reward(name: str, lime: LimeExplanation) -> str:
    return f"{name}: reward {number(lime.reward)}; with everything removed {number(lime.baseline)}."


def _fit(name: str, lime: LimeExplanation) -> str:
    if lime.r2 is None:
        return f"{name}: the reward is the same whatever is removed."
    if lime.exact:
        doubt = " Below 0.5 the weights are a poor summary: units act together." if lime.r2 < 0.5 else ""
        return f"{name}: LIME's weights account for R² {lime.r2:.2f} of the reward.{doubt}"
    held_out = lime.held_out_r2
    said = "undefined" if held_out is None else f"{held_out:.2f}, {verdict(held_out)}"
    error = max(lime.standard_errors or (0.0,))
    return (
        f"{name}: LIME's weights were fitted on {lime.masks} different removals; on those held out R² is {said}. "
        f"No weight's standard error exceeds {number(error)}."
    )


def verdict(r2: float) -> str:
    """What an R² on held-out masks says of the weights."""
    if r2 >= 0.8:
        return "a good summary"
    return "a rough summary" if r2 >= 0.5 else "a poor summary: units act together, or their effects drown"


def _length(name: str, lime: LimeExplanation) -> str:
    length = lime.length
    if length is None or length.r2 is None or len(lime.weights) < 2:
        return ""
    return (
        f"{name}: the share of words that is kept, by itself, accounts for R² {max(0.0, length.r2):.2f} of the reward "
        f"({number(length.slope, signed=True)} for the whole length)."
    )


def _shapley(name: str, found: ShapleyExplanation | None) -> str:
    if found is None or not found.values:
        return ""
    unit = max(range(len(found.values)), key=lambda unit: abs(found.values[unit]))
    error = f" ±{number(found.standard_errors[unit])}" if found.standard_errors else ""
    return (
        f"{name}: by Shapley value {_quote(found.units, (unit,))} moves the reward most, "
        f"{number(found.values[unit], signed=True)}{error}; all of them sum to "
        f"{number(found.reward - found.baseline, signed=True)}."
    )


def _agreement(name: str, found: tuple[Agreement, ...]) -> str:
    said = [
        f"{pair.first} and {pair.second} {pair.value:.2f}{' (overlap)' if pair.measure == 'overlap' else ''}"
        for pair in found
        if pair.value is not None
    ]
    return f"{name}: rank agreement of {', '.join(said)}." if said else ""


def _anchor(anchor: AnchorExplanation | None, yes: str, no: str) -> str:
    if anchor is None or not len(anchor.units):
        return ""
    claim = yes if anchor.holds else no
    if not anchor.anchors:
        part = anchor.closest
        text = f"No anchor: nothing short of the whole text makes sure that {claim} ({_need(anchor)})."
        if not anchor.exact:
            text = f"No anchor was found that makes sure that {claim} ({_need(anchor)})."
        if part and part.units:
            text += f" The closest is {_quote(anchor.units, part.units)}: precision {_precision(part)}."
    elif not anchor.anchors[0].units:
        best = anchor.anchors[0]
        text = (
            f"Anchor: nothing needs to be kept; {claim} in {_percent(anchor.base_rate)} of all removals "
            f"({_exactly(anchor)}precision {_precision(best)}, coverage 1)."
        )
    else:
        best = anchor.anchors[0]
        others = f" {anchor.count - 1} other minimal anchors." if anchor.count > 1 else ""
        text = (
            f"Anchor: with {_quote(anchor.units, best.units)} kept, {claim} in {_percent(best.precision)} of "
            f"all removals of the rest ({_exactly(anchor)}precision {_precision(best)}, coverage "
            f"{number(best.coverage)}); with nothing fixed in {_percent(anchor.base_rate)}.{others}"
        )
    return text + _counterexample(anchor) + _beam(anchor)


def _exactly(anchor: AnchorExplanation) -> str:
    return "exact " if anchor.exact else "estimated "


def _precision(anchor: Anchor) -> str:
    bounds = "" if anchor.low is None or anchor.high is None else f", {number(anchor.low)} to {number(anchor.high)}"
    return number(anchor.precision) + bounds


def _counterexample(anchor: AnchorExplanation) -> str:
    if not anchor.counterexamples or not anchor.anchors:
        return ""
    nearest = anchor.counterexamples[0]
    removed = nearest.removed[:_MOST_QUOTED]
    more = f" and {len(nearest.removed) - len(removed)} more" if len(nearest.removed) > len(removed) else ""
    return (
        f" Nearest counterexample: without {_quote(anchor.units, removed)}{more} the reward is "
        f"{number(nearest.reward)}."
    )


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _need(anchor: AnchorExplanation) -> str:
    return f"precision at least {anchor.threshold:.2f} is asked for"


def _beam(anchor: AnchorExplanation) -> str:
    if not anchor.exact:
        return f" alibi: {anchor.beam_note}." if anchor.beam_note else ""
    if anchor.beam is None:
        return f" Not compared with alibi: {anchor.beam_note}." if anchor.beam_note else ""
    verdict = "agrees" if anchor.beam.agrees else "DISAGREES"
    estimate = f"{number(anchor.beam.precision)}, bounds {number(anchor.beam.low)} to {number(anchor.beam.high)}"
    return f" alibi's beam search {verdict}: {anchor.beam.note} (its estimate {estimate})."


def _flip(pair: PairExplanation) -> str:
    if pair.flip is None:
        if pair.preferred == "neither":
            return ""
        exact = pair.chosen.lime.exact and pair.rejected.lime.exact
        return "No removal reverses the preference." if exact else "No removal was found that reverses the preference."
    sides = [
        ("chosen", pair.chosen.lime.units, pair.flip.chosen),
        ("rejected", pair.rejected.lime.units, pair.flip.rejected),
    ]
    removed = " and ".join(f"{_quote(units, picked)} from {name}" for name, units, picked in sides if picked)
    margin = number(pair.flip.margin, signed=True)
    what = "Smallest flip" if pair.flip.exact else "A flip, not surely the smallest"
    return f"{what}: removing {removed} reverses the preference (margin {margin})."


def _faithful(name: str, measured: Faithfulness) -> str:
    rho = "undefined" if measured.loo_spearman is None else f"{measured.loo_spearman:.2f}"
    text = (
        f"{name}: faithfulness of LIME's weights: comprehensiveness {number(measured.comprehensiveness)}, "
        f"sufficiency {number(measured.sufficiency)}, rank agreement with leaving one out {rho}"
    )
    if measured.curves is not None:
        curves = measured.curves
        text += (
            f", mean reward {number(curves.deletion_area)} while the best are deleted first and "
            f"{number(curves.insertion_area)} while they are inserted first (in random order "
            f"{number(curves.random_area)})"
        )
    if measured.randomised_spearman is not None:
        text += f", rank agreement with a model of random head {measured.randomised_spearman:.2f} (near 0 is good)"
    return text + "."


def _quote(units: Units, picked: tuple[int, ...]) -> str:
    quoted = []
    for unit in picked:
        text = " ".join(units[unit].split()) or "nothing"
        quoted.append(f"“{text[: _LONGEST_QUOTE - 1]}…”" if len(text) > _LONGEST_QUOTE else f"“{text}”")
    return " + ".join(quoted)
