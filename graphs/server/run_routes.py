"""``/threads/{id}/runs`` and ``/runs``: runs that are streamed, waited for, or left to themselves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from graphs.server.assistants import assistant, checked
from graphs.server.records import ACTIVE, Row
from graphs.server.refusals import Refusal
from graphs.server.run_requests import modes_of, run_request
from graphs.server.running import Live, Runner
from graphs.server.states import dumped, sse
from graphs.server.streaming import Streamed, unless_gone
from graphs.server.thread_routes import body_of, new_id, reply, whole

OWN_COLUMNS = ("owner",)  # of a run, that are nobody else's business


def run_routes(runner: Runner) -> list[Route]:
    records = runner.records

    async def begun(request: Request) -> Live:
        body = await body_of(request)
        thread_id = request.path_params.get("thread_id")
        asked = run_request(body, thread_id is not None)
        if thread_id is not None and asked.create_thread:
            new_id(thread_id)
        # what cannot begin does not end another one
        checked(assistant(runner.assistants, asked.assistant_id).settings, asked.context)
        if thread_id is not None and asked.strategy == "interrupt":
            for live in runner.at_work(thread_id):
                live.cancel()
                await live.feed.finished()
        loop = asyncio.get_running_loop()
        return await run_in_threadpool(runner.begin, thread_id, asked, body, loop)

    def gone(live: Live, cancels: bool) -> Any:
        return live.cancel if cancels else lambda: None

    async def stream(request: Request) -> Any:
        live = await begun(request)
        headers = about(live) | ({"Location": f"{path_of(live)}/stream"} if live.run["thread_id"] else {})
        chunks = events_of(live, 0, None)
        return Streamed(chunks, gone(live, live.request.cancel_on_disconnect), headers)

    async def wait(request: Request) -> Any:
        live = await begun(request)
        headers = about(live) | ({"Location": f"{path_of(live)}/join"} if live.run["thread_id"] else {})
        return waited(live, headers, gone(live, live.request.cancel_on_disconnect))

    async def create(request: Request) -> Response:
        live = await begun(request)
        return reply(shown(live.run), headers=about(live))

    async def listed(request: Request) -> Response:
        query = request.query_params
        limit = whole(query.get("limit"), "limit", 1, 1000, 10)
        offset = whole(query.get("offset"), "offset", 0, 10**6, 0)
        thread_id = request.path_params["thread_id"]
        rows = await run_in_threadpool(records.runs, thread_id, query.get("status"), limit, offset)
        return reply([shown(row) for row in rows])

    async def one(request: Request) -> Response:
        ids = request.path_params["thread_id"], request.path_params["run_id"]
        if request.method == "DELETE":
            await run_in_threadpool(records.remove_run, *ids)
            return Response(status_code=204)
        return reply(shown(await run_in_threadpool(records.run, *ids)))

    async def join(request: Request) -> Any:
        row = await found(request)
        live = runner.live(row["run_id"])
        if live is not None and row["thread_id"]:
            return waited(live, {"Location": str(request.url.path)}, lambda: None)
        if row["status"] in ACTIVE:
            raise elsewhere(row)
        return reply((await run_in_threadpool(records.thread, row["thread_id"]))["values"])

    async def join_stream(request: Request) -> Any:
        row, query = await found(request), request.query_params
        live = runner.live(row["run_id"])
        modes = modes_of(query.getlist("stream_mode")) if query.get("stream_mode") else None
        last = request.headers.get("last-event-id", "")
        start = int(last) + 1 if last.isascii() and last.isdigit() and len(last) < 10 else 0
        if live is None and row["status"] in ACTIVE:
            raise elsewhere(row)
        chunks = events_of(live, start, modes) if live else nothing()
        cancels = query.get("cancel_on_disconnect", "").lower() in ("1", "true")
        left = gone(live, cancels) if live else lambda: None
        return Streamed(chunks, left, {"Location": str(request.url.path)})

    async def cancel(request: Request) -> Response:
        row, query = await found(request), request.query_params
        if query.get("action", "interrupt") != "interrupt":
            raise Refusal(422, "action has to be interrupt; rollback is not there")
        live = runner.live(row["run_id"])
        if live is None and row["status"] in ACTIVE:
            raise elsewhere(row)
        if live is not None:
            live.cancel()
            if query.get("wait", "0").lower() in ("1", "true"):
                await unless_gone(request.receive, live.feed.finished())
        return Response(status_code=204)

    async def found(request: Request) -> Row:
        return await run_in_threadpool(records.run, request.path_params["thread_id"], request.path_params["run_id"])

    thread_runs, run = "/threads/{thread_id}/runs", "/threads/{thread_id}/runs/{run_id}"
    return [
        Route("/runs/stream", stream, methods=["POST"]),
        Route("/runs/wait", wait, methods=["POST"]),
        Route(thread_runs, create, methods=["POST"]),
        Route(thread_runs, listed, methods=["GET"]),
        Route(f"{thread_runs}/stream", stream, methods=["POST"]),
        Route(f"{thread_runs}/wait", wait, methods=["POST"]),
        Route(run, one, methods=["GET", "DELETE"]),
        Route(f"{run}/join", join, methods=["GET"]),
        Route(f"{run}/stream", join_stream, methods=["GET"]),
        Route(f"{run}/cancel", cancel, methods=["POST"]),
    ]


def path_of(live: Live) -> str:
    thread_id, run_id = live.run["thread_id"], live.run["run_id"]
    return f"/threads/{thread_id}/runs/{run_id}" if thread_id else f"/runs/{run_id}"


def about(live: Live) -> dict[str, str]:
    return {"Content-Location": path_of(live)}


def shown(row: Row) -> Row:
    return {key: value for key, value in row.items() if key not in OWN_COLUMNS}


def elsewhere(row: Row) -> Refusal:
    return Refusal(409, f"the run {row['run_id']} goes on in another process; ask that one, or for the thread's state")


def waited(live: Live, headers: dict[str, str], left: Any) -> Streamed:
    """The result, when the run has ended; until then spaces, so that the connection stays."""

    async def result() -> AsyncIterator[bytes]:
        await live.feed.finished()
        yield dumped(live.result)

    return Streamed(result(), left, headers | {"content-type": "application/json"}, heartbeat=b"\n")


async def events_of(live: Live, start: int, modes: tuple[str, ...] | None) -> AsyncIterator[bytes]:
    """Server-sent events from number ``start`` on, of some modes or of all; the first one says which run it is."""
    kept = (
        None
        if modes is None
        else {"error", "end", *("messages" if mode == "messages-tuple" else mode for mode in modes)}
    )
    if start == 0:
        yield sse("metadata", dumped({"run_id": live.run["run_id"], "attempt": 1}), 0)
    try:
        async for number, (name, data) in live.feed.read(max(0, start - 1)):
            if kept is None or name.split("|")[0].split("/")[0] in kept:
                yield sse(name, data, number + 1)
    except Refusal as refusal:
        yield sse("error", dumped({"error": "Refused", "message": refusal.sentence}), start)


async def nothing() -> AsyncIterator[bytes]:
    return
    yield b""
