"""The threads in a database: which there are, how one came about, a copy of one, and what is no longer needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from langgraph.checkpoint.base import CheckpointTuple
from langgraph.graph import StateGraph

from alignment.errors import UsageError
from graphs import chat, council, revise
from graphs.database import Database, address

BUILDERS = {"chat": chat.build, "revise": revise.build, "council": council.build}


def kind_of(name: str, values: dict[str, Any]) -> str:
    """The graph of a thread: chat, revise, council, or the file of one's own. A council's question may have any name,
    and its state tells."""
    head, slash, _ = name.partition("/")
    return "council" if not slash or head == "chat-council" or "seats" in values else head


@contextmanager
def opened(path: Path) -> Iterator[Database]:
    """Raises UsageError where there is no such file."""
    if not path.is_file() and not address():
        raise UsageError(f"there are no threads in {path}; a council, a revision or a chat makes one")
    with closing(Database(path)) as database:
        for build in BUILDERS.values():  # each adds the types of its state to those that may be read
            database.saver = build().compile(checkpointer=database.saver).checkpointer
        yield database


def names(database: Database) -> list[str]:
    """Those that there are, the one that was written last first."""
    rows = database.rows(
        "SELECT thread_id FROM checkpoints WHERE checkpoint_ns = '' GROUP BY thread_id ORDER BY max(checkpoint_id) DESC"
    )
    return [row["thread_id"] for row in rows]


def found(database: Database, name: str) -> str:
    """The thread that is called, or begins, so. Raises UsageError where there is none, or more than one."""
    there = names(database)
    alike = [one for one in there if one == name] or [one for one in there if one.startswith(name)]
    if len(alike) == 1:
        return alike[0]
    if alike:
        raise UsageError(f"{name!r} may be {' or '.join(map(repr, alike[:5]))}; write more of it")
    raise UsageError(f"there is no thread {name!r}; junto threads ls lists them")


def history(database: Database, name: str) -> list[CheckpointTuple]:
    """Its checkpoints, the oldest first."""
    return list(database.saver.list({"configurable": {"thread_id": name, "checkpoint_ns": ""}}))[::-1]


def state_of(database: Database, name: str) -> dict[str, Any]:
    """``{"thread", "graph", "state", "next", "asked", "values", "updated", "checkpoints",
    "settings"}``: ``state`` is done,
    unfinished or waiting (for what is ``asked``); a graph of one's own is only counted."""
    last = database.saver.get_tuple({"configurable": {"thread_id": name, "checkpoint_ns": ""}})
    assert last is not None  # its name was found
    kind = kind_of(name, last.checkpoint["channel_values"])
    about: dict[str, Any] = {"thread": name, "graph": kind, "checkpoint": last.checkpoint["id"]}
    counted = "SELECT count(*) AS n FROM checkpoints WHERE thread_id = ? AND checkpoint_ns = ''"
    about["checkpoints"] = database.rows(counted, name)[0]["n"]
    about["settings"] = last.metadata.get("settings", "")
    about |= {"updated": last.checkpoint["ts"], "values": last.checkpoint["channel_values"]}
    if kind not in BUILDERS:
        return about | {"state": "unknown", "next": [], "asked": {}}
    builder: StateGraph = BUILDERS[kind]()
    state = builder.compile(checkpointer=database.saver, name=kind).get_state({"configurable": {"thread_id": name}})
    asked = {one.id: one.value for one in state.interrupts}
    word = "waiting" if asked else "unfinished" if state.next or state.tasks else "done"
    return about | {"state": word, "next": list(state.next), "asked": asked, "values": state.values}


def fork(database: Database, name: str, to: str, at: str | None) -> int:
    """Copies a thread as ``to``, up to the checkpoint ``at`` (or its beginning) or whole; how many checkpoints that
    are. Raises UsageError where ``to`` is there already, or ``at`` is not."""
    if to in names(database):
        raise UsageError(f"there is a thread {to!r} already; give another --to")
    if kind_of(to, {}) != kind_of(name, {}):
        raise UsageError(f"{to!r} would be a thread of another graph; a copy of {name!r} begins like that, up to its /")
    ids = [one.checkpoint["id"] for one in history(database, name)]
    if at is not None:
        ends = [i for i, one in enumerate(ids) if one.startswith(at)]
        if len(ends) != 1:
            raise UsageError(f"{name!r} has {len(ends)} checkpoints {at!r}; junto threads show {name!r} lists them")
        ids = ids[: ends[0] + 1]
    with database.exclusive(*database.tables) as execute:
        for table in database.tables:
            # what was written after the checkpoint at which it is to go on differently is no part of the copy
            database.copy(execute, table, name, to, ids[:-1] if at is not None and "writes" in table else ids)
    return len(ids)


def prune(database: Database, chosen: Sequence[str], days: float | None) -> dict[str, int]:
    """Of the threads that are done all but the last checkpoint goes; those of them, and of graphs of one's own, that
    nobody has touched for ``days`` go altogether. What is unfinished or waits is kept as it is. ``{"threads",
    "checkpoints"}`` that went."""
    went = {"threads": 0, "checkpoints": 0}
    oldest = None if days is None else datetime.now(UTC) - timedelta(days=days)
    for name in chosen:
        about = state_of(database, name)
        if about["state"] in ("unfinished", "waiting"):
            continue
        if oldest is not None and datetime.fromisoformat(about["updated"]) < oldest:
            database.saver.delete_thread(name)
            if about["graph"] == "chat":  # and its place in the list of sessions
                with database.exclusive("chats") as execute:
                    execute("DELETE FROM chats WHERE session = ?", name.partition("/")[2])
            went["threads"] += 1
            went["checkpoints"] += about["checkpoints"]
        elif about["state"] == "done" and about["checkpoints"] > 1:
            last = (name, about["checkpoint"])
            if database.is_postgres:  # which keeps values apart from checkpoints
                database.saver.prune([name])
            else:
                with database.exclusive() as execute:
                    for table in database.tables:
                        execute(f"DELETE FROM {table} WHERE thread_id = ? AND checkpoint_id != ?", *last)
            went["checkpoints"] += about["checkpoints"] - 1
    return went
