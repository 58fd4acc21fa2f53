"""What one piece of work tells, written by its thread and read by clients, each at its own pace."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any, Generic, TypeVar

from graphs.server.refusals import Refusal, busy

LIMIT = 2**24  # bytes that a feed keeps for readers who come late
Event = TypeVar("Event")


class Feed(Generic[Event]):
    """Events with their numbers. A slow reader delays nobody: of more than ``LIMIT`` bytes the oldest are dropped, and
    a reader that has not had them yet is told so."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.ended = False
        self._loop = loop
        self._events: deque[tuple[Event, int]] = deque()
        self._first = 0  # number of the first event that is kept
        self._bytes = 0
        self._changed = asyncio.Event()

    def put(self, event: Event, size: int = 0) -> None:
        """Adds an event; from any thread."""
        self._loop.call_soon_threadsafe(self._add, event, size)

    def end(self) -> None:
        """Says that no more will come; from any thread."""
        self._loop.call_soon_threadsafe(self._end)

    async def read(self, start: int = 0) -> AsyncIterator[tuple[int, Event]]:
        """The events from number ``start`` on, as they come. Raises Refusal where they are dropped already."""
        at = start
        while True:
            changed = self._changed
            if at < self._first:
                raise Refusal(410, "the reader was too slow, and events are gone; ask for the thread's state")
            if at < self._first + len(self._events):
                yield at, self._events[at - self._first][0]
                at += 1
            elif self.ended:
                return
            else:
                await changed.wait()

    async def finished(self) -> None:
        """Waits for the end."""
        while not self.ended:
            await self._changed.wait()

    def _add(self, event: Event, size: int) -> None:
        self._events.append((event, size))
        self._bytes += size
        while self._bytes > LIMIT and len(self._events) > 1:
            self._bytes -= self._events.popleft()[1]
            self._first += 1
        self._wake()

    def _end(self) -> None:
        self.ended = True
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


class Crew:
    """The threads at work, at most ``limit`` at a time. The engine makes batches of what they ask for."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._lock = threading.RLock()  # a signal may ask for the end while its own thread is in here
        self._at_work: dict[threading.Thread, Callable[[], Any]] = {}
        self._closed = False

    def start(self, work: Callable[[], None], stop: Callable[[], Any]) -> None:
        """Does ``work`` on a thread of its own; ``stop`` is called to end it early. Raises Refusal (503)."""

        def whole() -> None:
            try:
                work()
            finally:
                with self._lock:
                    del self._at_work[threading.current_thread()]

        thread = threading.Thread(target=whole, name="junto-work", daemon=True)
        with self._lock:
            if self._closed:
                raise busy("the server is shutting down")
            if len(self._at_work) >= self.limit:
                raise busy("the server has as much to write as it can at a time")
            self._at_work[thread] = stop
        thread.start()

    @property
    def working(self) -> int:
        return len(self._at_work)

    def stop(self) -> None:
        """Asks all to end; nothing new begins."""
        with self._lock:
            self._closed = True
            stops = list(self._at_work.values())
        for stop in stops:
            stop()

    def join(self, seconds: float) -> None:
        """Waits for each at most ``seconds``."""
        for thread in list(self._at_work):
            thread.join(seconds)
