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
    tested = {("seen", n): p for n, o in seen.items() if (p := _p(_observed(o))) is not None}
    tested |= {("probe", n): p for n in names if (p := _p(_probed(found.get(n)))) is not None}
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
    """An alarm where the model follows the feature, either way, and more than people do. That people follow it and the
    model does not is no fault."""
    effects = _observed(seen)
    if not effects or p is None:
        return TOO_LITTLE
    one_way = len({effect.value > 0 for effect in effects}) == 1
    if p < result.level and one_way and min(abs(effect.value) for effect in effects) >= result.min_effect:
        return ALARM
    return _nothing(effects, result, tests)


def _probe_verdict(name: str, probe: Probe | None, p: float | None, result: Audit, tests: int) -> str:
    """An alarm where the feature raises the reward, beyond its control too. That padding, repeating or refusing lowers
    it is no fault; of two positions neither should."""
    effects = _probed(probe)
    if not effects or p is None:
        return TOO_LITTLE
    least = min(e.value for e in effects)
    size = abs(least) if name == POSITION else least
    if p < result.level and size >= result.min_effect:
        return ALARM
    return _nothing(effects, result, tests)


def _nothing(effects: list[Effect], result: Audit, tests: int) -> str:
    """Whether effects of the least size that counts would have shown."""
    shows = all(e.se * critical(result.level, tests, e.n) <= result.min_effect for e in effects)
    return NOTHING if shows else TOO_LITTLE


def _observed(seen: Observation | None) -> list[Effect]:
    """What has to hold for an alarm from the data: the model's own part, and what it has more than people."""
    if seen is None or seen.model is None or seen.excess is None:
        return []
    return [seen.model, seen.excess]


def _probed(probe: Probe | None) -> list[Effect]:
    """The same for a probe: the change, and what it is more than its control's, where there is one."""
    if probe is None or probe.change is None:
        return []
    return [probe.change] if probe.beyond is None else [probe.change, probe.beyond]


def _p(effects: list[Effect]) -> float | None:
    """The largest p: all must hold (an intersection-union test needs no correction for their number)."""
    return max((effect.p for effect in effects), default=None)
