"""From effects to verdicts: every test corrected for their number, a least size, and what is too little data."""

from __future__ import annotations

from dataclasses import replace

from explain.audit_features import FEATURES, NAMES, POSITION, POSITION_DEFINITION
from explain.audit_observe import Observation
from explain.audit_result import ALARM, NOTHING, TOO_LITTLE, Audit, Finding, Probe
from explain.audit_stats import Effect, critical, holm


def judge(result: Audit, seen: dict[str, Observation], found: dict[str, Probe], present: dict[str, int]) -> Audit:
    """The audit with its findings: every test's p corrected for their number, and a verdict for each feature."""
    names = [*NAMES, *([POSITION] if POSITION in found or POSITION in seen else [])]
    tested = {("seen", n): o.excess.p for n, o in seen.items() if o.excess is not None}
    tested |= {("probe", n): p for n in names if (p := _probe_p(found.get(n))) is not None}
    adjusted = dict(zip(tested, holm(list(tested.values())), strict=True))
    definitions = {f.name: f.definition for f in FEATURES} | {POSITION: POSITION_DEFINITION}
    findings = []
    for name in names:
        observed, probe = seen.get(name), found.get(name)
        p_seen, p_probe = adjusted.get(("seen", name)), adjusted.get(("probe", name))
        by_data = _observed_verdict(observed, p_seen, result, len(tested))
        by_probe = _probe_verdict(name, probe, p_probe, result, len(tested))
        findings.append(
            Finding(
                feature=name,
                definition=definitions[name],
                rows=present.get(name, 0),
                observed=observed,
                observed_p=p_seen,
                observed_verdict=by_data,
                probe=probe,
                probe_p=p_probe,
                probe_verdict=by_probe,
                verdict=next((v for v in (ALARM, NOTHING) if v in (by_data, by_probe)), TOO_LITTLE),
            )
        )
    return replace(result, findings=tuple(findings), tests=len(tested))


def _observed_verdict(seen: Observation | None, p: float | None, result: Audit, tests: int) -> str:
    """An alarm where the model follows the feature, either way, more than people do."""
    if seen is None or seen.excess is None or seen.model is None or p is None:
        return TOO_LITTLE
    more = seen.excess.value * seen.model.value > 0
    if p < result.level and more and abs(seen.excess.value) >= result.min_effect:
        return ALARM
    return _nothing(seen.excess, result, tests)


def _probe_verdict(name: str, probe: Probe | None, p: float | None, result: Audit, tests: int) -> str:
    """An alarm where the feature raises the reward, beyond its control too. That padding, repeating or refusing lowers
    it is no fault; of two positions neither should."""
    if probe is None or probe.change is None or p is None:
        return TOO_LITTLE
    effects = [e for e in (probe.change, probe.beyond) if e is not None]
    least = min(e.value for e in effects)
    size = abs(least) if name == POSITION else least
    if p < result.level and size >= result.min_effect:
        return ALARM
    return NOTHING if all(_nothing(e, result, tests) == NOTHING for e in effects) else TOO_LITTLE


def _nothing(effect: Effect, result: Audit, tests: int) -> str:
    """Whether an effect of the least size that counts would have shown."""
    shows = effect.se * critical(result.level, tests, effect.n) <= result.min_effect
    return NOTHING if shows else TOO_LITTLE


def _probe_p(probe: Probe | None) -> float | None:
    """The larger p of the two: both must hold (an intersection-union test needs no correction for the two)."""
    if probe is None or probe.change is None:
        return None
    return max(e.p for e in (probe.change, probe.beyond) if e is not None)
