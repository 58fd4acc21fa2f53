"""Who continues what next, within the budgets: the state of a council and what follows from it alone."""

from __future__ import annotations

import math
import operator
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict

from langgraph.runtime import Runtime
from langgraph.types import Send
from pydantic import BaseModel

from agents import search
from agents.config import CouncilConfig, ExpertConfig
from agents.scorers import Score
from agents.thought import Tree, line, merge
from alignment.engine import Engine

if TYPE_CHECKING:  # half a second each
    from smolagents import Tool

    from agents.endpoint import Endpoint


class Seat(BaseModel):
    """Where an expert stands: ``at`` is the thought that it continues from (``sample``)."""

    name: str
    status: Literal["active", "left", "finished", "crashed"] = "active"
    reason: str = ""
    at: str | None = None
    rejoined: bool = False


class Part(TypedDict):
    """So many proposals for the step after ``steps``; ``said`` are those that were made there before."""

    parent: str | None
    steps: list[str]
    said: list[str]
    count: int


class Turn(TypedDict):
    """What one expert is sent: no more than it needs, because every payload is checkpointed. ``spare``: proposals that
    it may write beside, in place of some that repeat what was said. ``tokens`` is what each of its proposals may cost,
    ``until`` (seconds since the epoch) when the council's time is over."""

    expert: str
    question: str
    parts: list[Part]
    board: list[str]
    round: int
    spare: int
    tokens: int
    until: float


class State(TypedDict, total=False):
    question: str
    tree: Annotated[Tree, merge]
    seats: Annotated[dict[str, Seat], merge]
    round: int
    tokens: Annotated[int, operator.add]
    proposals: Annotated[int, operator.add]
    board: dict[str, str]  # expert -> the step that it shared last
    plan: list[list[Any]]  # places that are continued next, each with its number of proposals (not for sample)
    started: float
    answer: str | None
    notes: Annotated[list[str], operator.add]


@dataclass
class Context:
    engine: Engine | Endpoint
    task: ModuleType
    config: CouncilConfig
    thread: str = "council"
    persona: str = ""  # of experts that have none of their own
    score: Score | None = None  # what lines are worth
    leave_score: Score | None = None  # what decides, with leave_below, who leaves
    leave_below: float | None = None
    notes: Sequence[str] = ()
    tools: Mapping[str, Sequence[Tool]] = field(default_factory=dict)  # by expert
    settings: str = ""  # the council's of its recipe, as JSON: kept with the thread
    stopped: threading.Event = field(default_factory=threading.Event)  # set: it concludes after this round

    def expert(self, name: str) -> ExpertConfig:
        return next(e for e in self.config.experts if e.name == name)


def workers(context: Context) -> int:
    """Threads that LangGraph needs for a sitting: it waits for events on one, each expert writes on one, and waits
    there for a permitted call of a tool, which is on another."""
    return 2 * len(context.config.experts) + 1


def turns(state: State, runtime: Runtime[Context]) -> list[Send] | Literal["conclude"]:
    """One ``Send`` per expert that has something to write; the end where nobody has, or a budget is spent."""
    config = runtime.context.config
    left = math.inf if config.max_proposals is None else config.max_proposals - state.get("proposals", 0)
    until = math.inf if config.seconds is None else state["started"] + config.seconds
    late = time.time() >= until
    finals = sum(t.status == "final" for t in state["tree"].values())
    enough = config.answers is not None and finals >= config.answers
    spent = state["tokens"] >= config.max_total_tokens or state["round"] >= config.rounds
    if late or enough or spent or left <= 0 or runtime.context.stopped.is_set():
        return "conclude"
    parts = _parts(state, config, left)
    planned = sum(part["count"] for own in parts.values() for part in own)
    tokens = (config.max_total_tokens - state["tokens"]) // max(planned, 1)
    spare = 2**31 if left == math.inf else int(left - planned) // max(len(parts), 1)
    sends = []
    for name, own in parts.items():
        peers = [text for peer, text in state["board"].items() if peer != name]
        turn = Turn(
            expert=name,
            question=state["question"],
            parts=own,
            board=peers,
            round=state["round"] + 1,
            spare=spare if config.distinct and config.search != "sample" else 0,
            tokens=max(tokens, 1),
            until=until,
        )
        sends.append(Send("think", turn))
    return sends or "conclude"


def _parts(state: State, config: CouncilConfig, left: float) -> dict[str, list[Part]]:
    """Who continues what. In a common tree the places go round among the active experts, one expert to a place, who
    does not repeat itself; the question, for which there are most proposals, is for all of them."""
    tree = state["tree"]
    active = [seat for seat in state["seats"].values() if seat.status == "active"]

    def part(place: str | None, count: int) -> Part:
        said = [t.text for t in tree.values() if t.parent == place] if config.search != "sample" else []
        return Part(parent=place, steps=line(tree, place), said=said, count=count)

    if config.search == "sample":
        return {seat.name: [part(seat.at, 1)] for seat in active[: int(min(left, len(active)))]}
    found: dict[str, list[Part]] = {}
    turn = state["round"]
    coming = search.within(search.Plan([(place, count) for place, count in state["plan"]]), left)
    for place, count in coming.expand if active else []:
        writers = active if place is None else [active[turn % len(active)]]
        turn += 1
        for i, seat in enumerate(writers):
            if share := count // len(writers) + (i < count % len(writers)):
                found.setdefault(seat.name, []).append(part(place, share))
    return found


def plan(tree: Tree, config: CouncilConfig) -> search.Plan:
    if config.search == "sample":  # every expert has a seat, which says where it goes on
        return search.Plan()
    depth = config.depth or config.rounds
    settings = search.Settings(config.width, config.proposals, depth, config.exploration)
    return search.STRATEGIES[config.search](tree, settings)


def why_it_ended(state: State, context: Context) -> str:
    config = context.config
    if state["seats"] and all(seat.status == "crashed" for seat in state["seats"].values()):
        return "every expert crashed"
    if state["tokens"] >= config.max_total_tokens:
        return f"the budget of {config.max_total_tokens} tokens was spent after {state['round']} rounds"
    if config.max_proposals is not None and state.get("proposals", 0) >= config.max_proposals:
        return f"the budget of {config.max_proposals} proposals was spent after {state['round']} rounds"
    if config.seconds is not None and time.time() - state["started"] >= config.seconds:
        return f"the budget of {config.seconds:g} s was spent after {state['round']} rounds"
    if state["round"] >= config.rounds:
        return f"{state['round']} rounds are over"
    if context.stopped.is_set():
        return f"it was stopped after {state['round']} rounds"
    if all(seat.status in ("left", "crashed") for seat in state["seats"].values()):
        return f"every expert has left by round {state['round']}"
    return f"nobody had anything to go on with after {state['round']} rounds"
