"""Runs of graphs: each on a thread of its own, told to a feed, and recorded when it ends."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import uuid
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from langgraph.errors import GraphDrained
from langgraph.graph.state import CompiledStateGraph
from langgraph.runtime import RunControl
from langgraph.types import Command

from graphs.asking import tied
from graphs.database import Database
from graphs.server.assistants import Assistant, assistant, checked
from graphs.server.feed import Crew, Feed
from graphs.server.records import Records, Row
from graphs.server.refusals import Refusal, refusal_of
from graphs.server.run_requests import RunRequest
from graphs.server.states import Partial, dumped, plain, summary_of

REMEMBERED = 8  # finished runs whose events a client that reconnects can still have

Event = tuple[str, bytes]  # its name, and its JSON


@dataclass
class Live:
    """A run of this process. ``final`` is the state in which it ended, ``error`` what it failed of."""

    run: Row
    request: RunRequest
    feed: Feed[Event]
    stop: threading.Event = field(default_factory=threading.Event)
    control: RunControl = field(default_factory=RunControl)
    final: Any = None
    error: Refusal | None = None

    def cancel(self) -> None:
        """Ends it at its next token, or at the graph's next step."""
        self.stop.set()
        self.control.request_drain("cancelled")

    @property
    def result(self) -> Any:
        """What a client that waited is given."""
        return {"__error__": told(self.error)} if self.error else self.final


def told(error: Refusal) -> Row:
    return {"error": "Refused" if error.status < 500 else "Failed", "message": error.sentence}


class Runner:
    """Assistants, and the threads and runs in one database."""

    def __init__(self, assistants: Sequence[Assistant], database: Path, crew: Crew) -> None:
        self.assistants = assistants
        self.crew = crew
        self.records = Records(database)
        self._database = Database(database)
        saver = self._database.saver
        self._graphs = {one.assistant_id: one.builder.compile(saver, name=one.graph_id) for one in assistants}
        self._bare = {one.assistant_id: one.builder.compile(name=one.graph_id) for one in assistants}
        self._lives: OrderedDict[str, Live] = OrderedDict()
        self._lock = threading.Lock()
        for thread_id in self.records.recover():
            with suppress(Refusal):  # its graph is not served now
                self.refresh(thread_id)

    def close(self) -> None:
        self._database.close()
        self.records.close()

    def graph_of(self, thread: Row) -> CompiledStateGraph | None:
        """The graph that ran last in a thread, with whatever model. None where none has run yet; raises Refusal (404)
        for one that is not served."""
        about = thread["metadata"]
        if about.get("assistant_id") in self._graphs:
            return self._graphs[about["assistant_id"]]
        if "graph_id" not in about:
            return None
        return self._graphs[assistant(self.assistants, about["graph_id"]).assistant_id]

    def refresh(self, thread_id: str) -> Row:
        """Records what the thread's state is now."""
        graph = self.graph_of(self.records.thread(thread_id))
        if graph is None:
            return self.records.thread(thread_id)
        return self.records.change_thread(thread_id, **summary_of(graph.get_state(config_of(thread_id))))

    def live(self, run_id: str) -> Live | None:
        return self._lives.get(run_id)

    def at_work(self, thread_id: str) -> list[Live]:
        """The runs of this process that go on in a thread: one, or none."""
        with self._lock:
            lives = list(self._lives.values())
        return [live for live in lives if live.run["thread_id"] == thread_id and not live.feed.ended]

    def begin(self, thread_id: str | None, request: RunRequest, kwargs: Row, loop: asyncio.AbstractEventLoop) -> Live:
        """Starts a run, of a thread or of none. Raises Refusal where it cannot be."""
        who = assistant(self.assistants, request.assistant_id)
        settings = checked(who.settings, request.context)
        if thread_id is None:
            run: Row = {"run_id": str(uuid.uuid4()), "thread_id": None}
        else:
            run = self._recorded(thread_id, request, who, kwargs)
        live = Live(run, request, Feed(loop))
        try:
            self.crew.start(lambda: self._work(live, who, settings), live.cancel)
        except Refusal as refusal:
            if thread_id is not None:
                self.records.end_run(run["run_id"], "error", refusal.sentence)
            raise
        with self._lock:
            self._lives[run["run_id"]] = live
            ended = [run_id for run_id, one in self._lives.items() if one.feed.ended]
            for run_id in ended[: max(0, len(self._lives) - REMEMBERED)]:
                del self._lives[run_id]
        return live

    def _recorded(self, thread_id: str, request: RunRequest, who: Assistant, kwargs: Row) -> Row:
        about = {"graph_id": who.graph_id, "assistant_id": who.assistant_id}
        if request.create_thread:
            self.records.add_thread(thread_id, about, "do_nothing")
        self.records.thread(thread_id)
        if request.checkpoint_id:
            config = config_of(thread_id, request.checkpoint_id)
            if self._graphs[who.assistant_id].get_state(config).created_at is None:
                raise Refusal(404, f"the thread has no checkpoint {request.checkpoint_id[:80]!r}")
        run = self.records.begin_run(thread_id, who.assistant_id, request.metadata, kwargs, request.strategy)
        self.records.change_thread(thread_id, metadata=about)
        return run

    def _work(self, live: Live, who: Assistant, settings: Row) -> None:
        thread_id, run_id = live.run["thread_id"], live.run["run_id"]
        status = "success"
        try:
            graph = (self._bare if thread_id is None else self._graphs)[who.assistant_id]
            config = run_config(live, who)
            for name, data in events(graph, live, config, who.context(settings, live.stop)):
                payload = dumped(data)
                live.feed.put((name, payload), len(payload))
        except GraphDrained:
            status = "interrupted"
        except BaseException as error:  # whatever went wrong belongs to the client
            status, live.error = "error", refusal_of(error)
            live.feed.put(("error", dumped(told(live.error))))
        status = "interrupted" if live.stop.is_set() else status
        try:
            if thread_id is not None:
                status = self._record(thread_id, run_id, status, live)
        except BaseException as error:  # a run that is over must not look as if it went on
            self.records.end_run(run_id, "error", refusal_of(error).sentence)
        finally:
            if live.error is None:  # without it, clients would ask for what they may have missed
                live.feed.put(("end", dumped({"run_id": run_id, "status": status})))
            live.feed.end()

    def _record(self, thread_id: str, run_id: str, status: str, live: Live) -> str:
        """Records how a run ended, and returns it."""
        now = self._graphs[self.records.run(thread_id, run_id)["assistant_id"]].get_state(config_of(thread_id))
        summary = summary_of(now)
        if status == "error":
            summary["status"] = "error"
        elif now.next:
            status = "interrupted"
        if live.error is None and live.final is None:
            live.final = summary["values"]
        self.records.change_thread(thread_id, **summary)
        self.records.end_run(run_id, status, live.error.sentence if live.error else None)
        return status


def config_of(thread_id: str, checkpoint_id: str | None = None) -> Any:
    own = {"thread_id": thread_id} | ({"checkpoint_id": checkpoint_id} if checkpoint_id else {})
    return {"configurable": own}


def run_config(live: Live, who: Assistant) -> Any:
    request, run = live.request, live.run
    own = {key: run[key] for key in ("run_id", "thread_id") if run[key]}
    about = {"graph_id": who.graph_id, "assistant_id": who.assistant_id}
    checkpoint = {"checkpoint_id": request.checkpoint_id} if request.checkpoint_id else {}
    return {
        "configurable": request.configurable | own | checkpoint,
        "metadata": request.metadata | own | about,
        "recursion_limit": request.recursion_limit,
    }


def events(graph: CompiledStateGraph, live: Live, config: Any, context: Any) -> Iterator[tuple[str, Any]]:
    """Names and data of what a run tells, in the modes that were asked for; its last values are kept as ``final``."""
    request, partial = live.request, Partial()
    modes = {"messages" if mode == "messages-tuple" else mode for mode in request.modes} | {"values"}
    given = request.input
    if isinstance(given, Command) and given.resume is not None and graph.checkpointer:
        asked = {one.id: one.value for one in graph.get_state(config_of(live.run["thread_id"])).interrupts}
        given = dataclasses.replace(given, resume=tied(given.resume, asked))
    stream = graph.stream(
        given,
        config,
        context=context,
        stream_mode=sorted(modes),
        subgraphs=request.subgraphs,
        interrupt_before=request.interrupt_before,
        interrupt_after=request.interrupt_after,
        durability=request.durability if graph.checkpointer else None,
        control=live.control,
    )
    for part in stream:
        space, mode, data = part if request.subgraphs else ((), *part)
        if mode == "values" and not space:
            live.final = plain(data if "__interrupt__" not in data else (live.final or {}) | data)
        names: list[tuple[str, Any]] = [(mode, data)] if mode in request.modes and mode != "messages" else []
        if mode == "messages":
            names = [("messages", list(data))] if "messages-tuple" in request.modes else []
            names += partial.events(*data) if "messages" in request.modes else []
        for name, told_data in names:
            yield "|".join((name, *space)), told_data
