"""The explain graph: score every mask of one or two responses, then explain the tables.

The two nodes are apart so that a checkpoint between them keeps the only part that costs time. Drawing the
result is left to whoever asked: explain.render.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

from explain.anchors import PRECISION
from explain.ask import Progress, Scorer
from explain.pair import explain_tables
from explain.result import to_json
from explain.table import RewardTable, fill
from explain.text import explain_table
from explain.units import MAX_UNITS, segment


class ExplainInput(TypedDict, total=False):
    """prompt and chosen are required; with `rejected` the pair is explained, without it the one response."""

    prompt: list[dict[str, str]]
    chosen: str
    rejected: str | None
    tau: float | None
    units: str


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


def score(state: ExplainState, runtime: Runtime[ExplainContext]) -> dict[str, Any]:
    """Fill one reward table per response."""
    context = runtime.context
    rejected = state.get("rejected")
    texts = [state["chosen"]] if rejected is None else [state["chosen"], rejected]
    cut = [segment(text, state.get("units", "auto"), context.max_units) for text in texts]
    tables = [fill(context.scorer, state["prompt"], units, context.cache_dir, context.progress) for units in cut]
    return {"tables": [table.to_json() for table in tables]}


def explain(state: ExplainState, runtime: Runtime[ExplainContext]) -> dict[str, Any]:
    """Explain the tables; asks no model."""
    tables = [RewardTable.from_json(table) for table in state["tables"]]
    threshold, beam = runtime.context.threshold, runtime.context.beam
    if len(tables) == 2:
        return {"explanation": to_json(explain_tables(tables[0], tables[1], threshold=threshold, beam=beam))}
    return {"explanation": to_json(explain_table(tables[0], state.get("tau"), threshold=threshold, beam=beam))}


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
