"""What is known of threads and runs beside their checkpoints, in the same database, which processes of a machine may
share."""

from __future__ import annotations

import fcntl
import re
import uuid
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from graphs.database import Database, Execute
from graphs.server.refusals import Refusal

ACTIVE = ("pending", "running")
LOST = "the server ended before the run did; a run without an input goes on with it"

TABLES = """
CREATE TABLE IF NOT EXISTS threads (
    thread_id TEXT PRIMARY KEY, created_at TEXT NOT NULL, updated_at TEXT NOT NULL, metadata TEXT NOT NULL,
    status TEXT NOT NULL, "values" TEXT NOT NULL, interrupts TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS runs (
    run_id TEXT PRIMARY KEY, thread_id TEXT NOT NULL, assistant_id TEXT NOT NULL, created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL, status TEXT NOT NULL, metadata TEXT NOT NULL, kwargs TEXT NOT NULL,
    multitask_strategy TEXT NOT NULL, owner TEXT NOT NULL, error TEXT
);
CREATE INDEX IF NOT EXISTS runs_of_thread ON runs (thread_id, created_at);
"""
JSON_COLUMNS = ("metadata", "values", "interrupts", "kwargs")

Row = dict[str, Any]


def now() -> str:
    return datetime.now(UTC).isoformat()


class Records:
    """Threads and runs. Every process holds the lock of a file of its own beside the database, so that others can tell
    runs that go on from those whose process is gone."""

    def __init__(self, path: Path) -> None:
        self._database = Database(path)
        self._folder = path.parent
        self.owner = f".{path.name}.{uuid.uuid4().hex}"
        unlocked = self._folder / f"{self.owner}.new"  # others take a file that nobody locks for one of the gone
        self._own = unlocked.open("w")
        fcntl.flock(self._own, fcntl.LOCK_EX)
        unlocked.rename(self._folder / self.owner)
        self._database.create(*TABLES.split(";")[:-1])

    def close(self) -> None:
        self._database.close()
        (self._folder / self.owner).unlink(missing_ok=True)
        self._own.close()

    # -- threads ------------------------------------------------------------------------------------------

    def add_thread(self, thread_id: str, metadata: Mapping[str, Any], if_exists: str = "raise") -> Row:
        """Raises Refusal (409) where there is one already, unless ``if_exists`` is "do_nothing"."""
        with self._changing() as execute:
            if execute("SELECT 1 AS there FROM threads WHERE thread_id = ?", thread_id):
                if if_exists != "do_nothing":
                    raise Refusal(409, f'there is a thread {thread_id} already; give if_exists="do_nothing"')
            else:
                row = (thread_id, now(), now(), _dumped(metadata), "idle", "null", "{}")
                execute("INSERT INTO threads VALUES (?, ?, ?, ?, ?, ?, ?)", *row)
        return self.thread(thread_id)

    def thread(self, thread_id: str) -> Row:
        """Raises Refusal (404)."""
        return next(iter(self._threads([thread_id]))) if self.has_thread(thread_id) else _absent("thread", thread_id)

    def has_thread(self, thread_id: str) -> bool:
        return bool(self._all("SELECT 1 AS there FROM threads WHERE thread_id = ?", thread_id))

    def search(self, wanted: Mapping[str, Any]) -> list[str]:
        """Ids of the threads that have the wanted ``metadata``, ``values``, ``status`` and ``ids``, in the order that
        ``sort_by`` and ``sort_order`` say."""
        order = wanted.get("sort_by") or "created_at"
        if order == "state_updated_at":
            order = "updated_at"
        if order not in ("thread_id", "status", "created_at", "updated_at"):
            raise Refusal(422, "sort_by has to be thread_id, status, created_at or updated_at")
        found = []
        columns = 'thread_id, metadata, status, "values"' if wanted.get("values") else "thread_id, metadata, status"
        direction = "ASC" if str(wanted.get("sort_order")).lower() == "asc" else "DESC"
        rows = self._all(f"SELECT {columns} FROM threads ORDER BY {order} {direction}, thread_id {direction}")
        active = self._active()
        for row in rows:
            status = "busy" if row["thread_id"] in active else row["status"]
            if (
                _has(row["metadata"], wanted.get("metadata"))
                and _has(row.get("values"), wanted.get("values"))
                and wanted.get("status") in (None, status)
                and (not wanted.get("ids") or row["thread_id"] in wanted["ids"])
            ):
                found.append(row["thread_id"])
        return found

    def threads(self, ids: Sequence[str]) -> list[Row]:
        found = {row["thread_id"]: row for row in self._threads(ids)}
        return [found[thread_id] for thread_id in ids if thread_id in found]

    def change_thread(self, thread_id: str, **changes: Any) -> Row:
        """Sets columns; ``metadata`` is added to what is there. Raises Refusal (404)."""
        with self._changing() as execute:
            rows = execute("SELECT metadata FROM threads WHERE thread_id = ?", thread_id)
            if not rows:
                _absent("thread", thread_id)
            if "metadata" in changes:
                changes["metadata"] = orjson.loads(rows[0]["metadata"]) | changes["metadata"]
            changes["updated_at"] = now()
            names = ", ".join(f'"{name}" = ?' for name in changes)
            values = [_dumped(value) if name in JSON_COLUMNS else value for name, value in changes.items()]
            execute(f"UPDATE threads SET {names} WHERE thread_id = ?", *values, thread_id)
        return self.thread(thread_id)

    def remove_thread(self, thread_id: str) -> None:
        """Raises Refusal: 404, or 409 while a run goes on."""
        self.thread(thread_id)
        self.recover()
        with self._changing() as execute:
            _check_idle(execute, thread_id, "cancel it first")
            for table in ("threads", "runs", *self._database.tables):
                execute(f"DELETE FROM {table} WHERE thread_id = ?", thread_id)

    def copy_thread(self, thread_id: str, new_id: str) -> Row:
        """A thread with the same state and history; runs stay where they are."""
        self.thread(thread_id)
        with self._changing() as execute:
            for table in ("threads", *self._database.tables):
                self._database.copy(execute, table, thread_id, new_id)
        return self.change_thread(new_id, created_at=now())

    def _threads(self, ids: Sequence[str]) -> list[Row]:
        if not ids:  # Postgres knows no empty list
            return []
        marks = ", ".join("?" * len(ids))
        active = self._active()
        rows = self._all(f"SELECT * FROM threads WHERE thread_id IN ({marks})", *ids)
        return [row | {"status": "busy"} if row["thread_id"] in active else row for row in rows]

    def _active(self) -> set[str]:
        return {row["thread_id"] for row in self._all("SELECT thread_id FROM runs WHERE status IN (?, ?)", *ACTIVE)}

    # -- runs ---------------------------------------------------------------------------------------------

    def begin_run(
        self, thread_id: str, assistant_id: str, metadata: Mapping[str, Any], kwargs: Row, strategy: str
    ) -> Row:
        """A run that is about to begin. Raises Refusal (409) where another one goes on in the thread."""
        run_id = str(uuid.uuid4())
        self.recover()
        with self._changing() as execute:
            if not execute("SELECT thread_id FROM threads WHERE thread_id = ?", thread_id):
                _absent("thread", thread_id)
            _check_idle(execute, thread_id, "wait for it, or cancel it")
            row = (run_id, thread_id, assistant_id, now(), now(), "running", _dumped(metadata), _dumped(kwargs))
            execute("INSERT INTO runs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", *row, strategy, self.owner, None)
        return self.run(thread_id, run_id)

    def end_run(self, run_id: str, status: str, error: str | None = None) -> None:
        with self._changing() as execute:
            changed = "UPDATE runs SET status = ?, updated_at = ?, error = ? WHERE run_id = ?"
            execute(changed, status, now(), error, run_id)

    def run(self, thread_id: str, run_id: str) -> Row:
        """Raises Refusal (404)."""
        rows = self._all("SELECT * FROM runs WHERE thread_id = ? AND run_id = ?", thread_id, run_id)
        return rows[0] if rows else _absent("run", run_id)

    def runs(self, thread_id: str, status: str | None, limit: int, offset: int) -> list[Row]:
        """Those of a thread, the newest first."""
        self.thread(thread_id)
        return self._all(
            "SELECT * FROM runs WHERE thread_id = ? AND (CAST(? AS TEXT) IS NULL OR status = ?) "
            "ORDER BY created_at DESC, run_id DESC LIMIT ? OFFSET ?",
            *(thread_id, status, status, limit, offset),
        )

    def remove_run(self, thread_id: str, run_id: str) -> None:
        if self.run(thread_id, run_id)["status"] in ACTIVE:
            raise Refusal(409, f"the run {run_id} goes on; cancel it first")
        with self._changing() as execute:
            execute("DELETE FROM runs WHERE run_id = ?", run_id)

    def recover(self) -> list[str]:
        """Ends the runs of processes that are gone, as interrupted; returns their threads."""
        rows = self._all("SELECT run_id, thread_id, owner FROM runs WHERE status IN (?, ?)", *ACTIVE)
        gone = {owner for owner in {row["owner"] for row in rows} if self._is_gone(owner)}
        lost = [row for row in rows if row["owner"] in gone]
        for row in lost:
            self.end_run(row["run_id"], "interrupted", LOST)
        own = re.escape(self.owner[: -len(uuid.uuid4().hex)])
        for file in self._folder.glob(".*"):
            if re.fullmatch(f"{own}[0-9a-f]{{32}}", file.name) and self._is_gone(file.name):
                file.unlink(missing_ok=True)
        return [row["thread_id"] for row in lost]

    def _is_gone(self, owner: str) -> bool:
        if owner == self.owner:
            return False
        try:
            with (self._folder / owner).open() as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return True
        except BlockingIOError:
            return False
        return True

    def _changing(self) -> AbstractContextManager[Execute]:
        return self._database.exclusive("threads", "runs")

    def _all(self, sql: str, *values: Any) -> list[Row]:
        rows = self._database.rows(sql, *values)
        return [{k: orjson.loads(v) if k in JSON_COLUMNS else v for k, v in row.items()} for row in rows]


def _dumped(value: Any) -> str:
    return orjson.dumps(value).decode()


def _has(found: Any, wanted: Mapping[str, Any] | None) -> bool:
    return all(isinstance(found, dict) and found.get(key) == value for key, value in (wanted or {}).items())


def _check_idle(execute: Execute, thread_id: str, remedy: str) -> None:
    if execute("SELECT run_id FROM runs WHERE thread_id = ? AND status IN (?, ?)", thread_id, *ACTIVE):
        raise Refusal(409, f"a run goes on in the thread {thread_id}; {remedy}")


def _absent(kind: str, name: str) -> Any:
    raise Refusal(404, f"there is no {kind} {name[:80]!r}")
