"""The ``revise`` graph: write -> judge -> write ... -> conclude.

An answer is scored by the reward model (the evaluator-optimizer pattern; Self-Refine, Madaan et al. 2023, arXiv
2303.17651, with trained judges in place of self-feedback). Above a threshold it is accepted; otherwise it is written
anew, by the side of what the judges say. Every turn is kept.
"""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from pydantic import BaseModel

from agents.config import ReviseConfig
from alignment.engine import Engine, Request
from alignment.errors import SetupError
from alignment.scoring import Scorer
from graphs.recipe import load_recipe, load_task
from graphs.results import keep
from graphs.rewards import scorer
from graphs.threads import run_thread
from graphs.writing import told

Event = dict[str, Any]


class Turn(BaseModel):
    """One answer. ``score`` is the reward model's, ``value`` the critic's; ``remark`` goes into the next prompt."""

    text: str
    score: float
    value: float | None = None
    remark: str = ""
    accepted: bool = False


class State(TypedDict, total=False):
    question: str
    draft: str  # not judged yet
    turns: Annotated[list[Turn], operator.add]
    tokens: Annotated[int, operator.add]
    started: float
    answer: str | None
    notes: list[str]


@dataclass
class Context:
    engine: Engine
    task: ModuleType
    config: ReviseConfig
    thread: str = "revise"
    persona: str = ""
    score: Scorer | None = None  # None: the engine's reward model

    def prompt(self, question: str) -> list[dict[str, str]]:
        return self.task.prompt(question, (), self.persona)


def write(state: State, runtime: Runtime[Context]) -> State:
    """The first answer; after that, one that has the answer before it and its remark in view."""
    c = runtime.context
    prompt = c.prompt(state["question"])
    if state["turns"]:
        last = state["turns"][-1]
        prompt = [*prompt, {"role": "assistant", "content": last.text}, {"role": "user", "content": last.remark}]
    number = len(state["turns"]) + 1
    request = Request(
        prompt,
        role=c.config.role,
        max_tokens=c.config.max_tokens,
        temperature=c.config.temperature,
        seed=f"{c.config.seed}/{c.thread}/{number}",
    )
    tell = runtime.stream_writer
    about = {"kind": "token", "expert": f"turn {number}"}
    [done] = told(c.engine.streams([request]), lambda _, text: tell({**about, "text": text}))
    return {"draft": done.text.strip(), "tokens": done.tokens}


def judge(state: State, runtime: Runtime[Context]) -> State:
    """Scores the answer, and its steps one after the other, by the critic where there is one."""
    c = runtime.context
    prompt, text = c.prompt(state["question"]), state["draft"]
    reward = c.score or c.engine.score
    [score] = reward([prompt], [text])
    steps = [line for line in text.split("\n") if line.strip()]
    lines = ["\n".join(steps[: i + 1]) for i in range(len(steps))]
    has_critic = "value" in c.engine.roles
    prompts = [prompt] * len(lines)
    values = c.engine.score(prompts, lines, role="value") if has_critic else reward(prompts, lines)
    accepted = score > c.config.accept_above
    turn = Turn(
        text=text,
        score=score,
        value=values[-1] if has_critic and values else None,
        remark="" if accepted else remark(score, c.config.accept_above, steps, values),
        accepted=accepted,
    )
    about = {"expert": f"turn {len(state['turns']) + 1}", "text": text, "score": score}
    runtime.stream_writer({"kind": "thought", **about})
    if not accepted:
        runtime.stream_writer({"kind": "note", "text": turn.remark})
    return {"turns": [turn]}


def remark(score: float, threshold: float, steps: Sequence[str], values: Sequence[float]) -> str:
    """What the judges say of an answer that is not accepted: its score, and the step after which ``values``, one per
    step, fall most."""
    said = f"The judge gives this answer {score:+.2f}; it must be above {threshold:+.2f}."
    falls = [after - before for before, after in pairwise(values)]
    if falls and min(falls) < 0:
        at = falls.index(min(falls)) + 1
        said += f" After step {at + 1} the judge falls from {values[at - 1]:+.2f} to {values[at]:+.2f}: {steps[at]}"
    return f"{said}\nWrite a better answer."


def proceed(state: State, runtime: Runtime[Context]) -> Literal["write", "conclude"]:
    over = bool(state["turns"]) and state["turns"][-1].accepted
    return "conclude" if over or spent(state, runtime.context.config) else "write"


def spent(state: State, config: ReviseConfig) -> str:
    """Which budget is used up; empty while there is something left of each."""
    if len(state["turns"]) >= config.turns:
        return f"{config.turns} of {config.turns} turns are taken"
    if state["tokens"] >= config.max_total_tokens:
        return f"{state['tokens']} of {config.max_total_tokens} tokens are used"
    if config.seconds is not None and time.time() - state["started"] >= config.seconds:
        return f"{config.seconds:g} seconds are over"
    return ""


def conclude(state: State, runtime: Runtime[Context]) -> State:
    """The accepted answer; where there is none, the one that scored best, and a note that says so."""
    config, turns = runtime.context.config, state["turns"]
    if not turns:
        return {"answer": None, "notes": [f"no answer was written: {spent(state, config)}"]}
    if turns[-1].accepted:
        return {"answer": turns[-1].text, "notes": []}
    best = max(range(len(turns)), key=lambda i: turns[i].score)
    note = (
        f"no answer scored above {config.accept_above:+.2f}, and {spent(state, config)}; "
        f"the answer is that of turn {best + 1}, which scored best"
    )
    return {"answer": turns[best].text, "notes": [note]}


def build() -> StateGraph:
    builder = StateGraph(State, context_schema=Context)
    for node in (write, judge, conclude):
        builder.add_node(node.__name__, node)
    builder.add_conditional_edges(START, proceed, ["write", "conclude"])
    builder.add_edge("write", "judge")
    builder.add_conditional_edges("judge", proceed, ["write", "conclude"])
    builder.add_edge("conclude", END)
    return builder


graph = build().compile(name="revise")


def run_revise(
    run: Path, question: str, overrides: Sequence[str], on_event: Callable[[Event], None], thread: str | None
) -> dict[str, Any]:
    """``junto run revise``: answers and revises with the models of a run; keeps the result under ``revisions/``."""
    recipe = load_recipe(run / "config.yaml", overrides)
    task = load_task(recipe.task, run)
    question = task.validate_question(question)
    config = recipe.revise
    with Engine.open(run) as engine:
        if config.role not in engine.roles:
            raise SetupError(
                f"the run {run} has no {config.role} (it has {', '.join(engine.roles)}); run its recipe without "
                "stop_after, or let another one write: --set revise.role=sft"
            )
        if recipe.reward.function is None and "reward" not in engine.roles:
            raise SetupError(
                f"the run {run} has nothing that scores an answer (it has {', '.join(engine.roles)}); train its reward "
                "model, or name a function: --set reward.function=my_rewards.py:length"
            )
        score = scorer(recipe.reward, engine) if recipe.reward.function else None
        context = Context(engine, task, config, thread or question, recipe.data.get("system", ""), score)
        result = sit(context, question, on_event, run / "threads.sqlite", thread)
    keep(run, "revisions", result)
    return result


def sit(
    context: Context, question: str, on_event: Callable[[Event], None], database: Path, thread: str | None
) -> dict[str, Any]:
    """Runs the graph as a thread of ``database``; without a name, as a new one."""
    began = time.monotonic()
    name = f"revise/{thread or f'{context.thread}-{time.time_ns()}'}"
    start = {"question": question, "turns": [], "tokens": 0, "started": time.time()}
    state = run_thread(build(), "revise", database, name, start, context, on_event)
    turns: list[Turn] = state["turns"]
    return {
        "question": question,
        "answer": state["answer"],
        "accepted": any(turn.accepted for turn in turns),
        # the checker has no part in the revision
        "solved": context.task.check(question, state["answer"] or ""),
        "turns": [turn.model_dump() for turn in turns],
        "tokens": state["tokens"],
        "seconds": round(time.monotonic() - began, 2),
        "notes": state["notes"],
    }
