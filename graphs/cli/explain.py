"""``junto explain``: why the reward model of a run decided as it did."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from alignment.errors import UsageError
from alignment.run_dir import RunDir, write_atomic
from graphs.cli.progress import Reporter
from graphs.explaining import How, explanation_of, known
from graphs.recipe import load_task
from graphs.report import write_report


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
    config = run.config()
    task = load_task(config["task"], run.path)
    # a system text of the data stood before every training prompt, so it stands here too
    prompt = task.prompt(task.validate_question(question), persona=(config.get("data") or {}).get("system") or "")

    known(prompt, responses, how)
    from alignment.engine import Engine

    function = str((config.get("reward") or {}).get("function") or "")
    if function and how.randomise:
        raise UsageError("this run's reward is a function, which has no head to draw anew; leave --randomise out")
    engine = None if function and how.perturbation != "infill" else Engine.open(run.path, compute_dtype=compute_dtype)
    try:
        with Reporter() as report:
            explanation = explanation_of(engine, function, prompt, responses, how, report)
    finally:
        if engine is not None:
            engine.close()
    _keep(run.path / "explanations", question, [*responses, replace(how, png=None), compute_dtype], explanation)
    write_report(run.path)
    if how.png is not None:
        _draw(explanation, how.png)
    return explanation


def _draw(explanation: dict[str, Any], path: Path) -> None:
    from explain.render_png import png
    from explain.result import from_json

    try:
        path.write_bytes(png(from_json(explanation)))
    except OSError as error:
        raise UsageError(f"the picture {path} cannot be written: {error.strerror}") from error


def _keep(folder: Path, question: str, asked: list[Any], explanation: dict[str, Any]) -> None:
    """The explanation in a file of its own for all that was asked."""
    words = re.sub(r"[^a-z0-9]+", "-", question.lower()).strip("-")[:40]
    digest = hashlib.sha256(json.dumps([question, *map(str, asked)]).encode()).hexdigest()[:8]
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / f"{words or 'question'}-{digest}.json", json.dumps(explanation, indent=1) + "\n")
