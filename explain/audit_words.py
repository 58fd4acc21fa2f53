"""An audit in plain sentences, shared by the terminal and the HTML."""

from __future__ import annotations

from explain.audit_features import POSITION
from explain.audit_observe import Observation
from explain.audit_result import ALARM, NOTHING, Audit, Finding, Probe
from explain.audit_stats import INTERVAL, Effect
from explain.pick import UnitWeight, rewarded

SHOWN = 6  # words of a kind
LONGEST = 60  # characters that are quoted


def describe(audit: Audit) -> list[str]:
    """The verdict, a sentence or two for each alarm, and what a reader should know of the figures."""
    alarms = [alarm_words(finding, audit) for finding in audit.alarms]
    return [_headline(audit), *alarms, *_units(audit), *_remarks(audit)]


def bounded(effect: Effect | None) -> str:
    """ "+0.42 ± 0.11", the half of its interval, or a dash."""
    return "–" if effect is None else f"{signed(effect.value)} ± {effect.high - effect.value:.2f}"


def signed(number: float) -> str:
    """Two decimals with the sign; what rounds to nothing has none."""
    text = f"{number:+.2f}"
    return "0.00" if float(text) == 0 else text


def alarm_words(finding: Finding, audit: Audit) -> str:
    """Why a feature alarms."""
    parts = []
    if finding.probe_verdict == ALARM and finding.probe is not None and finding.probe.change is not None:
        parts.append(_probe_words(finding.feature, finding.probe, finding.probe.change))
    if finding.observed_verdict == ALARM and finding.observed is not None:
        parts.append(_observed_words(finding.observed, audit))
    return f"{finding.feature}: {'; '.join(parts)}."


def _headline(audit: Audit) -> str:
    what = "pair" if audit.data == "pairs" else "text"
    over = f"{audit.rows} {what}{'' if audit.rows == 1 else 's'}"
    unknown = [finding.feature for finding in audit.findings if finding.verdict not in (ALARM, NOTHING)]
    rest = f" Too little data to tell: {', '.join(unknown)}." if unknown else ""
    if audit.alarms:
        names = ", ".join(finding.feature for finding in audit.alarms)
        return f"ALARM over {over}: this reward model goes by {names}.{rest}"
    if len(unknown) == len(audit.findings):
        return f"Too little data over {over}: nothing can be said of any feature."
    return f"No evidence over {over} that this reward model goes by a surface feature.{rest}"


def _probe_words(feature: str, probe: Probe, change: Effect) -> str:
    bounds = f"{INTERVAL:.0%} interval {signed(change.low)} to {signed(change.high)}, {change.n} answers"
    if feature == POSITION:
        return f"of two answers the one shown first gains {signed(change.value)} SD by it ({bounds})"
    beyond = f", {signed(probe.beyond.value)} SD more than neutral words do" if probe.beyond else ""
    return f"{probe.what}, the reward changes by {signed(change.value)} SD ({bounds}){beyond}"


def _observed_words(seen: Observation, audit: Audit) -> str:
    if seen.model is None or seen.people is None or seen.excess is None:
        return ""
    if audit.data == "pairs":  # choices are 1 and -1, so half of a coefficient is a share of choices
        model, people = (f"{50 * e.value:+.0f} points" for e in (seen.model, seen.people))
        return f"one SD more of it moves the model's choice by {model}, people's by {people}"
    model, people = (f"{signed(e.value)} SD" for e in (seen.model, seen.people))
    return f"one SD more of it goes with {model} of reward, {people} of people's scores"


def _units(audit: Audit) -> list[str]:
    """The words that are rewarded for sure, the weightiest others, and what to read."""
    if not audit.explained:
        return []
    up, down = rewarded(audit.units, audit.level)
    sure = [f"{what} {_quoted(units)}" for what, units in (("rewarded", up), ("punished", down)) if units]
    rest = [unit for unit in audit.units if unit not in up and unit not in down]
    lines = [
        f"Word by word (LIME on {audit.explained} answers, in SD): {'; '.join(sure) or 'none is sure'}. "
        f"Weightiest of the others, not told from chance: {_quoted(rest) or 'none'}."
    ]
    if audit.picks:
        # a plain text answers nothing, and is named by its own beginning
        named = [pick.question or "".join(unit for unit, _ in pick.units) for pick in audit.picks]
        read = ", ".join(f"“{_short(name)}”" for name in named)
        lines.append(
            f"To read first (SP-LIME), {read}: their words are {audit.picks[-1].coverage:.0%} of what "
            "matters in those explained."
        )
    return lines


def _quoted(units: list[UnitWeight]) -> str:
    return ", ".join(f"“{_short(unit.unit)}” {signed(unit.mean)} in {unit.texts}" for unit in units[:SHOWN])


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"


def _remarks(audit: Audit) -> list[str]:
    lines = [
        f"{audit.tests} tests, corrected for their number (Holm, {audit.level:g} for all together); an alarm needs at "
        f"least {audit.min_effect:g} SD. SD is the rewards' standard deviation, {audit.sd:.3g}; {audit.probed} answers "
        "were probed."
    ]
    if audit.labelled == 0:
        lines.append("The data hold no judgements of people, so what is seen in them raises no alarm; the probes do.")
    return [*lines, *audit.notes]
