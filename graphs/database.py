"""Where threads are kept: in a SQLite file, or, where JUNTO_DATABASE is the address of a Postgres server, there, in a
schema called after the file. LangGraph's savers make and migrate their tables themselves."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from langgraph.checkpoint.sqlite import SqliteSaver

from alignment.errors import SetupError, UsageError

ADDRESS = "JUNTO_DATABASE"
BUSY_SECONDS = 30.0  # how long another process may write
Row = dict[str, Any]
Execute = Callable[..., list[Row]]  # a statement with ? for each of the values behind it -> its rows
_PREPARED: set[tuple[str, str]] = set()  # schemas of this process whose tables are there


class Claimed(UsageError):
    """Another process, or another connection of this one, has it in hand."""


def address() -> str:
    """That of the Postgres server, or nothing. Raises SetupError for what is no such address."""
    given = os.environ.get(ADDRESS, "").strip()
    if given and not given.startswith(("postgresql://", "postgres://")):
        raise SetupError(f"{ADDRESS} is no address of a Postgres server; write postgresql://user@host/database")
    return given


class Database:
    """One file, or one schema. ``saver`` keeps the checkpoints, in ``tables``; all of it may be used from several
    threads, one at a time. Raises SetupError where a server cannot be had."""

    saver: Any
    tables: tuple[str, ...]

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held: list[Any] = []
        url = address() if str(path) != ":memory:" else ""
        self.is_postgres = bool(url)
        if url:
            self._connect(url, schema_of(path))
        else:
            self._open(path)

    def _open(self, path: Path) -> None:
        if str(path) != ":memory:":
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)  # what people say to a model is theirs
        connection = sqlite3.connect(path, timeout=BUSY_SECONDS, check_same_thread=False)
        connection.execute("PRAGMA journal_mode=WAL")
        self.saver = SqliteSaver(connection)
        self.saver.setup()
        self.tables = ("checkpoints", "writes")

    def _connect(self, url: str, schema: str) -> None:
        psycopg, PostgresSaver = _driver()
        name = psycopg.sql.Identifier(schema)
        held: list[Any] = []  # the connection, of all copies that a graph makes of its saver; nothing once it is closed

        def connect() -> Any:
            # its savers want rows by name, and statements that are not in a transaction
            connection = psycopg.connect(url, autocommit=True, row_factory=psycopg.rows.dict_row)
            connection.execute(psycopg.sql.SQL("SET search_path TO {}").format(name))
            return connection

        class Saver(PostgresSaver):  # type: ignore[misc, valid-type]
            """Over a connection that is made anew after the server has gone: what was asked then fails, and what is
            asked next does not."""

            @property
            def conn(self) -> Any:
                if held and held[0].closed:
                    held[0] = connect()
                if not held:
                    raise psycopg.OperationalError("the connection is closed")
                return held[0]

            @conn.setter
            def conn(self, given: Any) -> None:
                held[:] = [given]

        try:
            self.saver = Saver(connect())
        except psycopg.Error as error:
            raise _unreachable(error) from None
        self._held = held
        try:
            # a run's schema goes with the run, and a run of the same name may come
            there = self._execute(held[0], "SELECT 1 AS there FROM pg_namespace WHERE nspname = ?", schema)
            if not there or (url, schema) not in _PREPARED:
                # tried, not waited for: a statement that waits holds up the making of an index, which another waits for
                while not self._execute(held[0], "SELECT pg_try_advisory_lock(24) AS got")[0]["got"]:
                    time.sleep(0.05)
                try:
                    held[0].execute(psycopg.sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(name))
                    self.saver.setup()
                finally:
                    self._execute(held[0], "SELECT pg_advisory_unlock(24)")
                _PREPARED.add((url, schema))
        except psycopg.Error as error:
            self.close()
            raise SetupError(f"{ADDRESS} cannot be used: {' '.join(str(error).split())[:300]}") from None
        self.tables = ("checkpoints", "checkpoint_writes", "checkpoint_blobs")

    def rows(self, sql: str, *values: Any) -> list[Row]:
        with self.saver.lock:
            return self._execute(self.saver.conn, sql, *values)

    @contextmanager
    def exclusive(self, *tables: str) -> Iterator[Execute]:
        """A transaction during which nobody else writes into ``tables``; in SQLite, into any."""
        with self.saver.lock:
            connection = self.saver.conn
            execute = partial(self._execute, connection)
            if self.is_postgres:
                with connection.transaction():
                    for table in tables:
                        execute(f"LOCK TABLE {table} IN EXCLUSIVE MODE")
                    yield execute
                return
            execute("BEGIN IMMEDIATE")
            try:
                yield execute
                connection.commit()
            except BaseException:
                connection.rollback()
                raise

    def create(self, *statements: str) -> None:
        """Makes tables, where they are not there; others may do so at the same time."""
        with self.exclusive() as execute:
            if self.is_postgres:  # where IF NOT EXISTS alone may fail of two at once
                execute("SELECT pg_advisory_xact_lock(25)")
            for statement in statements:
                execute(statement)

    @contextmanager
    def claim(self, name: str, refusal: str) -> Iterator[None]:
        """Keeps what is called ``name`` for this object until the end, or until its process ends, however it does.
        Raises Claimed, with ``refusal``, where another one keeps it."""
        if str(self._path) == ":memory:":
            yield
            return
        if not self.is_postgres:
            digest = hashlib.sha256(name.encode()).hexdigest()[:16]
            with _locked(self._path.with_name(f".{self._path.name}-{digest}.lock"), refusal):
                yield
            return
        key = f"{schema_of(self._path)}/{name}"
        if not self.rows("SELECT pg_try_advisory_lock(hashtextextended(?, 24)) AS got", key)[0]["got"]:
            raise Claimed(refusal)
        try:
            yield
        finally:
            self.rows("SELECT pg_advisory_unlock(hashtextextended(?, 24))", key)

    def copy(self, execute: Execute, table: str, thread: str, to: str, only: Sequence[str] | None = None) -> None:
        """Copies the rows of a thread in a table as those of ``to``, all or those of the checkpoints ``only``: rows and
        not objects, because the types of a graph that is not at hand could not be read."""
        where = "table_name = ? AND table_schema = current_schema() ORDER BY ordinal_position"
        told = (
            execute(f"SELECT column_name AS name FROM information_schema.columns WHERE {where}", table)
            if self.is_postgres
            else execute(f"PRAGMA table_info({table})")
        )
        names = [row["name"] for row in told]
        others = ", ".join(f'"{name}"' for name in names if name != "thread_id")
        chosen = ""
        if only is not None and "checkpoint_id" in names:  # of what checkpoints share, all
            chosen = f" AND checkpoint_id IN ({', '.join('?' * len(only))})"
        execute(
            f"INSERT INTO {table} (thread_id, {others}) SELECT CAST(? AS TEXT), {others} FROM {table} "
            f"WHERE thread_id = ?{chosen}",
            *(to, thread, *(only or () if chosen else ())),
        )

    def _execute(self, connection: Any, sql: str, *values: Any) -> list[Row]:
        cursor = connection.execute(sql.replace("?", "%s") if self.is_postgres else sql, values)
        if cursor.description is None:
            return []
        if self.is_postgres:
            found: list[Row] = cursor.fetchall()
            return found
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def close(self) -> None:
        if not self.is_postgres:
            self.saver.conn.close()
        for connection in self._held:
            connection.close()
        self._held.clear()


@contextmanager
def _locked(path: Path, refusal: str) -> Iterator[None]:
    """An open file's lock, which goes with its process; the file is removed at the end."""
    while True:
        with path.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Claimed(refusal) from None
            if not _is_at(path, file.fileno()):  # whoever had it before has removed it in between
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def forget(path: Path) -> None:
    """Drops what a server keeps for a file that is to be deleted. Raises SetupError where the server cannot be had."""
    if not (url := address()):
        return
    psycopg, _ = _driver()
    try:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(
                psycopg.sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(psycopg.sql.Identifier(schema_of(path)))
            )
    except psycopg.Error as error:
        raise _unreachable(error) from None


def _driver() -> tuple[Any, Any]:
    try:
        import psycopg
        from langgraph.checkpoint.postgres import PostgresSaver
    except ImportError:
        raise SetupError(f"{ADDRESS} needs a driver; pip install 'junto[postgres]'") from None
    return psycopg, PostgresSaver


def _unreachable(error: Exception) -> SetupError:
    return SetupError(f"{ADDRESS} cannot be reached: {' '.join(str(error).split())[:300]}")


def schema_of(path: Path) -> str:
    """Of ``runs/game24/threads.sqlite`` ``game24_threads_`` and eight digits of its path's hash: at most 63 bytes,
    as Postgres has it."""
    name = re.sub(r"[^a-z0-9_]+", "_", f"{path.resolve().parent.name}_{path.stem}".lower())
    return f"{name[:54]}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
