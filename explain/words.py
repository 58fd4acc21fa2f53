"""An explanation in plain sentences, shared by the terminal and the HTML."""

from __future__ import annotations

from explain.anchors import AnchorExplanation
from explain.faithful import Faithfulness
from explain.lime import LimeExplanation
from explain.result import PairExplanation, TextExplanation
from explain.units import Units

_LONGEST_QUOTE = 48


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
            _anchor(explanation.anchor, "chosen beats rejected", "chosen does not beat rejected"),
            _flip(explanation),
            *(_fit(name, side.lime) for name, side in sides),
            *(_faithful(name, side.faithfulness) for name, side in sides),
        ]
    else:
        tau = number(explanation.anchor.decision.tau)
        lines = [
            _reward("Response", explanation.lime),
            _anchor(explanation.anchor, f"the reward reaches {tau}", f"the reward stays below {tau}"),
            _fit("Response", explanation.lime),
            _faithful("Response", explanation.faithfulness),
        ]
    return [line for line in [*lines, explanation.note] if line]


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
    doubt = " Below 0.5 the weights are a poor summary: units act together." if lime.r2 < 0.5 else ""
    return f"{name}: LIME's weights account for R² {lime.r2:.2f} of the reward.{doubt}"


def _anchor(anchor: AnchorExplanation, yes: str, no: str) -> str:
    claim = yes if anchor.holds else no
    if not anchor.anchors:
        part = anchor.closest
        text = f"No anchor: nothing short of the whole response makes sure that {claim} ({_need(anchor)})."
        if part and part.units:
            text += f" The closest is {_quote(anchor.units, part.units)}: precision {number(part.precision)}."
    elif not anchor.anchors[0].units:
        text = (
            f"Anchor: nothing needs to be kept; {claim} in {_percent(anchor.base_rate)} of all removals "
            f"(exact precision {number(anchor.base_rate)}, coverage 1)."
        )
    else:
        best = anchor.anchors[0]
        others = f" {anchor.count - 1} other minimal anchors." if anchor.count > 1 else ""
        text = (
            f"Anchor: with {_quote(anchor.units, best.units)} kept, {claim} in {_percent(best.precision)} of "
            f"all removals of the rest (exact precision {number(best.precision)}, coverage "
            f"{number(best.coverage)}); with nothing fixed in {_percent(anchor.base_rate)}.{others}"
        )
    return text + _beam(anchor)


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _need(anchor: AnchorExplanation) -> str:
    return f"precision at least {anchor.threshold:.2f} is asked for"


def _beam(anchor: AnchorExplanation) -> str:
    if anchor.beam is None:
        return f" Not compared with alibi: {anchor.beam_note}." if anchor.beam_note else ""
    verdict = "agrees" if anchor.beam.agrees else "DISAGREES"
    estimate = f"{number(anchor.beam.precision)}, bounds {number(anchor.beam.low)} to {number(anchor.beam.high)}"
    return f" alibi's beam search {verdict}: {anchor.beam.note} (its estimate {estimate})."


def _flip(pair: PairExplanation) -> str:
    if pair.flip is None:
        return "No removal reverses the preference." if pair.preferred != "neither" else ""
    sides = [
        ("chosen", pair.chosen.lime.units, pair.flip.chosen),
        ("rejected", pair.rejected.lime.units, pair.flip.rejected),
    ]
    removed = " and ".join(f"{_quote(units, picked)} from {name}" for name, units, picked in sides if picked)
    margin = number(pair.flip.margin, signed=True)
    return f"Smallest flip: removing {removed} reverses the preference (margin {margin})."


def _faithful(name: str, measured: Faithfulness) -> str:
    rho = "undefined" if measured.loo_spearman is None else f"{measured.loo_spearman:.2f}"
    return (
        f"{name}: faithfulness: comprehensiveness {number(measured.comprehensiveness)}, "
        f"sufficiency {number(measured.sufficiency)}, rank agreement with leaving one out {rho}."
    )


def _quote(units: Units, picked: tuple[int, ...]) -> str:
    quoted = []
    for unit in picked:
        text = " ".join(units[unit].split())
        quoted.append(f"“{text[: _LONGEST_QUOTE - 1]}…”" if len(text) > _LONGEST_QUOTE else f"“{text}”")
    return " + ".join(quoted)
