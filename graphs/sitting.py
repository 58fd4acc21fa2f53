"""A sitting of the council: from a run and a question to the result that is kept."""

from __future__ import annotations

import json
import re
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

from langgraph.checkpoint.sqlite import SqliteSaver

from agents.config import SCORERS, CouncilConfig
from agents.scorers import Score, part, scorer
from agents.search import visits_of
from alignment.engine import Engine
from alignment.errors import SetupError
from alignment.run_dir import RunDir, write_atomic
from graphs.council import build
from graphs.modules import load_function
from graphs.recipe import Recipe, load_recipe, load_task
from graphs.report import write_report
from graphs.rewards import scorer as reward_scorer
from graphs.turns import Context, State


def run_council(
    run: Path, question: str, overrides: Sequence[str], on_event: Callable[[dict[str, Any]], None], thread: str | None
) -> dict[str, Any]:
    """``junto run council``: sits the council of a run, keeps the result under ``trees/``, renews the report."""
    run_dir = RunDir(Path(run))
    recipe = load_recipe(run_dir.path / "config.yaml", overrides)
    task = load_task(recipe.task, run_dir.path)
    question = task.validate_question(question)
    with Engine.open(run_dir.path) as engine:
        context = seat(engine, task, recipe, thread or question, calibration_of(run_dir))
        result = sit(context, question, on_event, run_dir.path / "threads.sqlite", thread)
    keep(run_dir, result)
    write_report(run_dir.path)
    return result


def seat(
    engine: Engine, task: ModuleType, recipe: Recipe, thread: str, calibration: dict[str, Any] | None = None
) -> Context:
    """The council of a recipe over an engine. ``calibration``: what `junto calibrate` found for the run. Raises
    SetupError where the model has not got what the council needs."""
    config = recipe.council
    absent = sorted({expert.role for expert in config.experts} - set(engine.roles))
    if absent:
        raise SetupError(
            f"this model has no {' and no '.join(absent)} (it has {', '.join(engine.roles)}); run its recipe "
            "without stop_after, or seat experts that it has: --set council.experts.0.role=sft"
        )
    if config.leave_refuted:
        part(task, "refute", "leave_refuted")
    limit, note = _limit(config, calibration)
    persona = recipe.data.get("system", "")

    def named(name: str) -> Score:
        if name in SCORERS:
            reward = reward_scorer(recipe.reward, engine) if recipe.reward.function else None
            return scorer(name, engine, task, persona, reward)
        call: Any = load_function(name, what="scorer").call
        return lambda question, lines: [float(call(question, list(line.steps))) for line in lines]

    has_reward = "reward" in engine.roles or recipe.reward.function is not None
    score = config.scorer if config.scorer != "auto" else "reward" if has_reward else "logprob"
    leave = config.leave_scorer if config.leave_scorer != "auto" else "critic" if "value" in engine.roles else score
    return Context(engine, task, config, thread, persona, named(score), named(leave), limit, [note])


def calibration_of(run: RunDir) -> dict[str, Any] | None:
    """What `junto calibrate` wrote, if it has run."""
    path = run.path / "calibration.json"
    return json.loads(path.read_text()) if path.is_file() else None


def _limit(config: CouncilConfig, calibration: dict[str, Any] | None) -> tuple[float | None, str]:
    """The score below which experts leave, and what a reader should know of it."""
    if config.leave_below is None:
        return None, "leaving by score is off: council.leave_below is null"
    if config.leave_below != "calibrated":
        return config.leave_below, f"leaving by score below {config.leave_below:g}, as the recipe says"
    if calibration is None:
        return None, "leaving by score is off: `junto calibrate` has not measured whether it helps this run"
    if calibration["threshold"] is None:
        return None, f"leaving by score is off: {calibration['reason']}"
    return calibration["threshold"], f"leaving by score is on: {calibration['reason']}"


def keep(run: RunDir, result: dict[str, Any]) -> None:
    """Writes a sitting's result under ``trees/``; a later sitting on the same question takes its place."""
    slug = re.sub(r"[^a-z0-9]+", "-", result["question"].lower()).strip("-")[:60] or "question"
    folder = run.path / "trees"
    folder.mkdir(exist_ok=True)
    write_atomic(folder / f"{slug}.json", json.dumps(result, indent=1, ensure_ascii=False) + "\n")


def sit(
    context: Context, question: str, on_event: Callable[[dict[str, Any]], None], database: Path, thread: str | None
) -> dict[str, Any]:
    """Runs the graph with a checkpoint after every round; an unfinished ``thread`` goes on where it stopped."""
    began = time.monotonic()
    config = {
        "configurable": {"thread_id": thread or f"{context.thread}-{time.time_ns()}"},
        "max_concurrency": len(context.config.experts) + 1,  # LangGraph waits for events on a thread of them
    }
    # the checkpointer's connection is used from the graph's own threads, one at a time
    with closing(sqlite3.connect(database, check_same_thread=False)) as connection:
        compiled = build().compile(checkpointer=SqliteSaver(connection), name="council")
        kept = compiled.get_state(config)
        # a node that ended just before an interrupt is no longer in `next`, but its task is still to be applied
        going_on = thread is not None and bool(kept.next or kept.tasks)
        start = None if going_on else {"question": question, "tokens": 0}
        for event in compiled.stream(start, config, context=context, stream_mode="custom", durability="sync"):
            on_event(event)
        state: State = compiled.get_state(config).values
    return _result(state, context, time.monotonic() - began)


def _result(state: State, context: Context, seconds: float) -> dict[str, Any]:
    answer = state.get("answer")
    visits = visits_of(state["tree"])
    solved = context.task.check(state["question"], answer or "")
    return {
        "question": state["question"],
        "answer": answer,
        "solved": solved,
        "rounds": state["round"],
        "experts": [{"name": s.name, "status": s.status, "reason": s.reason} for s in state["seats"].values()],
        "thoughts": [t.model_dump() | {"visits": visits[t.id]} for t in state["tree"].values()],
        "tokens": state["tokens"],
        "proposals": state.get("proposals", 0),
        "seconds": round(seconds, 2),
        "notes": state["notes"],
    }
