"""A graph's run as a thread in a SQLite file: a checkpoint after every step, and going on where it stopped."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import StateGraph
from langgraph.types import Command

from alignment.errors import UsageError
from graphs.asking import Waiting, of_shown


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
    # the checkpointer's connection is used from the graph's own threads, one at a time
    with closing(sqlite3.connect(database, check_same_thread=False)) as connection:
        graph = builder.compile(checkpointer=SqliteSaver(connection), name=name)
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


def copy_rows(
    cursor: sqlite3.Cursor, table: str, thread: str, to: str, checkpoints: Sequence[str] | None = None
) -> None:
    """Copies the rows of a thread in a table as those of ``to``, all or those of some checkpoints: rows and not
    objects, because the types of a graph that is not at hand could not be read."""
    columns = [f'"{row[1]}"' for row in cursor.execute(f"PRAGMA table_info({table})")]
    others = ", ".join(column for column in columns if column != '"thread_id"')
    chosen = "" if checkpoints is None else f" AND checkpoint_id IN ({', '.join('?' * len(checkpoints))})"
    cursor.execute(
        f"INSERT INTO {table} (thread_id, {others}) SELECT ?, {others} FROM {table} WHERE thread_id = ?{chosen}",
        (to, thread, *(checkpoints or ())),
    )


def _asked(state: Any) -> dict[str, Any]:
    return {one.id: one.value for one in state.interrupts}
