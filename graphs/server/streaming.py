"""Responses that take their time, and notice a client that has gone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from starlette.types import Receive, Scope, Send

HEARTBEAT_SECONDS = 15.0  # clients and proxies give up on a connection that is silent for long
Result = TypeVar("Result")


class Streamed:
    """A response of ``chunks``; ``gone`` is called where its reader leaves. While there is nothing to
    say, ``heartbeat`` is sent."""

    def __init__(
        self,
        chunks: AsyncIterator[bytes],
        gone: Callable[[], Any],
        headers: dict[str, str],
        heartbeat: bytes = b": waiting\n\n",
    ) -> None:
        self.chunks = chunks
        self.gone = gone
        self.headers = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-store"} | headers
        self.heartbeat = heartbeat

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        head = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in self.headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        if not await unless_gone(receive, self._write(send)):
            self.gone()

    async def _write(self, send: Send) -> bool:
        chunks = aiter(self.chunks)
        coming: asyncio.Task[bytes] | None = None
        try:
            while True:
                coming = coming or asyncio.ensure_future(_next(chunks))
                done, _ = await asyncio.wait({coming}, timeout=HEARTBEAT_SECONDS)
                body, coming = (await coming, None) if done else (self.heartbeat, coming)
                last = done and body == b""
                message = {"type": "http.response.body", "body": body, "more_body": not last}
                await send(message)
                if last:
                    return True
        finally:
            if coming is not None:
                coming.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await coming


async def _next(chunks: AsyncIterator[bytes]) -> bytes:
    """The next chunk that is not empty; empty at the end."""
    async for chunk in chunks:
        if chunk:
            return chunk
    return b""


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, Result]) -> Result | None:
    """What ``work`` gives; None, and the work cancelled, where the client leaves before."""
    task, left = asyncio.ensure_future(work), asyncio.ensure_future(_gone(receive))
    try:
        done, _ = await asyncio.wait({task, left}, return_when=asyncio.FIRST_COMPLETED)
        return await task if task in done else None
    finally:
        for one in (task, left):
            if not one.done():
                one.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await one


async def _gone(receive: Callable[[], Awaitable[Any]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
