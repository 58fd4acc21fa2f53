"""The page behind the guard, beside it the reports of runs and evaluations, and how it is served."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, MutableMapping, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from alignment.errors import UsageError
from graphs.server.guard import App, Guard, Limits, Message, Policy, Receive, Send
from graphs.server.models import answerers, opened
from graphs.server.refusals import Refusal, refusal_of, refused
from graphs.server.serve import Server, address, bound_at, config, policy_of

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # nothing is told to anybody

import gradio as gr  # noqa: E402
from fastapi import FastAPI  # noqa: E402
from starlette.datastructures import MutableHeaders  # noqa: E402
from starlette.requests import Request  # noqa: E402
from starlette.responses import HTMLResponse, Response  # noqa: E402

from graphs.report.palette import LIGHT  # noqa: E402
from graphs.web import fragments  # noqa: E402
from graphs.web.conversations import Conversations  # noqa: E402
from graphs.web.page import Site, build_page  # noqa: E402
from graphs.web.training import Trainings  # noqa: E402

REQUESTS = 256  # every page that is open holds two
FILES = re.compile(r"report\.html|trees/[a-z0-9-]+\.(?:html|svg)")  # of a run, that a browser may have
# pages come from here alone; the reports bring a stricter one of their own. Gradio builds its templates by eval.
SECURITY = {
    "Content-Security-Policy": "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
SYSTEM = ["ui-sans-serif", "system-ui", "sans-serif"]  # fonts that are there: none is fetched from elsewhere


def build_app(site: Site, policy: Policy) -> FastAPI:
    """The application over loaded models."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> Any:
        yield
        site.conversations.crew.stop()
        site.conversations.crew.join(30.0)

    app = FastAPI(lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None)
    app.state.crew = site.conversations.crew

    @app.get("/ok")
    async def ok() -> dict[str, bool]:
        return {"ok": True}

    @app.get("/runs/{name}/{file:path}")
    def of_run(name: str, file: str, request: Request) -> Response:
        return answered(request, lambda: run_file(site.trainings, name, file))

    @app.get("/evaluations")
    def evaluations(request: Request) -> Response:
        return answered(request, lambda: evaluations_page(site.trainings.runs_root))

    blue = {"button_primary_background_fill": LIGHT["link"], "button_primary_background_fill_hover": LIGHT["c1"]}
    dark = {f"{name}_dark": value for name, value in blue.items()}
    theme = gr.themes.Default(primary_hue="blue", font=SYSTEM, font_mono=["ui-monospace", "monospace"]).set(
        button_primary_text_color="white", button_primary_text_color_dark="white", **blue, **dark
    )
    gr.mount_gradio_app(
        app,
        build_page(site),
        path="/",
        theme=theme,
        head=fragments.head(),
        show_error=False,
        ssr_mode=False,
        run_history=False,
        pwa=False,
        footer_links=[],
        enable_monitoring=False,
        mcp_server=False,
        max_file_size=0,
    )
    app.add_middleware(Secured)
    app.add_middleware(Guard, policy=policy)
    return app


class Secured:
    """Adds ``SECURITY`` to every response that has no own word on it."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = MutableHeaders(scope=message)
                for name, value in SECURITY.items():
                    own.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, sent)


def answered(request: Request, make: Callable[[], Response]) -> Response:
    try:
        return make()
    except Exception as error:
        return refused(refusal_of(error), request.url.path)


def run_file(trainings: Trainings, name: str, file: str) -> Response:
    """A page that lies in a run. Raises Refusal (404) for any other file, whatever path it names."""
    try:
        path = trainings.run(name).path / file
    except UsageError as error:
        raise Refusal(404, str(error)) from None
    if not FILES.fullmatch(file) or not path.is_file():
        raise Refusal(404, f"the run {name} has no page {file[:80]!r}")
    kind = "image/svg+xml" if path.suffix == ".svg" else "text/html; charset=utf-8"
    own = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'"
    return Response(path.read_bytes(), headers={"Content-Security-Policy": own, "Content-Type": kind})


def evaluations_page(runs_root: Path) -> Response:
    from graphs.evaluation import compare as comparisons
    from graphs.report.evaluations import evaluations_page as drawn

    found = comparisons.listed(runs_root)
    if not found:
        return HTMLResponse(fragments.sentence("there are no evaluations yet; junto eval run makes one", "soft"))
    return HTMLResponse(drawn(found))


def serve_page(names: Sequence[str], host: str, port: int, token: str | None, runs_root: Path) -> None:
    """Serves the page on ``host``. Raises UsageError for an address that others reach without a token, SetupError where
    a model cannot be loaded or the port is taken."""
    policy = replace(policy_of(host, token, Limits(requests=REQUESTS)), own_pages=True)
    with closing(bound_at(host, port)) as bound, opened(names, runs_root) as models:
        site = Site(answerers(models), Conversations(), Trainings(runs_root, Path.cwd()))
        app = build_app(site, policy)
        print(f"the page is at {address(host, bound)}. Ctrl-C ends it.", file=sys.stderr, flush=True)
        Server(config(app)).run(sockets=[bound])
