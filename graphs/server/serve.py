"""Opens models and serves them until the process is asked to end."""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from alignment.errors import SetupError, UsageError
from graphs.server.app import build_app
from graphs.server.connection import Connection
from graphs.server.guard import Limits, Policy, is_loopback
from graphs.server.models import opened

CLOSING_SECONDS = 10  # for clients to take what is left, after the runs were stopped


def serve(names: Sequence[str], host: str, port: int, token: str | None, runs_root: Path) -> None:
    """Serves ``names`` on ``host``. Raises UsageError for an address that others reach without a token, SetupError
    where a model cannot be loaded or the port is taken."""
    policy = policy_of(host, token)
    with closing(bound_at(host, port)) as bound, opened(names, runs_root) as models:
        app = build_app(models, runs_root / "server.sqlite", policy)
        where = address(host, bound)
        served = ", ".join(model.name for model in models)
        print(f"{served} at {where} (OpenAI: {where}/v1). Ctrl-C ends it.", file=sys.stderr, flush=True)
        Server(config(app)).run(sockets=[bound])


def policy_of(host: str, token: str | None, limits: Limits | None = None) -> Policy:
    """Raises UsageError for an address that others reach without a token, and for one that no header can carry."""
    policy = Policy(token or None, is_loopback(host), limits or Limits())
    if not policy.loopback and policy.token is None:
        raise UsageError(
            f"others can reach {host}; give a --token that they must have (or JUNTO_TOKEN), or leave --host out"
        )
    if policy.token is not None and not (policy.token.isascii() and policy.token.isprintable()):
        raise UsageError("a token is of printable ASCII characters, because it is sent in a header; give another one")
    return policy


def address(host: str, bound: socket.socket) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{bound.getsockname()[1]}"


def bound_at(host: str, port: int) -> socket.socket:
    """Raises SetupError where the address cannot be had."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=2048)
    except OSError as error:
        raise SetupError(f"{host}:{port} cannot be had ({error}); give another --host or --port") from None


def config(app: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=CLOSING_SECONDS,
    )


class Server(uvicorn.Server):
    """Ends without raising the signal again, and stops what is being written before it waits for connections: streams
    end at their next token, and what is written is kept."""

    def handle_exit(self, sig: int, frame: Any) -> None:
        app: Any = self.config.app
        app.state.crew.stop()
        self.force_exit = self.should_exit  # asked twice, it waits for nobody
        self.should_exit = True
