"""The explain graph: score the masks of one or two responses, then explain the tables.

The two nodes are apart so that a checkpoint between them keeps the part that costs time. Up to twelve units the
second asks for nothing; above, where the table is a sample, it asks for the masks that the methods still want.
Drawing the result is left to whoever asked: explain.render.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

from explain.anchors import PRECISION
from explain.ask import Progress, Rewards, Scorer, question
from explain.pair import cut_pair, explain_tables, pair_tables
from explain.perturb import Infill, known_perturbation
from explain.result import to_json
from explain.sample import tabulate
from explain.table import RewardTable
from explain.text import explain_table, known_method, known_place
from explain.units import MAX_UNITS, Units, segment


class ExplainInput(TypedDict, total=False):
    """prompt and chosen are required; with `rejected` the pair is explained, without it the one response.

    units, method, perturbation, on, frozen: see explain.explain_text; "on" the prompt is for one response, and what is
    frozen is given as texts.
    """

    prompt: list[dict[str, str]]
    chosen: str
    rejected: str | None
    tau: float | None
    units: str
    method: str
    perturbation: str
    on: str
    frozen: list[str]


class ExplainState(ExplainInput, total=False):
    """tables: one RewardTable as JSON per response; explanation: the JSON of explain.result."""

    tables: list[dict[str, Any]]
    explanation: dict[str, Any]


@dataclass
class ExplainContext:
    """What is not state: the scorer, and how exactly to explain (see explain.explain_text)."""

    scorer: Scorer
    max_units: int = MAX_UNITS
    threshold: float = PRECISION
    beam: bool = True
    cache_dir: Path | None = None
    progress: Progress | None = None
    infill: Infill | None = None
    drill_down: bool = False
    randomised: Scorer | None = None
    seed: int = 0
    budget: int | None = None

    def rewards(self, state: ExplainState, units: Units) -> Rewards:
        """What gives the rewards of masks over these units."""
        return Rewards(
            self.scorer,
            state["prompt"],
            units,
            self.cache_dir,
            self.progress,
            perturbation=state.get("perturbation", "remove"),
            infill=self.infill,
            response=state["chosen"] if state.get("on") == "prompt" else None,
        )


def cut(state: ExplainState, max_units: int = MAX_UNITS) -> tuple[Units, ...]:
    """The units of each response, or of the prompt. Raises ValueError (one sentence) for what cannot be asked."""
    units, how = state.get("units", "auto"), state.get("perturbation", "remove")
    rejected, on, frozen = state.get("rejected"), state.get("on", "response"), state.get("frozen", [])
    known_method(state.get("method", "all"))
    known_perturbation(how)
    known_place(on, units, rejected is not None)
    if rejected is not None:
        return cut_pair(state["chosen"], rejected, units, max_units, how, frozen)
    return (segment(question(state["prompt"]) if on == "prompt" else state["chosen"], units, max_units, frozen),)


def score(state: ExplainState, runtime: Runtime[ExplainContext]) -> dict[str, Any]:
    """Fill one reward table per response."""
    context = runtime.context
    asks = [context.rewards(state, units) for units in cut(state, context.max_units)]
    if len(asks) == 2:
        tables = list(pair_tables(asks, context.seed, context.budget))
    else:
        tables = [tabulate(asks[0], context.seed, context.budget)]
    return {"tables": [table.to_json() for table in tables]}


def explain(state: ExplainState, runtime: Runtime[ExplainContext]) -> dict[str, Any]:
    """Explain the tables."""
    context = runtime.context
    tables = [RewardTable.from_json(table) for table in state["tables"]]
    tables = [replace(table, ask=context.rewards(state, table.units)) for table in tables]
    how: dict[str, Any] = {
        "threshold": context.threshold,
        "beam": context.beam,
        "method": state.get("method", "all"),
        "drill_down": context.drill_down,
        "randomised": context.randomised,
        "seed": context.seed,
        "budget": context.budget,
    }
    if len(tables) == 2:
        return {"explanation": to_json(explain_tables(tables[0], tables[1], **how))}
    return {"explanation": to_json(explain_table(tables[0], state.get("tau"), **how))}


def build() -> StateGraph[ExplainState, ExplainContext, ExplainInput, ExplainState]:
    """The graph before it is compiled, for a caller with a checkpointer."""
    builder = StateGraph(ExplainState, context_schema=ExplainContext, input_schema=ExplainInput)
    builder.add_node("score", score)
    builder.add_node("explain", explain)
    builder.add_edge(START, "score")
    builder.add_edge("score", "explain")
    builder.add_edge("explain", END)
    return builder


graph = build().compile()
