"""``/threads``: conversations, their states and their history."""

from __future__ import annotations

import re
import uuid
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from graphs.server.openai_requests import parsed_json
from graphs.server.records import Row
from graphs.server.refusals import Refusal
from graphs.server.run_requests import input_of
from graphs.server.running import Runner, config_of
from graphs.server.states import checkpoint_of, dumped, selected, thread_state

MAX_LIMIT = 1000
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


async def body_of(request: Request) -> dict[str, Any]:
    """The JSON object that was sent; an empty one where nothing was. Raises Refusal (400)."""
    body = await request.body()
    return parsed_json(body) if body else {}


def reply(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(dumped(content), status, headers, "application/json")


def whole(value: Any, name: str, low: int, high: int, default: int) -> int:
    """A whole number of a query or a body. Raises Refusal (422)."""
    if value is None:
        return default
    text = str(value)
    if not re.fullmatch(r"[0-9]{1,6}", text) or not low <= int(text) <= high:
        raise Refusal(422, f"{name} has to be a whole number from {low} to {high}")
    return int(text)


def new_id(given: Any) -> str:
    """The id that a thread is to have. Raises Refusal (422)."""
    if given is not None and not (isinstance(given, str) and NAME.fullmatch(given)):
        raise Refusal(422, "thread_id has to be of letters, digits, dots, dashes and underscores, at most 128")
    return given or str(uuid.uuid4())


def chosen(body: dict[str, Any], name: str, kind: type) -> Any:
    """A field of a body, or nothing. Raises Refusal (422) where it is of another kind."""
    value = body.get(name)
    if value is not None and not isinstance(value, kind):
        raise Refusal(422, f"{name} has to be {'an object' if kind is dict else f'a {kind.__name__}'}")
    return value


def names_of(body: dict[str, Any]) -> list[str]:
    """The fields that are selected; none: all. Raises Refusal (422)."""
    names = chosen(body, "select", list) or []
    if not all(isinstance(name, str) for name in names):
        raise Refusal(422, "select has to be a list of names")
    return names


def checkpoint_id(body: dict[str, Any]) -> str | None:
    """The checkpoint that is meant; none: the last one. Raises Refusal (422)."""
    found = (chosen(body, "checkpoint", dict) or {}).get("checkpoint_id") or body.get("checkpoint_id")
    if found is not None and not isinstance(found, str):
        raise Refusal(422, "checkpoint_id has to be a text")
    return found


def thread_routes(runner: Runner) -> list[Route]:
    records = runner.records

    async def create(request: Request) -> Response:
        body = await body_of(request)
        if body.get("supersteps"):
            raise Refusal(422, "supersteps are not there; update the thread's state")
        thread_id, metadata = new_id(body.get("thread_id")), chosen(body, "metadata", dict) or {}
        if_exists = body.get("if_exists") or "raise"
        return reply(await run_in_threadpool(records.add_thread, thread_id, metadata, if_exists))

    async def one(request: Request) -> Response:
        thread_id = request.path_params["thread_id"]
        if request.method == "DELETE":
            await run_in_threadpool(records.remove_thread, thread_id)
            return Response(status_code=204)
        if request.method == "PATCH":
            changed = chosen(await body_of(request), "metadata", dict) or {}
            row = await run_in_threadpool(lambda: records.change_thread(thread_id, metadata=changed))
            minimal = request.headers.get("prefer") == "return=minimal"
            return Response(status_code=204) if minimal else reply(row)
        return reply(await run_in_threadpool(records.thread, thread_id))

    async def search(request: Request) -> Response:
        body = wanted(await body_of(request))
        limit = whole(body.get("limit"), "limit", 1, MAX_LIMIT, 10)
        offset = whole(body.get("offset"), "offset", 0, 10**6, 0)
        ids = await run_in_threadpool(records.search, body)
        rows = await run_in_threadpool(records.threads, ids[offset : offset + limit])
        names = names_of(body)
        found = [{key: row[key] for key in names if key in row} if names else row for row in rows]
        return reply(found, headers={"X-Pagination-Total": str(len(ids))})

    async def count(request: Request) -> Response:
        return reply(len(await run_in_threadpool(records.search, wanted(await body_of(request)))))

    async def copy(request: Request) -> Response:
        thread_id = request.path_params["thread_id"]
        return reply(await run_in_threadpool(records.copy_thread, thread_id, str(uuid.uuid4())))

    async def state(request: Request) -> Response:
        params, body = request.path_params, await body_of(request)
        checkpoint = params.get("checkpoint_id") or checkpoint_id(body)
        subgraphs = bool(body.get("subgraphs")) or request.query_params.get("subgraphs", "").lower() in ("1", "true")
        names = names_of(body) or request.query_params.getlist("select")

        def read() -> Any:
            thread = records.thread(params["thread_id"])
            graph = runner.graph_of(thread)
            if graph is None:
                return empty_state(thread)
            found = graph.get_state(config_of(params["thread_id"], checkpoint), subgraphs=subgraphs)
            if checkpoint and found.created_at is None:
                raise Refusal(404, f"the thread has no checkpoint {str(checkpoint)[:80]!r}")
            return thread_state(found)

        return reply(selected(await run_in_threadpool(read), names))

    async def update(request: Request) -> Response:
        thread_id, body = request.path_params["thread_id"], await body_of(request)
        values, as_node = chosen(body, "values", dict), chosen(body, "as_node", str)
        checkpoint = checkpoint_id(body)

        def write() -> Any:
            thread = records.thread(thread_id)
            graph = runner.graph_of(thread)
            if graph is None:
                raise Refusal(422, "no graph has run in this thread yet; give it a graph_id in its metadata")
            if thread["status"] == "busy":
                raise Refusal(409, f"a run goes on in the thread {thread_id}; wait for it, or cancel it")
            config = graph.update_state(config_of(thread_id, checkpoint), input_of(values), as_node)
            runner.refresh(thread_id)
            return {"checkpoint": checkpoint_of(config)}

        return reply(await run_in_threadpool(write))

    async def history(request: Request) -> Response:
        thread_id = request.path_params["thread_id"]
        body: dict[str, Any] = await body_of(request) if request.method == "POST" else dict(request.query_params)
        names = names_of(body)
        limit = whole(body.get("limit"), "limit", 1, MAX_LIMIT, 10)
        before = body.get("before")
        before = before.get("checkpoint_id") if isinstance(before, dict) else before
        metadata = chosen(body, "metadata", dict) if request.method == "POST" else None

        def read() -> list[Any]:
            graph = runner.graph_of(records.thread(thread_id))
            if graph is None:
                return []
            last = config_of(thread_id, before) if isinstance(before, str) else None
            states = graph.get_state_history(config_of(thread_id), filter=metadata, before=last, limit=limit)
            return [selected(thread_state(found), names) for found in states]

        return reply(await run_in_threadpool(read))

    return [
        Route("/threads", create, methods=["POST"]),
        Route("/threads/search", search, methods=["POST"]),
        Route("/threads/count", count, methods=["POST"]),
        Route("/threads/{thread_id}", one, methods=["GET", "PATCH", "DELETE"]),
        Route("/threads/{thread_id}/copy", copy, methods=["POST"]),
        Route("/threads/{thread_id}/state", state, methods=["GET"]),
        Route("/threads/{thread_id}/state", update, methods=["POST", "PATCH"]),
        Route("/threads/{thread_id}/state/checkpoint", state, methods=["POST"]),
        Route("/threads/{thread_id}/state/{checkpoint_id}", state, methods=["GET"]),
        Route("/threads/{thread_id}/history", history, methods=["GET", "POST"]),
    ]


def wanted(body: dict[str, Any]) -> dict[str, Any]:
    for name, kind in (("metadata", dict), ("values", dict), ("ids", list), ("status", str), ("sort_by", str)):
        chosen(body, name, kind)
    return body


def empty_state(thread: Row) -> dict[str, Any]:
    """The state of a thread in which nothing has run."""
    checkpoint = {"thread_id": thread["thread_id"], "checkpoint_ns": "", "checkpoint_id": None}
    return {
        "values": thread["values"] or {},
        "next": [],
        "tasks": [],
        "metadata": {},
        "created_at": None,
        "checkpoint": checkpoint,
        "parent_checkpoint": None,
        "interrupts": [],
    }
