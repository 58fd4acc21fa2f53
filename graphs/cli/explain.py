"""``junto explain``: why the reward model of a run decided as it did."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from alignment.errors import UsageError
from alignment.run_dir import RunDir, write_atomic
from graphs.cli.progress import Reporter
from graphs.recipe import load_task
from graphs.report import write_report


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


def explain_text(
    run: RunDir, question: str, response: str, units: str, compute_dtype: str, how: How | None = None
) -> dict[str, Any]:
    """The explanation of one response as JSON, kept in the run directory."""
    return _explain(run, question, [response], replace(how or How(), units=units), compute_dtype)


def explain_pair(
    run: RunDir,
    question: str | None,
    first: str | None,
    second: str | None,
    units: str,
    compute_dtype: str,
    how: How | None = None,
) -> dict[str, Any]:
    """The explanation of one response against another as JSON, kept in the run directory.

    Without responses, those that the recipe of the run names for the question, or its first pair.
    """
    if first is None and second is None:
        question, first, second = _from_recipe(run, question)
    if question is None or first is None or second is None:
        missing = "--question" if question is None else "--first" if first is None else "--second"
        raise UsageError(f"explain pair lacks {missing}; give --question, --first and --second")
    return _explain(run, question, [first, second], replace(how or How(), units=units), compute_dtype)


def _from_recipe(run: RunDir, question: str | None) -> tuple[str, str, str]:
    pairs = run.config().get("explain") or []
    for pair in pairs:
        if question is None or pair["question"] == question.strip():
            return pair["question"], pair["candidates"][0], pair["candidates"][1]
    raise UsageError(
        f"the recipe of {run.path} has no candidates{f' for {question!r}' if question else ''} under explain:; "
        "give --question, --first and --second"
    )


def _explain(run: RunDir, question: str, responses: list[str], how: How, compute_dtype: str) -> dict[str, Any]:
    for response in responses:
        if not response.strip():
            raise UsageError("a response to explain is empty; give some text")
    _known(how, len(responses) == 2)
    config = run.config()
    task = load_task(config["task"], run.path)
    # a system text of the data stood before every training prompt, so it stands here too
    prompt = task.prompt(task.validate_question(question), persona=(config.get("data") or {}).get("system") or "")

    from alignment.engine import Engine

    function = str((config.get("reward") or {}).get("function") or "")
    if function and how.randomise:
        raise UsageError("this run's reward is a function, which has no head to draw anew; leave --randomise out")
    engine = None if function and how.perturbation != "infill" else Engine.open(run.path, compute_dtype=compute_dtype)
    try:
        explanation = explanation_of(engine, function, prompt, responses, how)
    finally:
        if engine is not None:
            engine.close()
    _keep(run.path / "explanations", question, responses, explanation)
    write_report(run.path)
    if how.png is not None:
        _draw(explanation, how.png)
    return explanation


def explanation_of(engine: Any, function: str, prompt: Any, responses: list[str], how: How) -> dict[str, Any]:
    """The explanation of one response to the messages of ``prompt``, or of a pair, by the reward ``function`` or else
    the reward model of an open ``engine``, as JSON. Raises UsageError."""
    from alignment.embedded import cache_dir
    from explain.score import EngineScorer, RandomHeadScorer
    from graphs.explain import ExplainContext, graph
    from graphs.infill import PolicyInfill
    from graphs.rewards import FunctionScorer

    with Reporter() as report:

        def progress(scored: int, total: int) -> None:
            report({"stage": "explain", "step": scored, "total": total})

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
            state: Any = {
                "prompt": prompt,
                "chosen": responses[0],
                "units": how.units,
                "method": how.method,
                "perturbation": how.perturbation,
                "on": how.on,
            }
            if len(responses) == 2:
                state["rejected"] = responses[1]
            explanation: dict[str, Any] = graph.invoke(state, context=context)["explanation"]
            return explanation
        except ValueError as error:  # explain's way of saying that it was asked something wrong
            raise UsageError(str(error)) from error


def _known(how: How, pair: bool) -> None:
    """Refuse an option before a model is loaded."""
    from explain.perturb import known_perturbation
    from explain.text import known_method, known_place

    try:
        known_method(how.method)
        known_place(how.on, how.units, pair)
        known_perturbation(how.perturbation)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if how.perturbation == "swap" and not pair:
        raise UsageError("the perturbation swap needs two responses; use explain pair, or choose remove")
    if how.perturbation == "infill" and how.on == "prompt":
        raise UsageError("the policy fills gaps of a response, not of a prompt; choose another --perturbation")


def _draw(explanation: dict[str, Any], path: Path) -> None:
    from explain.render_png import png
    from explain.result import from_json

    try:
        path.write_bytes(png(from_json(explanation)))
    except OSError as error:
        raise UsageError(f"the picture {path} cannot be written: {error.strerror}") from error


def _keep(folder: Path, question: str, responses: list[str], explanation: dict[str, Any]) -> None:
    words = re.sub(r"[^a-z0-9]+", "-", question.lower()).strip("-")[:40]
    digest = hashlib.sha256(json.dumps([question, responses]).encode()).hexdigest()[:8]
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / f"{words or 'question'}-{digest}.json", json.dumps(explanation, indent=1) + "\n")
