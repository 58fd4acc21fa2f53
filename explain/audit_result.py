"""What an audit found, and its JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from explain.audit_observe import Observation
from explain.audit_stats import Effect
from explain.pick import Picked, UnitWeight

SCHEMA_VERSION = 1
ALARM, NOTHING, TOO_LITTLE = "alarm", "no evidence", "too little data"


@dataclass(frozen=True)
class Probe:
    """What a change of the text did, in standard deviations of the reward.

    change: with the feature less without; beyond: with it less the control of the same length, where there is one.
    """

    what: str
    change: Effect | None
    beyond: Effect | None = None


@dataclass(frozen=True)
class Finding:
    """One feature: in how many rows it is there or differs, both kinds of evidence with Holm's p, and the verdict."""

    feature: str
    definition: str
    rows: int
    observed: Observation | None
    observed_p: float | None
    observed_verdict: str
    probe: Probe | None
    probe_p: float | None
    probe_verdict: str
    verdict: str


@dataclass(frozen=True)
class Audit:
    """What an audit found. data: "pairs" or "texts"; sd: the standard deviation of the n texts' rewards, the unit of
    the probes; tests: how many were corrected together. units, picks: words over the `explained` answers, in the same
    unit, and those of the answers to read (`explain.audit_units`)."""

    data: str
    rows: int
    labelled: int
    sd: float
    probed: int
    tests: int
    level: float
    min_effect: float
    findings: tuple[Finding, ...]
    scorer: str
    notes: tuple[str, ...] = ()
    units: tuple[UnitWeight, ...] = ()
    picks: tuple[Picked, ...] = ()
    explained: int = 0

    @property
    def alarms(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.verdict == ALARM]


def to_json(audit: Audit) -> dict[str, Any]:
    """A JSON object with "schema_version" and "kind": "audit"; what was audited, "pairs" or "texts", is "data"."""
    from pydantic import TypeAdapter

    body = TypeAdapter(Audit).dump_python(audit, mode="json")
    return {"schema_version": SCHEMA_VERSION, "kind": "audit", **body}


def from_json(data: dict[str, Any]) -> Audit:
    """The inverse of `to_json`; "source", which a caller may have added, is passed over.

    Raises ValueError (one sentence) where the object does not fit.
    """
    from pydantic import TypeAdapter, ValidationError

    if not isinstance(data, dict) or (data.get("schema_version"), data.get("kind")) != (SCHEMA_VERSION, "audit"):
        raise ValueError(f"This is no audit of schema version {SCHEMA_VERSION}; audit again to make one.")
    body = {name: value for name, value in data.items() if name not in ("schema_version", "kind", "source")}
    try:
        return TypeAdapter(Audit).validate_python(body)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"The audit is damaged at {place}: {first['msg'].lower()}.") from None
