"""A graph's run as a thread in a database: a checkpoint after every step, and going on where it stopped."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from langgraph.graph import StateGraph
from langgraph.types import Command

from alignment.errors import UsageError
from graphs.asking import Waiting, of_shown
from graphs.database import Database


def run_thread(
    builder: StateGraph,
    name: str,
    database: Path,
    thread: str,
    start: dict[str, Any],
    context: Any,
    on_event: Callable[[dict[str, Any]], None],
    max_concurrency: int | None = None,
    decisions: dict[str, Any] | None = None,
    settings: str = "",
) -> dict[str, Any]:
    """The state in which the graph ends.

    A thread that was interrupted goes on, one that is finished is not run again; ``start`` has the ``question``. One
    that waits for a person goes on with ``decisions``, answers by the ids of what it asked. Raises Waiting where it
    waits then, UsageError where the thread is about another question. Threads of all graphs may lie in one file if
    their names differ. ``settings`` are kept beside each checkpoint.
    """
    config: Any = {"configurable": {"thread_id": thread}, "max_concurrency": max_concurrency}
    config["metadata"] = {"settings": settings}  # LangGraph keeps texts and numbers
    with closing(Database(database)) as opened:
        graph = builder.compile(checkpointer=opened.saver, name=name)
        kept = graph.get_state(config)
        about = kept.values.get("question", start["question"])
        if about != start["question"]:
            raise UsageError(f"the thread {thread!r} is about {about!r}; give another --thread")
        # a node that ended just before an interrupt is no longer in `next`, but its task is still to be applied
        waiting = bool(kept.next or kept.tasks)
        if (asked := _asked(kept)) and not decisions:
            raise Waiting(thread, asked)
        if waiting or not kept.values:
            begin: Any = Command(resume=of_shown(decisions or {}, asked)) if asked else None if waiting else start
            for event in graph.stream(begin, config, context=context, stream_mode="custom", durability="sync"):
                on_event(event)
        state = graph.get_state(config)
        if asked := _asked(state):
            raise Waiting(thread, asked)
        return state.values


def _asked(state: Any) -> dict[str, Any]:
    return {one.id: one.value for one in state.interrupts}
