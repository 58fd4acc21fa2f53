"""A sitting of the council: from a run and a question to the result that is kept."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

from agents.config import SCORERS, CouncilConfig
from agents.scorers import Score, part, scorer
from agents.search import visits_of
from alignment.engine import Engine
from alignment.errors import SetupError
from alignment.run_dir import RunDir
from alignment.scoring import Scorer as RewardScorer
from alignment.scoring import function_scorer
from graphs.asking import OnAsk, Waiting
from graphs.council import build
from graphs.modules import load_function
from graphs.recipe import Recipe, load_recipe, load_task
from graphs.report import write_report
from graphs.results import keep
from graphs.threads import run_thread
from graphs.tools import tools_of
from graphs.turns import Context, State, workers

if TYPE_CHECKING:
    from smolagents import Tool

    from agents.endpoint import Endpoint


def run_council(
    run: Path,
    question: str,
    overrides: Sequence[str],
    on_event: Callable[[dict[str, Any]], None],
    thread: str | None,
    allow_code: bool = False,
    on_ask: OnAsk | None = None,
    decisions: dict[str, Any] | None = None,
    council: CouncilConfig | None = None,
) -> dict[str, Any]:
    """``junto run council``: sits the council of a run, or ``council`` in its place, keeps the result under ``trees/``,
    renews the report. Where it asks a person, ``on_ask`` answers; without it the thread waits, and Waiting is raised.
    """
    run_dir = RunDir(Path(run))
    recipe = load_recipe(run_dir.path / "config.yaml", overrides)
    if council is not None:
        recipe = recipe.model_copy(update={"council": council})
    task = load_task(recipe.task, run_dir.path)
    question = task.validate_question(question)
    tools = tools_of(recipe.council, allow_code)
    with Engine.open(run_dir.path) as engine:
        context = seat(engine, task, recipe, thread or question, calibration_of(run_dir), tools, True)
        result = sit_asking(context, question, on_event, run_dir.path / "threads.sqlite", thread, on_ask, decisions)
    keep(run_dir.path, "trees", result)
    write_report(run_dir.path)
    return result


def seat(
    engine: Engine | Endpoint,
    task: ModuleType,
    recipe: Recipe,
    thread: str,
    calibration: dict[str, Any] | None = None,
    tools: dict[str, list[Tool]] | None = None,
    asks: bool = False,
) -> Context:
    """The council of a recipe over an engine. ``calibration``: what `junto calibrate` found for the run; ``tools``:
    those of each expert, as from ``graphs.tools``; ``asks``: there is a person for what ``ask_before`` names. Raises
    SetupError where the model has not got what the council needs."""
    config = _with_guests(engine, recipe.council)
    if not asks:
        config = config.model_copy(update={"ask_before": []})
    absent = sorted({expert.role for expert in config.experts} - set(engine.roles))
    if absent:
        raise SetupError(
            f"this model has no {' and no '.join(absent)} (it has {', '.join(engine.roles)}); run its recipe "
            "without stop_after, or seat experts that it has: --set council.experts.0.role=sft"
        )
    if tools and not isinstance(engine, Engine):
        raise SetupError(
            f"{' and '.join(tools)} would call tools, which needs a model that is loaded here and not a server's; seat "
            "a hub id or a folder, or leave out tools and code"
        )
    if config.leave_refuted:
        part(task, "refute", "leave_refuted")
    notes = []
    persona = recipe.data.get("system", "")
    reward = _function(recipe.reward.function)

    def named(name: str) -> Score:
        if name in SCORERS:
            return scorer(name, engine, task, persona, reward)
        call: Any = load_function(name, what="scorer").call
        return lambda question, lines: [float(call(question, list(line.steps))) for line in lines]

    judged = "reward" in engine.roles or reward is not None
    score = config.scorer if config.scorer != "auto" else "reward" if judged else "logprob"
    if score == "logprob" and config.vote == "reward":
        config = config.model_copy(update={"vote": "majority"})
        notes.append("the vote is of the majority: there is no reward model to weigh it")
    leave = config.leave_scorer if config.leave_scorer != "auto" else "critic" if "value" in engine.roles else score
    config = config.model_copy(update={"scorer": score, "leave_scorer": leave})
    limit, note = _limit(config, calibration)
    by_score = named(score)
    by_value = by_score if leave == score else named(leave)
    # as the recipe has them, so that a thread can be taken up by its name alone
    settings = recipe.council.model_dump_json(exclude_defaults=True)
    return Context(
        engine, task, config, thread, persona, by_score, by_value, limit, [note, *notes], tools or {}, settings=settings
    )


def _with_guests(engine: Engine | Endpoint, config: CouncilConfig) -> CouncilConfig:
    """The council where experts of other runs have their role's name in this engine; it is loaded where it is not."""
    experts = []
    for expert in config.experts:
        if expert.run is not None:
            if not isinstance(engine, Engine):
                raise SetupError(
                    f"{expert.name} is of the run {expert.run}, and a server's model cannot take it; leave out its run"
                )
            role = engine.add_guest(expert.role, RunDir.open(expert.run).adapter(expert.role))
            expert = expert.model_copy(update={"role": role, "run": None})
        experts.append(expert)
    return config.model_copy(update={"experts": experts})


def _function(name: str | None) -> RewardScorer | None:
    if name is None:
        return None
    found = load_function(name)
    return function_scorer(found.call, found.name)


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
    if (scorer := calibration.get("scorer")) != config.leave_scorer:  # earlier versions did not record it
        measured = f"`junto calibrate` measured it by {scorer or 'another'}, and not by {config.leave_scorer}"
        return None, f"leaving by score is off: {measured}"
    if calibration["threshold"] is None:
        return None, f"leaving by score is off: {calibration['reason']}"
    return calibration["threshold"], f"leaving by score is on: {calibration['reason']}"


def sit(
    context: Context,
    question: str,
    on_event: Callable[[dict[str, Any]], None],
    database: Path,
    thread: str | None,
    decisions: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Runs the graph with a checkpoint after every round; an unfinished ``thread`` goes on where it stopped, one that
    waits for a person with ``decisions``. Raises Waiting."""
    began = time.monotonic()
    name = thread or f"{context.thread}-{time.time_ns()}"
    start = {"question": question, "tokens": 0, "proposals": 0}
    state = run_thread(
        build(), "council", database, name, start, context, on_event, workers(context), decisions, context.settings
    )
    return _result(cast(State, state), context, time.monotonic() - began)


def sit_asking(
    context: Context,
    question: str,
    on_event: Callable[[dict[str, Any]], None],
    database: Path,
    thread: str | None,
    on_ask: OnAsk | None,
    decisions: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """``sit``, again and again with what a person decides."""
    while True:
        try:
            return sit(context, question, on_event, database, thread, decisions)
        except Waiting as waiting:
            if on_ask is None:
                raise
            thread, decisions = waiting.thread, on_ask(waiting)


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
