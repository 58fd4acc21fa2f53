"""The ``council`` graph: think -> judge -> share -> ... -> conclude.

Each active expert writes one step (one ``Send`` each, decoded as one batch). All new steps are scored together: the
reward model scores the line, the critic says whether it is worth continuing. Experts see their peers' steps; one
that sees that it is wrong leaves, and may come back once by taking up the best peer's line.
"""

from __future__ import annotations

import json
import math
import operator
import re
import sqlite3
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict

from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.errors import NodeError
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Send
from pydantic import BaseModel

from agents.config import CouncilConfig, ExpertConfig
from agents.thought import Thought, Tree, line, merge, read, step_grammar, vote
from alignment.engine import Completion, Engine, Request
from alignment.errors import SetupError
from alignment.run_dir import RunDir, write_atomic
from alignment.scoring import Scorer
from graphs.recipe import load_recipe, load_task
from graphs.report import write_report
from graphs.rewards import scorer

if TYPE_CHECKING:
    from agents.endpoint import Endpoint

Event = dict[str, Any]


class Seat(BaseModel):
    """Where an expert stands: ``at`` is the thought that it continues from."""

    name: str
    status: Literal["active", "left", "finished", "crashed"] = "active"
    reason: str = ""
    at: str | None = None
    rejoined: bool = False


class State(TypedDict, total=False):
    question: str
    tree: Annotated[Tree, merge]
    seats: Annotated[dict[str, Seat], merge]
    round: int
    tokens: Annotated[int, operator.add]
    board: dict[str, str]  # expert -> the step that it shared last
    started: float
    answer: str | None
    notes: Annotated[list[str], operator.add]


class Turn(TypedDict):
    """What one expert is sent: no more than it needs, because every payload is checkpointed."""

    expert: str
    question: str
    steps: list[str]
    parent: str | None
    board: list[str]
    round: int


@dataclass
class Context:
    engine: Engine | Endpoint
    task: ModuleType
    config: CouncilConfig
    thread: str = "council"
    persona: str = ""  # of experts that have none of their own
    score: Scorer | None = None  # None: the engine's reward model, where it has one

    def expert(self, name: str) -> ExpertConfig:
        return next(e for e in self.config.experts if e.name == name)


def summon(state: State, runtime: Runtime[Context]) -> State:
    seats = {e.name: Seat(name=e.name) for e in runtime.context.config.experts}
    notes = []
    if runtime.context.config.leave_below is None:
        notes.append("leaving by score is off: set council.leave_below where a validation split shows that it helps")
    return {"seats": seats, "tree": {}, "round": 0, "board": {}, "started": time.time(), "notes": notes}


def turns(state: State) -> list[Send]:
    """One ``Send`` per active expert, with the steps that its peers shared."""
    sends = []
    for seat in state["seats"].values():
        if seat.status == "active":
            peers = [text for name, text in state["board"].items() if name != seat.name]
            turn = Turn(
                expert=seat.name,
                question=state["question"],
                steps=line(state["tree"], seat.at),
                parent=seat.at,
                board=peers,
                round=state["round"] + 1,
            )
            sends.append(Send("think", turn))
    return sends


def think(turn: Turn, runtime: Runtime[Context]) -> State:
    """One expert writes one step."""
    c = runtime.context
    expert = c.expert(turn["expert"])
    request = Request(
        c.task.prompt(turn["question"], turn["board"], expert.persona or c.persona),
        prefix="".join(f"{step}\n" for step in turn["steps"]),
        role=expert.role,
        max_tokens=c.config.max_tokens_per_step,
        temperature=expert.temperature,
        seed=f"{c.config.seed}/{c.thread}/{expert.name}/{turn['round']}",
        stop=("\n",),
        grammar=step_grammar(c.task.STEP),
    )
    write = runtime.stream_writer
    about = {"expert": expert.name, "round": turn["round"]}
    done = _told(c.engine.stream(request), lambda text: write({"kind": "token", **about, "text": text}))
    text, status, reason = read(done.text, done.finish)
    thought = Thought(
        id=f"{expert.name}-{turn['round']}",
        parent=turn["parent"],
        expert=expert.name,
        round=turn["round"],
        text=text,
        status=status,
        reason=reason,
        tokens=done.tokens,
    )
    return {"tree": {thought.id: thought}, "tokens": done.tokens}


def crashed(turn: Turn, error: NodeError) -> State:
    """An expert whose step failed leaves; the council goes on."""
    reason = f"crashed: {type(error.error).__name__}: {error.error}"[:300]
    return {"seats": {turn["expert"]: Seat(name=turn["expert"], status="crashed", reason=reason, at=turn["parent"])}}


def judge(state: State, runtime: Runtime[Context]) -> State:
    """Scores all new steps in one batch and moves the seats. Departures are decided here."""
    c = runtime.context
    number = state["round"] + 1
    new = [t for t in state["tree"].values() if t.round == number]
    prompt = c.task.prompt(state["question"], (), c.persona)
    prompts = [prompt] * len(new)
    texts = ["\n".join([*line(state["tree"], t.parent), t.text]) for t in new]
    score = c.score or (c.engine.score if _has(c, "reward") else None)
    scores: Sequence[float | None] = score(prompts, texts) if new and score else [None] * len(new)
    values: Sequence[float | None] = (
        c.engine.score(prompts, texts, role="value") if new and _has(c, "value") else [None] * len(new)
    )
    tree: Tree = {}
    seats: dict[str, Seat] = {}
    for thought, reward, value in zip(new, scores, values, strict=True):
        limit = c.config.leave_below
        critic = value if value is not None else reward
        if thought.status == "active" and limit is not None and critic is not None and critic < limit:
            reason = f"the critic gives this line {critic:+.2f}"
            thought = thought.model_copy(update={"status": "left", "reason": reason})
        thought = thought.model_copy(update={"score": reward, "value": value})
        tree[thought.id] = thought
        seats[thought.expert] = _moved(state["seats"][thought.expert], thought)
        about = {"expert": thought.expert, "round": number, "text": thought.text, "score": reward}
        runtime.stream_writer({"kind": "thought", **about})
        if thought.status in ("left", "pruned"):
            runtime.stream_writer({"kind": "left", **about, "reason": thought.reason})
    for seat in state["seats"].values():
        if seat.status == "crashed" and f"{seat.name}-{number}" not in state["tree"]:
            runtime.stream_writer({"kind": "left", "expert": seat.name, "round": number, "reason": seat.reason})
    return {"tree": tree, "seats": seats, "round": number}


def share(state: State, runtime: Runtime[Context]) -> State:
    """Puts this round's steps on the board; who has left may take up the best peer's line, once."""
    c = runtime.context
    if not c.config.share:
        return {"board": {}}
    fresh = [t for t in state["tree"].values() if t.round == state["round"] and t.status == "active"]
    board = {t.expert: t.text for t in fresh}
    if not c.config.rejoin or not fresh or state["round"] >= c.config.rounds:
        return {"board": board}
    best = max(fresh, key=lambda t: -math.inf if t.score is None else t.score)
    back = {
        seat.name: seat.model_copy(update={"status": "active", "at": best.id, "rejoined": True})
        for seat in state["seats"].values()
        if seat.status == "left" and not seat.rejoined
    }
    for name in back:
        runtime.stream_writer(
            {
                "kind": "share",
                "expert": name,
                "round": state["round"],
                "text": f"takes up {best.expert}'s line: {best.text}",
            }
        )
    return {"board": board, "seats": back}


def proceed(state: State, runtime: Runtime[Context]) -> list[Send] | Literal["conclude"]:
    """The next round, or the end: nobody left to think, or a budget is spent."""
    config = runtime.context.config
    spent = state["tokens"] >= config.max_total_tokens or state["round"] >= config.rounds
    late = config.seconds is not None and time.time() - state["started"] >= config.seconds
    return "conclude" if spent or late else turns(state) or "conclude"


def conclude(state: State, runtime: Runtime[Context]) -> State:
    """The reward-weighted vote among finished lines."""
    finals = [t for t in state["tree"].values() if t.status == "final"]
    if not finals:
        return {"answer": None, "notes": [f"no expert finished a line within {state['round']} rounds"]}
    lines = [line(state["tree"], t.id) for t in finals]
    winner = vote(lines, [math.exp(t.score or 0.0) for t in finals])
    answer = "\n".join(lines[winner])
    runtime.stream_writer(
        {"kind": "answer", "expert": finals[winner].expert, "text": answer, "score": finals[winner].score}
    )
    return {"answer": answer}


def build() -> StateGraph:
    builder = StateGraph(State, context_schema=Context)
    builder.add_node("summon", summon)
    builder.add_node("think", think, error_handler=crashed)
    for node in (judge, share, conclude):
        builder.add_node(node.__name__, node)
    builder.add_edge(START, "summon")
    builder.add_conditional_edges("summon", turns, ["think"])
    builder.add_edge("think", "judge")
    builder.add_edge("judge", "share")
    builder.add_conditional_edges("share", proceed, ["think", "conclude"])
    builder.add_edge("conclude", END)
    return builder


graph = build().compile(name="council")


def run_council(
    run: Path, question: str, overrides: Sequence[str], on_event: Callable[[Event], None], thread: str | None
) -> dict[str, Any]:
    """``junto run council``: sits the council of a run, keeps the result under ``trees/``, renews the report."""
    run_dir = RunDir(Path(run))
    recipe = load_recipe(run_dir.path / "config.yaml", overrides)
    task = load_task(recipe.task, run_dir.path)
    question = task.validate_question(question)
    with Engine.open(run_dir.path) as engine:
        absent = sorted({expert.role for expert in recipe.council.experts} - set(engine.roles))
        if absent:
            raise SetupError(
                f"the run {run_dir.path} has no {' and no '.join(absent)} (it has {', '.join(engine.roles)}); run its "
                "recipe without stop_after, or seat experts that it has: --set council.experts.0.role=sft"
            )
        context = Context(
            engine,
            task,
            recipe.council,
            thread or question,
            recipe.data.get("system", ""),
            scorer(recipe.reward, engine) if recipe.reward.function else None,
        )
        result = sit(context, question, on_event, run_dir.path / "threads.sqlite", thread)
    keep(run_dir, result)
    write_report(run_dir.path)
    return result


def keep(run: RunDir, result: dict[str, Any]) -> None:
    """Writes a sitting's result under ``trees/``; a later sitting on the same question takes its place."""
    slug = re.sub(r"[^a-z0-9]+", "-", result["question"].lower()).strip("-")[:60] or "question"
    folder = run.path / "trees"
    folder.mkdir(exist_ok=True)
    write_atomic(folder / f"{slug}.json", json.dumps(result, indent=1, ensure_ascii=False) + "\n")


def sit(
    context: Context, question: str, on_event: Callable[[Event], None], database: Path, thread: str | None
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
    solved = context.task.check(state["question"], answer or "")
    return {
        "question": state["question"],
        "answer": answer,
        "solved": solved,
        "rounds": state["round"],
        "experts": [{"name": s.name, "status": s.status, "reason": s.reason} for s in state["seats"].values()],
        "thoughts": [
            {
                "id": t.id,
                "parent": t.parent,
                "expert": t.expert,
                "round": t.round,
                "text": t.text,
                "score": t.score,
                "value": t.value,
                "status": t.status,
                "reason": t.reason,
            }
            for t in state["tree"].values()
        ],
        "tokens": state["tokens"],
        "seconds": round(seconds, 2),
        "notes": state["notes"],
    }


def _told(stream: Generator[str, None, Completion], tell: Callable[[str], None]) -> Completion:
    """Tells the pieces of a stream on this thread (LangGraph's writer works on no other); returns its completion."""
    while True:
        try:
            tell(next(stream))
        except StopIteration as end:
            return end.value


def _has(context: Context, role: str) -> bool:
    return role in context.engine.roles


def _moved(seat: Seat, thought: Thought) -> Seat:
    status = {"active": "active", "final": "finished", "left": "left", "pruned": "left"}[thought.status]
    return seat.model_copy(update={"status": status, "reason": thought.reason, "at": thought.id})
