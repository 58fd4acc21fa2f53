"""Connections that are left by their readers."""

from __future__ import annotations

import asyncio
import fcntl
import termios
from array import array
from contextlib import suppress
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol


class Connection(H11Protocol):
    """HTTP/1.1 to one client. What waits for a client that takes nothing of it for ``stall_seconds`` is given up, and
    its response hears that the client has left; uvicorn alone would hold both for as long as the client is there,
    and a transport that closes still waits for what is in its buffer."""

    stall_seconds = 60.0
    _look: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        transport.set_write_buffer_limits(0)  # pause_writing is then called for whatever waits

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._leave_off()

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave_off()
        super().connection_lost(exc)

    def _watch(self) -> None:
        waiting = self._waiting()

        def look() -> None:
            if self._waiting() < waiting:
                self._watch()
            else:
                self.transport.abort()

        self._look = self.loop.call_later(self.stall_seconds, look)

    def _waiting(self) -> int:
        """Bytes that the client has not taken. The buffer here alone does not tell: the system's own, of megabytes,
        takes more from it only when much of it is free."""
        there = array("i", [0])
        with suppress(OSError):  # not every system tells
            fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, there)
        return self.transport.get_write_buffer_size() + there[0]

    def _leave_off(self) -> None:
        if self._look is not None:
            self._look.cancel()
            self._look = None
