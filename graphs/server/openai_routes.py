"""``/v1``: models, and chat completions, plain or as server-sent events."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from graphs.server.feed import Crew, Feed
from graphs.server.models import Answerer, answerer
from graphs.server.openai_replies import DONE, Written, as_event, chunk, completion, head, model_entry, usage
from graphs.server.openai_requests import Ask, ask_of, parsed_json
from graphs.server.refusals import as_json, busy, openai_error, refusal_of
from graphs.server.streaming import Streamed, unless_gone
from graphs.server.writing import Told, begin

CLIENT_LEFT = 499  # nginx's word for it; nobody reads it


def routes(names: dict[str, Answerer], crew: Crew) -> list[Route]:
    async def listed(request: Request) -> Response:
        entries = [model_entry(one.name, one.model.created) for one in names.values()]
        return as_json({"object": "list", "data": entries})

    async def shown(request: Request) -> Response:
        one = answerer(names, request.path_params["name"])
        return as_json(model_entry(one.name, one.model.created))

    async def complete(request: Request) -> Any:
        ask = ask_of(parsed_json(await request.body()))
        who = answerer(names, ask.model)
        feed: Feed[Told] = Feed(asyncio.get_running_loop())
        stop = threading.Event()
        begin(crew, feed, who, ask, stop)
        choices = [Written() for _ in range(ask.n)]
        if not ask.stream:
            done = await unless_gone(request.receive, _filled(choices, feed))
            if done is None:
                stop.set()
                return Response(status_code=CLIENT_LEFT)
            return as_json(completion(ask.model, choices))
        # what goes wrong before the first word has a status of its own
        if await unless_gone(request.receive, _begun(feed)) is None:
            stop.set()
            return Response(status_code=CLIENT_LEFT)
        return Streamed(_events(ask, choices, feed), stop.set, {})

    return [
        Route("/v1/models", listed),
        Route("/v1/models/{name:path}", shown),
        Route("/v1/chat/completions", complete, methods=["POST"]),
    ]


async def _filled(choices: list[Written], feed: Feed[Told]) -> bool:
    """Takes all that is told, until the end. Raises what went wrong."""
    async for _, (index, delta) in feed.read():
        if isinstance(delta, BaseException):
            raise refusal_of(delta)
        _take(choices[index], delta)
    if not all(choice.finish for choice in choices):  # they were stopped
        raise busy("the server is shutting down")
    return True


async def _begun(feed: Feed[Told]) -> bool:
    """Waits for the first event. Raises what went wrong before."""
    async for _, (_, delta) in feed.read():
        if isinstance(delta, BaseException):
            raise refusal_of(delta)
        break
    return True


def _take(choice: Written, delta: dict[str, Any]) -> None:
    choice.take(delta)
    choice.finish = delta.get("finish", choice.finish)
    if "usage" in delta:
        choice.prompt_tokens, choice.tokens = delta["usage"]


async def _events(ask: Ask, choices: list[Written], feed: Feed[Told]) -> AsyncIterator[bytes]:
    about = head(ask.model, "chat.completion.chunk")
    if ask.include_usage:
        about["usage"] = None
    for index in range(ask.n):
        yield as_event(chunk(about, index, {"role": "assistant", "content": ""}))
    async for _, (index, told) in feed.read():
        if isinstance(told, BaseException):
            yield as_event(openai_error(refusal_of(told)))
            return
        _take(choices[index], told)
        delta = {key: value for key, value in told.items() if key not in ("usage", "finish")}
        if delta:
            yield as_event(chunk(about, index, delta))
        if "finish" in told:
            yield as_event(chunk(about, index, {}, told["finish"]))
    if not all(choice.finish for choice in choices):  # they were stopped
        yield as_event(openai_error(busy("the server is shutting down")))
        return
    if ask.include_usage:
        yield as_event(about | {"choices": [], "usage": usage(choices)})
    yield DONE
