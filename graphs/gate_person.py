"""A person's word before a stage of ``align``, where the recipe asks for it. It is kept in the run's status, so that it
can be given at once in the terminal, or later, and is not asked for again."""

from __future__ import annotations

from typing import Any

from alignment.errors import UsageError
from alignment.run_dir import RunDir
from graphs.asking import Decision, Kind, Waiting, ask, request_of
from graphs.gate import GateConfig, number_of

KINDS: tuple[Kind, ...] = ("approve", "reject")
BEFORE = {"reward": "sft", "ppo": "reward", "evaluate": "ppo"}  # whose figures a person then looks at


class WaitingRun(Waiting):
    """A run that waits for a person before one of its stages."""

    def __init__(self, run: RunDir, asked: dict[str, Any]) -> None:
        name = run.path.name
        said = f"the run {name!r} waits for a decision before {stage_of(asked)}; junto runs decide {name} approve (or "
        super().__init__(name, asked, f"{said}reject), and the same command again goes on")


def stage_of(asked: dict[str, Any]) -> str:
    return str(request_of(next(iter(asked.values())))["args"]["stage"])


def stopped(gate: GateConfig, run: RunDir, stage: str) -> str:
    """Asks before ``stage``, once. Why the run is to end there, or nothing. Inside a node only."""
    if stage not in gate.ask_before or run.done(stage):
        return ""
    kept = run.status().get("decisions", {}).get(stage)
    if kept is None:
        results = run.results(BEFORE[stage])
        figures = {name: value for name in results if (value := number_of(results[name])) is not None}
        about = f"{BEFORE[stage]} is done, {stage} comes next."
        decision = ask("train", {"stage": stage, "figures": figures}, about, KINDS)
        keep(run, stage, decision)
    else:
        decision = Decision(kept["kind"], message=kept["message"])
    if decision.kind == "approve":
        return ""
    keep(run, stage, None)  # whoever starts it again is asked again
    return f"a person ended it before {stage}{f': {decision.message}' if decision.message else ''}"


def decide(run: RunDir, kind: str, message: str = "") -> str:
    """Keeps a decision for a run that waits; its stage. Raises UsageError where it does not wait."""
    stage = run.status().get("waiting")
    if run.state() != "waiting" or not stage:
        raise UsageError(f"{run.path.name} waits for no decision; it is {run.state()}")
    if kind not in KINDS:
        raise UsageError(f"{kind!r} is no decision; there are {' and '.join(KINDS)}")
    keep(run, stage, Decision("approve" if kind == "approve" else "reject", message=message))
    return str(stage)


def keep(run: RunDir, stage: str, decision: Decision | None) -> None:
    kept = {name: one for name, one in run.status().get("decisions", {}).items() if name != stage}
    if decision is not None:
        kept[stage] = {"kind": decision.kind, "message": decision.message}
    run.update_status(decisions=kept)
