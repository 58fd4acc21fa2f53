"""Sends a run of ``align`` back to a stage whose figures the recipe's gate refuses, with other settings."""

from __future__ import annotations

import json
import shutil
from typing import Any

from pydantic import BaseModel, ValidationError

from alignment.errors import JuntoError, UsageError
from alignment.run_dir import STAGES, RunDir, to_jsonl, write_atomic
from graphs.gate import TRAINED, missed
from graphs.recipe import Recipe

ROLES = {"sft": ("sft",), "reward": ("reward",), "ppo": ("policy", "value")}


def with_changes(recipe: Recipe, run: RunDir) -> Recipe:
    """The recipe with the settings that earlier attempts of this run have led to."""
    sections: dict[str, dict[str, Any]] = {}
    for values in run.status().get("changed", {}).values():
        for name, value in values.items():
            section, _, key = name.partition(".")
            sections.setdefault(section, {})[key] = value
    update = {name: getattr(recipe, name).model_copy(update=values) for name, values in sections.items()}
    return recipe.model_copy(update=update)


def send_back(recipe: Recipe, run: RunDir, stage: str) -> str:
    """Whether the figures of ``stage`` are as the recipe's gate requires: an empty text. Otherwise the stage that made
    them is undone, what it left is kept under ``attempts/``, its settings are changed, and what happened is returned in
    words. Raises JuntoError where it may not be trained again, UsageError for a figure that is not measured."""
    gate, results = recipe.gate, run.results(stage)
    try:
        found = missed(gate, stage, results)
    except KeyError as error:
        there = ", ".join(key for key in results if key not in ("words", "n", "split"))
        raise UsageError(f"gate.require: {error.args[0]} is not measured in this run; there are {there}") from None
    if not found:
        return ""
    trained = TRAINED[stage]
    if "test" in run.status()["stages"]:
        raise JuntoError(
            f"the gate is shut: {'; '.join(map(str, found))}. The test split has been asked, so nothing is trained "
            "after it; change gate.require, or start over under another name with --set name=…"
        )
    attempts = int(run.status().get("attempts", {}).get(trained, 0))
    factors = {name: factor for name, factor in gate.change.items() if name.startswith(f"{trained}.")}
    why = "; ".join(map(str, found))
    if attempts >= gate.retries or not factors:
        tried = f" after {attempts + 1} attempts" if attempts else ""
        more = "" if attempts else f"; gate.retries and gate.change would train {trained} again"
        raise JuntoError(f"the gate is shut{tried}: {why}. The run is kept; change the recipe or gate.require{more}")
    changed = {}
    for name, factor in factors.items():
        section, _, key = name.partition(".")
        value = getattr(getattr(with_changes(recipe, run), section), key)
        if value is None:
            raise UsageError(f"gate.change: {name} is null in this recipe, so nothing can be multiplied; set it")
        changed[name] = value * factor
        _refuse_bad(getattr(recipe, section), key, changed[name], name)
    _archive(run, trained, attempts + 1, {"why": why, "results": {s: run.results(s) for s in (trained, stage)}})
    # samples go before the status: those of the evaluation would be taken for the next policy's
    run.rewind("samples.jsonl", "evaluate", -1)
    status = run.status()
    # what comes after it was made from what it had left, in a run that had gone on before the gate was shut too
    for name in STAGES[STAGES.index(trained) :]:
        status["stages"].pop(name, None)
    words = f"attempt {attempts + 2}, with {', '.join(f'{n} {v:.3g}' for n, v in changed.items())}, since {why}"
    told = run.status()["stages"].get(trained, {}).get("attempts", [])
    status["stages"][trained] = {"state": "pending", "attempts": [*told, words]}
    status["attempts"] = status.get("attempts", {}) | {trained: attempts + 1}
    status["changed"] = status.get("changed", {}) | {trained: changed}
    write_atomic(run.path / "status.json", json.dumps(status, indent=1) + "\n")
    for name in STAGES[STAGES.index(trained) :]:
        shutil.rmtree(run.path / "checkpoints" / name, ignore_errors=True)
        for role in ROLES.get(name, ()):
            shutil.rmtree(run.path / "adapters" / role, ignore_errors=True)
    return words


def _refuse_bad(section: BaseModel, key: str, value: float, name: str) -> None:
    try:
        type(section).model_validate(section.model_dump() | {key: value})
    except ValidationError as error:
        why = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise UsageError(
            f"gate.change: {name} would be {value:.4g} in the next attempt, which the recipe refuses ({why}); "
            "the run is kept; set a factor that leads elsewhere"
        ) from None


def _archive(run: RunDir, trained: str, number: int, about: dict[str, Any]) -> None:
    folder = run.path / "attempts" / f"{trained}-{number}"
    folder.mkdir(parents=True, exist_ok=True)
    of_it = [row for row in run.metrics() if row["stage"] == trained]
    samples = [row for row in run.samples() if row["stage"] in (trained, "evaluate")]
    write_atomic(folder / "metrics.jsonl", to_jsonl(of_it))
    write_atomic(folder / "samples.jsonl", to_jsonl(samples))
    write_atomic(folder / "attempt.json", json.dumps(about, indent=1) + "\n")
