"""The real server, in this process on a free port, over a tiny random model and a run of it with a council."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
import yaml

from alignment.adapter_files import save_role
from alignment.backbone import Backbone
from alignment.config import BackboneConfig, LoraSettings
from graphs import chat
from graphs.server.app import build_app
from graphs.server.assistants import Assistant
from graphs.server.guard import Policy
from graphs.server.models import Model, opened
from graphs.server.serve import Server, config

# steps that random weights can write: two digits, then more to come or the end
TASK = """
from graphs.tasks.game24 import Options, check, load, prompt, validate_question
STEP = "[0-9]{2}"
"""


# a reply that random weights cannot end for long; a choice at every place, or the grammar would write it by itself
ENDLESS = {"type": "array", "items": {"enum": [1, 2]}, "minItems": 4000, "maxItems": 4000}


def endless(model: Model) -> Assistant:
    """A conversation whose replies go on until they are stopped."""

    def context(settings: Any, stop: threading.Event) -> chat.Context:
        return chat.Context(model.chat_model().bind(response_schema=ENDLESS, max_tokens=12000), cancelled=stop)

    return Assistant("endless", model.name, chat.build(), context)


@dataclass
class Site:
    """A server that runs, and where."""

    url: str
    database: Path
    models: Sequence[Model]
    app: Any
    server: Server

    def get(self, path: str, **settings: Any) -> httpx.Response:
        return httpx.get(self.url + path, timeout=60, **settings)

    def post(self, path: str, **settings: Any) -> httpx.Response:
        return httpx.post(self.url + path, timeout=60, **settings)


Serve = Callable[..., Any]


@contextmanager
def running(app: Any) -> Iterator[tuple[str, Server]]:
    """An application on a free port of this machine: its address, and its server."""
    server = Server(config(app))
    bound = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://127.0.0.1:{bound.getsockname()[1]}", server
    finally:
        server.handle_exit(0, None)
        thread.join(60)
        bound.close()
    assert not thread.is_alive()


@contextmanager
def served(
    models: Sequence[Model], folder: Path, policy: Policy | None = None, others: Sequence[Assistant] = ()
) -> Iterator[Site]:
    database = folder / "server.sqlite"
    app = build_app(models, database, policy or Policy(), [endless(models[0]), *others])
    with running(app) as (url, server):
        yield Site(url, database, models, app, server)


@pytest.fixture(scope="session")
def tiny_run(wide_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run ``tiny`` with all roles, random, and a council whose steps random weights can write."""
    run = tmp_path_factory.mktemp("served") / "runs" / "tiny"
    settings = {"model": str(wide_model), "quantization": "none", "compute_dtype": "float32", "lora": {"rank": 4}}
    backbone = Backbone(BackboneConfig(**settings | {"lora": LoraSettings(rank=4)}))
    for i, role in enumerate(("sft", "reward", "policy", "value")):
        backbone.add_role(role, seed=i)
        for parameter in backbone.parameters(role):
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(i))
        save_role(backbone, role, run / "adapters" / role)
    (run / "task.py").write_text(TASK)
    council = {"rounds": 2, "max_tokens_per_step": 12, "leave_below": None}
    recipe = {"name": "tiny", "task": "task.py", "backbone": settings, "council": council}
    (run / "config.yaml").write_text(yaml.safe_dump(recipe))
    return run


@pytest.fixture(scope="session")
def models(tiny_run: Path, wide_model: Path) -> Iterator[list[Model]]:
    """The run, and the model that it is of; in float32 on every machine, since in bfloat16 a text may take another turn
    where its beginning is there already."""
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:  # while they load alone, or it would hold for other tests
            patch.setattr("alignment.weights.multiplies_bfloat16", lambda: False)
            models = stack.enter_context(opened([str(tiny_run), str(wide_model)], tiny_run.parent))
        yield models


@pytest.fixture(scope="session")
def serve() -> Serve:
    return served


@pytest.fixture(scope="module")
def site(models: list[Model], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with served(models, tmp_path_factory.mktemp("site")) as site:
        yield site


def until(holds: Callable[[], bool]) -> None:
    while not holds():
        time.sleep(0.02)  # the test's own limit ends what never comes
