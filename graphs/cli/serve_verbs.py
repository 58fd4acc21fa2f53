"""The verb ``junto serve``: its options; the work is in ``graphs.web`` and ``graphs.server``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
    """Open the page: a chat that shows a council think, and the runs. With --api, serve other programs."""
    if api:
        from graphs.server.serve import serve as serve_models

        serve_models(models or ["embedded"], host, port, token, runs_root)
        return
    from alignment.shipped import shipped
    from graphs.web.app import serve_page

    # a council to look at, where one comes with the project
    serve_page(models or list(shipped())[:1] or ["embedded"], host, port, token, runs_root)
