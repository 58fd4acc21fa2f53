"""Explanations of responses, with the options that a person has: what both the command line and the page ask for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignment.errors import UsageError
from alignment.run_dir import Report


@dataclass(frozen=True)
class How:
    """The options of both verbs. drill_down: None drills where the units are chosen for the user ("auto")."""

    units: str = "auto"
    method: str = "all"
    perturbation: str = "remove"
    on: str = "response"
    seed: int = 0
    budget: int | None = None
    drill_down: bool | None = None
    randomise: bool = False
    png: Path | None = None
    frozen: tuple[str, ...] = ()


def known(prompt: Any, responses: list[str], how: How) -> None:
    """Raises UsageError where this cannot be asked; before a model is loaded."""
    from graphs.explain import cut

    try:
        cut(state_of(prompt, responses, how))
    except ValueError as error:
        raise UsageError(str(error)) from error
    if how.perturbation == "swap" and len(responses) == 1:
        raise UsageError("the perturbation swap needs two responses; use explain pair, or choose remove")
    if how.perturbation == "infill" and how.on == "prompt":
        raise UsageError("the policy fills gaps of a response, not of a prompt; choose another --perturbation")


def state_of(prompt: Any, responses: list[str], how: How) -> Any:
    """What the graph starts from."""
    state = {
        "prompt": prompt,
        "chosen": responses[0],
        "units": how.units,
        "method": how.method,
        "perturbation": how.perturbation,
        "on": how.on,
        "frozen": list(how.frozen),
    }
    return state | ({"rejected": responses[1]} if len(responses) == 2 else {})


def explanation_of(
    engine: Any, function: str, prompt: Any, responses: list[str], how: How, report: Report
) -> dict[str, Any]:
    """The explanation of one response to the messages of ``prompt``, or of a pair, by the reward ``function`` or else
    the reward model of an open ``engine``, as JSON; ``report`` hears how many texts are scored. Raises UsageError."""
    from alignment.embedded import cache_dir
    from explain.score import EngineScorer, RandomHeadScorer
    from graphs.explain import ExplainContext, graph
    from graphs.infill import PolicyInfill
    from graphs.rewards import FunctionScorer

    def progress(scored: int, total: int) -> None:
        report({"stage": "explain", "step": scored, "total": total})

    state = state_of(prompt, responses, how)
    try:
        context = ExplainContext(
            FunctionScorer(function) if function else EngineScorer(engine),
            cache_dir=cache_dir() / "rewards",
            progress=progress,
            infill=PolicyInfill(engine, prompt) if how.perturbation == "infill" else None,
            drill_down=how.units == "auto" if how.drill_down is None else how.drill_down,
            randomised=RandomHeadScorer(engine) if how.randomise else None,
            seed=how.seed,
            budget=how.budget,
        )
        explanation: dict[str, Any] = graph.invoke(state, context=context)["explanation"]
        return explanation
    except ValueError as error:  # explain's way of saying that it was asked something wrong
        raise UsageError(str(error)) from error
