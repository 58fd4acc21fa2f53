"""The ``evaluate`` graph: generate -> score -> aggregate -> decide, of one subject on one set of questions.

What was made of an item is on disk before the next ones are asked, under a folder whose name holds a hash of the
subject's weights and settings and of the evaluation: the same command again makes what is missing, and another model
never finds the samples of this one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

from alignment.errors import JuntoError
from alignment.run_dir import Report, RunDir, to_jsonl, write_atomic
from graphs.evaluation.answers import TOGETHER
from graphs.evaluation.config import Evaluation
from graphs.evaluation.measures import Check, aggregated, scored
from graphs.evaluation.require import Requirement, met
from graphs.tasks import Row

# evaluation, seed, batches of items, whether a failure becomes a row -> rows of each batch, in order
Answer = Callable[[Evaluation, int, list[list[Row]], bool], Iterator[list[Row]]]
Judge = Callable[[Sequence[Any], Sequence[str]], list[float]]  # prompts and responses -> rewards


class State(TypedDict, total=False):
    samples: list[Row]
    scores: list[Row]
    results: dict[str, Any]


@dataclass(frozen=True)
class Limits:
    """Where an evaluation ends early, between two batches, and how many items may fail."""

    seconds: float | None = None
    tokens: int | None = None
    errors: int = 0


@dataclass
class Context:
    """What the nodes work with; nothing of it is kept in the state. ``answer`` is the subject, here or in other
    processes; ``items`` are all of the evaluation, ``asked`` the ids of those that are to be answered; ``judge`` scores
    texts where the reward is measured; ``described`` is what ``evaluation.json`` says beside the results. ``together``:
    items of a batch, where their number decides nothing of what is made of each; None where it does, and then a batch
    is asked whole."""

    answer: Answer
    evaluation: Evaluation
    items: list[Row]
    asked: set[str]
    seed: int
    folder: RunDir
    report: Report
    check: Check | None = None
    judge: Judge | None = None
    limits: Limits = Limits()
    require: list[Requirement] = field(default_factory=list)
    described: dict[str, Any] = field(default_factory=dict)
    together: int | None = None


def generate(state: State, runtime: Runtime[Context]) -> State:
    """What the subject makes of every item, some items at a time; what is on disk is not made again."""
    c = runtime.context
    evaluation, per_item = c.evaluation, c.evaluation.samples if c.evaluation.kind == "generate" else 1
    kept: dict[str, list[Row]] = {}
    for row in c.folder.samples():
        kept.setdefault(row["id"], []).append(row)
    whole = {name: rows for name, rows in kept.items() if _sound(rows, per_item)}
    if kept:  # a line that a kill has torn would hide those behind it
        write_atomic(c.folder.path / "samples.jsonl", to_jsonl(row for rows in kept.values() for row in rows))
    found: list[Row] = []
    asked = [item for item in c.items if item["id"] in c.asked]
    size = c.together or TOGETHER[evaluation.kind]
    # an item's batch is that of its place among all items, whichever of them are asked
    batches = [[item for item in c.items[i : i + size] if item["id"] in c.asked] for i in range(0, len(c.items), size)]
    batches = [batch for batch in batches if batch]
    is_missing = [any(item["id"] not in whole for item in batch) for batch in batches]
    missing = [_to_ask(c, batch, whole, kept) for batch, absent in zip(batches, is_missing, strict=True) if absent]
    made = c.answer(c.evaluation, c.seed, missing, c.limits.errors > 0)
    began, tokens, done, errors = time.monotonic(), 0, 0, 0
    for step, (batch, absent) in enumerate(zip(batches, is_missing, strict=True), 1):
        if absent:
            if _spent(c.limits, time.monotonic() - began, tokens):
                break
            rows = next(made)
            _keep(c.folder, rows, kept)
            errors += _refuse_errors(c, rows, errors)
            tokens, done = tokens + sum(row.get("tokens", 0) for row in rows), done + 1
        found += [row for item in batch for row in kept[item["id"]]]
        spent = time.monotonic() - began
        c.report(
            {
                "stage": evaluation.name,
                "step": len({row["id"] for row in found}),
                "total": len(asked),
                "metrics": {},
                "tokens_per_second": tokens / spent if tokens else None,
                "eta_seconds": spent / done * (len(missing) - done) if done else None,
                "done": step == len(batches),
            }
        )
    return {"samples": found}


def _to_ask(c: Context, batch: list[Row], whole: dict[str, list[Row]], kept: dict[str, list[Row]]) -> list[Row]:
    """The items of a batch that are asked: all of them where the batch's shape decides how sums are rounded, but for
    one in which an item has failed, whose others were asked alone; else those that are missing."""
    failed = any("error" in row for item in batch for row in kept.get(item["id"], []))
    if c.together is None and not failed:
        return batch
    return [item for item in batch if item["id"] not in whole]


def _sound(rows: list[Row], per_item: int) -> bool:
    return len(rows) == per_item and not any("error" in row for row in rows)


def _spent(limits: Limits, seconds: float, tokens: int) -> bool:
    return (limits.seconds is not None and seconds >= limits.seconds) or (
        limits.tokens is not None and tokens >= limits.tokens
    )


def _refuse_errors(c: Context, rows: list[Row], before: int) -> int:
    """How many of the rows are errors. Raises JuntoError where there are more than the command allows."""
    errors = [row["error"] for row in rows if "error" in row]
    if errors and before + len(errors) > c.limits.errors:
        raise JuntoError(
            f"{before + len(errors)} of {c.evaluation.name}'s samples failed, more than --max-errors "
            f"{c.limits.errors}; the first: {errors[0]}"
        )
    return len(errors)


def _keep(folder: RunDir, rows: list[Row], kept: dict[str, list[Row]]) -> None:
    """Writes the rows down, in place of earlier ones of the same items, which were incomplete."""
    names = {row["id"] for row in rows}
    if names & kept.keys():
        for name in names:
            kept.pop(name, None)
        write_atomic(folder.path / "samples.jsonl", to_jsonl(row for own in kept.values() for row in own))
    folder.append("samples.jsonl", rows)
    for row in rows:
        kept.setdefault(row["id"], []).append(row)


def score(state: State, runtime: Runtime[Context]) -> State:
    """The metrics of every sample; rewards first, where they are measured."""
    c = runtime.context
    items, samples = {item["id"]: item for item in c.items}, state["samples"]
    if c.judge is not None:
        sound = [row for row in samples if "error" not in row]
        prompts = [items[row["id"]]["prompt"] for row in sound]
        for row, reward in zip(sound, c.judge(prompts, [row["text"] for row in sound]) if sound else [], strict=True):
            row["reward"] = reward
    scores = [
        {"id": row["id"], "sample": row["sample"]} | scored(c.evaluation, items[row["id"]], row, c.check)
        for row in samples
    ]
    write_atomic(c.folder.path / "scores.jsonl", to_jsonl(scores))
    return {"samples": samples, "scores": scores}


def aggregate(state: State, runtime: Runtime[Context]) -> State:
    """Figures with intervals."""
    c = runtime.context
    results = aggregated(c.evaluation, c.items, state["samples"], state["scores"])
    return {"results": results | {"asked": len(c.asked), "complete": results["n"] == len(c.asked)}}


def decide(state: State, runtime: Runtime[Context]) -> State:
    """Whether the figures are as required; writes the results."""
    c = runtime.context
    results = state["results"]
    required = [one for one in c.require if one.metric in results["metrics"]]
    if required:
        results |= {"requirements": [met(one, results["metrics"]) for one in required]}
    # together, so that figures never stand beside another judge's name
    for name, body in (("evaluation", c.described), ("results", results)):
        write_atomic(c.folder.path / f"{name}.json", json.dumps(body, indent=1) + "\n")
    return {"results": results}


def build() -> StateGraph:
    builder = StateGraph(State, context_schema=Context)
    nodes = (generate, score, aggregate, decide)
    for node in nodes:
        builder.add_node(node.__name__, node)
    names = [START, *(node.__name__ for node in nodes), END]
    for before, after in zip(names, names[1:], strict=False):
        builder.add_edge(before, after)
    return builder


graph = build().compile(name="evaluate")
