"""The threads in a SQLite file: which there are, how one came about, a copy of one, and what is no longer needed."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from langgraph.checkpoint.base import CheckpointTuple
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import StateGraph

from alignment.errors import UsageError
from graphs import chat, council, revise
from graphs.threads import copy_rows

TABLES = ("checkpoints", "writes")  # of LangGraph's saver
BUILDERS = {"chat": chat.build, "revise": revise.build, "council": council.build}


def kind_of(name: str, values: dict[str, Any]) -> str:
    """The graph of a thread: chat, revise, council, or the file of one's own. A council's question may have any name,
    and its state tells."""
    head, slash, _ = name.partition("/")
    return "council" if not slash or head == "chat-council" or "seats" in values else head


@contextmanager
def opened(database: Path) -> Iterator[SqliteSaver]:
    """Raises UsageError where there is no such file."""
    if not database.is_file():
        raise UsageError(f"there are no threads in {database}; a council, a revision or a chat makes one")
    with closing(sqlite3.connect(database, check_same_thread=False)) as connection:
        saver: Any = SqliteSaver(connection)
        for build in BUILDERS.values():  # each adds the types of its state to those that may be read
            saver = build().compile(checkpointer=saver).checkpointer
        yield saver


def names(saver: SqliteSaver) -> list[str]:
    """Those that there are, the one that was written last first."""
    with saver.cursor(transaction=False) as cursor:
        rows = cursor.execute(
            "SELECT thread_id FROM checkpoints WHERE checkpoint_ns = '' "
            "GROUP BY thread_id ORDER BY max(checkpoint_id) DESC"
        )
        return [row[0] for row in rows.fetchall()]


def found(saver: SqliteSaver, name: str) -> str:
    """The thread that is called, or begins, so. Raises UsageError where there is none, or more than one."""
    there = names(saver)
    alike = [one for one in there if one == name] or [one for one in there if one.startswith(name)]
    if len(alike) == 1:
        return alike[0]
    if alike:
        raise UsageError(f"{name!r} may be {' or '.join(map(repr, alike[:5]))}; write more of it")
    raise UsageError(f"there is no thread {name!r}; junto threads ls lists them")


def history(saver: SqliteSaver, name: str) -> list[CheckpointTuple]:
    """Its checkpoints, the oldest first."""
    return list(saver.list({"configurable": {"thread_id": name, "checkpoint_ns": ""}}))[::-1]


def state_of(saver: SqliteSaver, name: str) -> dict[str, Any]:
    """``{"thread", "graph", "state", "next", "asked", "values", "updated", "checkpoints",
    "settings"}``: ``state`` is done,
    unfinished or waiting (for what is ``asked``); a graph of one's own is only counted."""
    last = saver.get_tuple({"configurable": {"thread_id": name, "checkpoint_ns": ""}})
    assert last is not None  # its name was found
    kind = kind_of(name, last.checkpoint["channel_values"])
    about: dict[str, Any] = {"thread": name, "graph": kind, "checkpoint": last.checkpoint["id"]}
    with saver.cursor(transaction=False) as cursor:
        counted = "SELECT count(*) FROM checkpoints WHERE thread_id = ? AND checkpoint_ns = ''"
        about["checkpoints"] = cursor.execute(counted, (name,)).fetchone()[0]
    about["settings"] = last.metadata.get("settings", "")
    about |= {"updated": last.checkpoint["ts"], "values": last.checkpoint["channel_values"]}
    if kind not in BUILDERS:
        return about | {"state": "unknown", "next": [], "asked": {}}
    builder: StateGraph = BUILDERS[kind]()
    state = builder.compile(checkpointer=saver, name=kind).get_state({"configurable": {"thread_id": name}})
    asked = {one.id: one.value for one in state.interrupts}
    word = "waiting" if asked else "unfinished" if state.next or state.tasks else "done"
    return about | {"state": word, "next": list(state.next), "asked": asked, "values": state.values}


def fork(saver: SqliteSaver, name: str, to: str, at: str | None) -> int:
    """Copies a thread as ``to``, up to the checkpoint ``at`` (or its beginning) or whole; how many checkpoints that
    are. Raises UsageError where ``to`` is there already, or ``at`` is not."""
    if to in names(saver):
        raise UsageError(f"there is a thread {to!r} already; give another --to")
    if kind_of(to, {}) != kind_of(name, {}):
        raise UsageError(f"{to!r} would be a thread of another graph; a copy of {name!r} begins like that, up to its /")
    ids = [one.checkpoint["id"] for one in history(saver, name)]
    if at is not None:
        ends = [i for i, one in enumerate(ids) if one.startswith(at)]
        if len(ends) != 1:
            raise UsageError(f"{name!r} has {len(ends)} checkpoints {at!r}; junto threads show {name!r} lists them")
        ids = ids[: ends[0] + 1]
    with saver.cursor() as cursor:
        for table in TABLES:
            # what was written after the checkpoint at which it is to go on differently is no part of the copy
            copy_rows(cursor, table, name, to, ids[:-1] if at is not None and table == "writes" else ids)
    return len(ids)


def prune(saver: SqliteSaver, chosen: Sequence[str], days: float | None) -> dict[str, int]:
    """Of the threads that are done all but the last checkpoint goes; those of them, and of graphs of one's own, that
    nobody has touched for ``days`` go altogether. What is unfinished or waits is kept as it is. ``{"threads",
    "checkpoints"}`` that went."""
    went = {"threads": 0, "checkpoints": 0}
    oldest = None if days is None else datetime.now(UTC) - timedelta(days=days)
    for name in chosen:
        about = state_of(saver, name)
        if about["state"] in ("unfinished", "waiting"):
            continue
        if oldest is not None and datetime.fromisoformat(about["updated"]) < oldest:
            saver.delete_thread(name)
            if about["graph"] == "chat":
                with saver.cursor() as cursor:  # and its place in the list of sessions
                    cursor.execute("DELETE FROM chats WHERE session = ?", (name.partition("/")[2],))
            went["threads"] += 1
            went["checkpoints"] += about["checkpoints"]
        elif about["state"] == "done" and about["checkpoints"] > 1:
            last = (name, about["checkpoint"])
            with saver.cursor() as cursor:
                for table in TABLES:
                    cursor.execute(f"DELETE FROM {table} WHERE thread_id = ? AND checkpoint_id != ?", last)
            went["checkpoints"] += about["checkpoints"] - 1
    return went
