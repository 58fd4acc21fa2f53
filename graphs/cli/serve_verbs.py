"""The verb ``junto serve``: its options; the work is in ``graphs.server``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from alignment.errors import UsageError
from graphs.cli.options import RunsRoot


def serve(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MODEL...]", help="Runs, model folders, hub ids, or embedded, which it is otherwise."),
    ] = None,
    api: Annotated[
        bool, typer.Option("--api", help="For other clients: OpenAI's API under /v1, and that of LangGraph's server.")
    ] = False,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen at; others than this machine's need a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = 2024,
    token: Annotated[
        str | None,
        typer.Option(
            "--token", envvar="JUNTO_TOKEN", show_envvar=True, help="What clients must send as a key; a secret."
        ),
    ] = None,
    runs_root: RunsRoot = Path("runs"),
) -> None:
    """Serve models, their roles and councils to other programs."""
    if not api:
        raise UsageError("only --api is there yet, the server for other clients; junto serve --api")
    from graphs.server.serve import serve as serve_models

    serve_models(models or ["embedded"], host, port, token, runs_root)
