"""The application: all routes behind the guard, and what is opened and closed with it."""

from __future__ import annotations

import importlib.metadata
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from langgraph.errors import EmptyInputError, InvalidUpdateError
from pydantic.errors import PydanticUserError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from alignment.errors import JuntoError
from graphs.server.assistants import Assistant, assistant, assistants_of
from graphs.server.feed import Crew
from graphs.server.guard import Guard, Policy
from graphs.server.models import Model, answerers
from graphs.server.openai_routes import routes as openai_routes
from graphs.server.refusals import Refusal, refusal_of, refused
from graphs.server.run_routes import run_routes
from graphs.server.running import Runner
from graphs.server.thread_routes import body_of, reply, thread_routes, whole

STOP_SECONDS = 30.0  # for what is being written to reach its next token, and to be kept
# what a client may have caused; Starlette itself raises others again, for the server's log
ERRORS: list[Any] = [Refusal, JuntoError, ValueError, RecursionError, InvalidUpdateError, EmptyInputError, Exception]
SENTENCES = {404: "there is nothing at this address", 405: "this address does not take that method"}


def build_app(models: Sequence[Model], database: Path, policy: Policy, others: Sequence[Assistant] = ()) -> Starlette:
    """The application over loaded models. ``others``: assistants beside those of the models."""
    assistants = [*assistants_of(models), *others]
    crew = Crew(policy.limits.requests)
    runner = Runner(assistants, database, crew)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        crew.stop()
        crew.join(STOP_SECONDS)
        runner.close()

    app = Starlette(
        routes=[
            Route("/ok", ok),
            Route("/info", info),
            *assistant_routes(assistants),
            *openai_routes(answerers(models), crew),
            *thread_routes(runner),
            *run_routes(runner),
        ],
        middleware=[Middleware(Guard, policy)],
        exception_handlers={HTTPException: on_http_error} | dict.fromkeys(ERRORS, on_error),
        lifespan=lifespan,
    )
    app.state.crew = crew
    return app


async def ok(request: Request) -> Response:
    return reply({"ok": True})


async def info(request: Request) -> Response:
    flags = {"assistants": True, "crons": False, "langsmith": False}
    versions = {"version": version("junto"), "langgraph_py_version": version("langgraph")}
    return reply(versions | {"flags": flags})


def version(package: str) -> str | None:
    with suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return None


async def on_error(request: Request, error: Exception) -> Response:
    return refused(refusal_of(error), request.url.path)


async def on_http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    return refused(Refusal(status, SENTENCES.get(status, "the request cannot be answered")), request.url.path)


def assistant_routes(assistants: Sequence[Assistant]) -> list[Route]:
    async def search(request: Request) -> Response:
        body = await body_of(request)
        found = matching(assistants, body)
        offset = whole(body.get("offset"), "offset", 0, 10**6, 0)
        limit = whole(body.get("limit"), "limit", 1, 1000, 10)
        headers = {"X-Pagination-Total": str(len(found))}
        return reply([one.entry() for one in found[offset : offset + limit]], headers=headers)

    async def count(request: Request) -> Response:
        return reply(len(matching(assistants, await body_of(request))))

    async def one(request: Request) -> Response:
        return reply(assistant(assistants, request.path_params["assistant_id"]).entry())

    async def graph(request: Request) -> Response:
        one = assistant(assistants, request.path_params["assistant_id"])
        return reply(one.builder.compile(name=one.graph_id).get_graph().to_json())

    async def schemas(request: Request) -> Response:
        return reply(schemas_of(assistant(assistants, request.path_params["assistant_id"])))

    return [
        Route("/assistants/search", search, methods=["POST"]),
        Route("/assistants/count", count, methods=["POST"]),
        Route("/assistants/{assistant_id}", one),
        Route("/assistants/{assistant_id}/graph", graph),
        Route("/assistants/{assistant_id}/schemas", schemas),
    ]


def matching(assistants: Sequence[Assistant], body: dict[str, Any]) -> list[Assistant]:
    """Those of the wanted graph, name and metadata."""
    wanted = body.get("metadata") or {}
    return [
        one
        for one in assistants
        if body.get("graph_id") in (None, one.graph_id)
        and str(body.get("name") or "").lower() in one.name.lower()
        and (not isinstance(wanted, dict) or all(one.entry()["metadata"].get(k) == v for k, v in wanted.items()))
    ]


def schemas_of(one: Assistant) -> dict[str, Any]:
    """JSON schemas of a graph's state; null where pydantic can make none of its class."""
    graph = one.builder.compile(name=one.graph_id)
    found: dict[str, Any] = {"graph_id": one.graph_id, "input_schema": None, "output_schema": None}
    with suppress(PydanticUserError):
        found["input_schema"] = graph.get_input_jsonschema()
        found["output_schema"] = graph.get_output_jsonschema()
    context = {"type": "object", "properties": one.settings, "additionalProperties": False}
    return found | {"state_schema": found["output_schema"], "config_schema": None, "context_schema": context}
