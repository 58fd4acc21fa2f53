"""``junto eval run``: from names to finished evaluations."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml

from agents.endpoint import Endpoint
from alignment.errors import UsageError
from alignment.run_dir import Report, RunDir, to_jsonl, write_atomic
from graphs.environment import machine
from graphs.evaluation.answers import TOGETHER, answered
from graphs.evaluation.config import SCORING, Evaluation, load_evaluation
from graphs.evaluation.graph import Answer, Context, Limits, graph
from graphs.evaluation.items import chosen_items, load_items
from graphs.evaluation.judge import judging
from graphs.evaluation.measures import Check
from graphs.evaluation.require import Requirement
from graphs.evaluation.subject import Subject, about, opened, parted
from graphs.modules import NamedFunction, load_function
from graphs.recipe import load_recipe, load_task
from graphs.source import Source
from graphs.tasks import Row

OF_TASK = (*SCORING, "samples", "temperature", "max_tokens", "stop")  # may be set for a recipe
SETS = Path(__file__).with_name("sets")  # evaluations that come with the project, and their rows


@dataclass(frozen=True)
class Prepared:
    """An evaluation with its items; of a recipe or a run also its task's checker, and where its reward comes from."""

    evaluation: Evaluation
    items: list[Row]
    check: Check | None = None
    function: NamedFunction | None = None
    run: Path | None = None


@dataclass(frozen=True)
class Asked:
    """What the command line asked for beside names."""

    runs_root: Path
    overrides: Sequence[str] = ()  # of evaluations
    limit: float | None = None
    ids: Sequence[str] = ()
    seeds: Sequence[int] = (0,)
    judge: str | None = None
    limits: Limits = Limits()
    require: Sequence[Requirement] = ()
    workers: int = 0  # of Ray; 0: this process
    of_recipe: Sequence[str] = ()  # overrides of a recipe or a run


def prepare(name: str, asked: Asked) -> Prepared:
    """The evaluation that ``name`` is: a file of one, one of those that come with the project, a recipe, or a run.
    Raises UsageError."""
    is_file = name.endswith((".yaml", ".yml"))
    run = None if is_file else RunDir.find(name, asked.runs_root)
    path = run.path / "config.yaml" if run else Path(name) if is_file else SETS / f"{name}.yaml"
    if not is_file and not path.is_file():
        sets = ", ".join(sorted(one.stem for one in SETS.glob("*.yaml")))
        raise UsageError(f"{name} is no evaluation; name a YAML file of one, a recipe, a run, or one of {sets}")
    if run is None and "kind" in Source(path, "evaluation").data:
        evaluation = load_evaluation(path, asked.overrides)
        if "solved" in evaluation.measured:
            raise UsageError(f'{path}: "solved" is what a recipe\'s own task checks; evaluate the recipe or its run')
        return Prepared(evaluation, load_items(evaluation, path.parent))
    return _of_recipe(path, run, asked)


def _of_recipe(path: Path, run: RunDir | None, asked: Asked) -> Prepared:
    """The held-out prompts of a recipe's task, answered as its evaluation says."""
    given = {one: one.partition("=")[0].strip() for one in asked.overrides}
    refused = [one for one, key in given.items() if key.split(".")[0] not in (*OF_TASK, "split")]
    if refused:
        raise UsageError(
            f"{refused[0]}: the prompts are those of the recipe's task; --set takes {', '.join(OF_TASK)}, split"
        )
    asked_for = [one.partition("=")[2].strip().strip("'\"") for one in asked.overrides if given[one] == "split"]
    split = asked_for[-1] if asked_for else "validation"
    recipe = load_recipe(path, asked.of_recipe)
    base = Path(run.environment().get("base", run.path)) if run else path.parent
    if run is None:  # of this name, for its reward model
        run = RunDir.find(recipe.name, asked.runs_root)
    task = load_task(recipe.task, path.parent)
    splits = task.load(task.Options(**recipe.data), recipe.seed, base).prompts
    if not splits.get(split):
        there = ", ".join(name for name, rows in splits.items() if rows)
        raise UsageError(f"split={split}: the task of {path} has no such prompts; there are {there}")
    items = [
        {"id": asked_id(row["prompt"], row["question"]), "place": f"question {row['question']!r}"}
        | {"prompt": row["prompt"], "question": row["question"], "targets": []}
        for row in splits[split]
    ]
    items = list({item["id"]: item for item in items}.values())  # the same one twice is one
    checked = task.check(items[0]["question"], "") is not None
    settings = {
        "name": recipe.name,
        "kind": "generate",
        "data": str(path),
        "split": split,
        "metrics": [*(["solved"] if checked else []), "reward"],
        "temperature": recipe.evaluate.temperature,
        "max_tokens": recipe.evaluate.max_tokens,
    }
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "evaluation.yaml"
        written.write_text(yaml.safe_dump(settings), encoding="utf-8")
        evaluation = load_evaluation(written, asked.overrides)
    named = recipe.reward.function
    function = None if named is None else load_function(named)
    return Prepared(evaluation, items, task.check if checked else None, function, run.path if run else None)


def asked_id(prompt: Any, question: str) -> str:
    """A hash of what a task asks: a question whose prompt has changed is another one."""
    return hashlib.sha256(json.dumps([prompt, question], sort_keys=True).encode()).hexdigest()[:12]


def run_evaluations(names: Sequence[str], models: Sequence[str], asked: Asked, report: Report) -> Iterator[RunDir]:
    """``run_prepared`` of the evaluations that are called so."""
    return run_prepared([prepare(name, asked) for name in names], models, asked, report)


def run_prepared(prepared: Sequence[Prepared], models: Sequence[str], asked: Asked, report: Report) -> Iterator[RunDir]:
    """Each evaluation by each model, one model after the other; the folder of each as it is finished. What has been
    done before is not done again."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1))
    chosen = [{item["id"] for item in chosen_items(one.items, asked.limit, asked.ids)} for one in prepared]
    # names of one model stand together, so that it is loaded once
    order = sorted(models, key=lambda name: [parted(other)[0] for other in models].index(parted(name)[0]))
    with opened(order, asked.runs_root) as subject_of:
        for model in order:
            subject = subject_of(model)
            with _answering(subject, asked) as answer:
                for one, ids in zip(prepared, chosen, strict=True):
                    # where nothing is written a seed decides nothing
                    seeds = dict.fromkeys(asked.seeds if one.evaluation.kind == "generate" else asked.seeds[:1])
                    for seed in seeds:
                        yield _evaluate(one, ids, subject, answer, asked, seed, report)


@contextmanager
def _answering(subject: Subject, asked: Asked) -> Iterator[Answer]:
    if asked.workers:
        from graphs.evaluation.workers import over_workers

        with over_workers(subject.name, asked.workers, asked.runs_root) as answer:
            yield answer
    else:
        yield partial(answered, subject)


def _evaluate(
    one: Prepared, ids: set[str], subject: Subject, answer: Answer, asked: Asked, seed: int, report: Report
) -> RunDir:
    # pairs are answered by the reward model, whichever role was named
    decided = about(subject.here, "reward") if one.evaluation.kind == "pairs" else subject.about
    slug = f"{subject.words}-{_digest(one, decided, seed)}"
    folder = RunDir(asked.runs_root / "evaluations" / one.evaluation.name / slug)
    judges = judging(one.evaluation, one.function, asked.judge, one.run, subject, asked.runs_root)
    # a sitting takes long, so each is kept; a server's texts are paid for, and its batches are its own affair
    together = 1 if subject.sit is not None else TOGETHER["generate"] if isinstance(subject.engine, Endpoint) else None
    with folder.locked(), judges as (evaluation, judge, judged_by):
        folder.path.mkdir(parents=True, exist_ok=True)
        described = {
            "name": evaluation.name,
            "subject": subject.name,
            "role": subject.role,
            "about": decided,
            "seed": seed,
            "judge": judged_by,
            "evaluation": evaluation.model_dump(mode="json"),
            "environment": machine(),
            "updated": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        write_atomic(folder.path / "items.jsonl", to_jsonl(one.items))
        graph.invoke(
            {},
            context=Context(
                answer,
                evaluation,
                one.items,
                ids,
                seed,
                folder,
                report,
                one.check,
                judge,
                asked.limits,
                list(asked.require),
                described,
                together,
            ),
        )
    return folder


def _digest(one: Prepared, decided: dict[str, Any], seed: int) -> str:
    """A hash of all that decides the samples."""
    settled = one.evaluation.model_dump(mode="json", exclude={"name", "data", "split", *SCORING})
    asked = [decided, settled, seed, [item["id"] for item in one.items]]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:8]
