"""The models that are served: their names, and who answers under each of them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from agents.chat_model import ChatModel
from agents.config import WRITERS
from agents.server import is_address
from alignment.engine import Engine
from alignment.errors import JuntoError, UsageError
from alignment.run_dir import RunDir
from graphs.recipe import load_recipe, load_task
from graphs.server.refusals import Refusal
from graphs.sitting import calibration_of, seat
from graphs.tools import tools_of
from graphs.turns import Context as Council

REPLY_TOKENS = 512  # where the client sets no limit
COUNCIL = "council"

# thread, seed, tokens of all experts, and what a person decides on beside what the recipe says (None: there is nobody)
Seated = Callable[[str, int | None, int | None, list[str] | None], Council]


@dataclass(frozen=True)
class Model:
    """``council`` seats that of the run, where the model is a run that has one; ``created`` in seconds since 1970."""

    name: str
    engine: Engine
    council: Seated | None = None
    created: int = 0
    run: RunDir | None = None

    @property
    def roles(self) -> list[str]:
        """Those that write."""
        return [role for role in WRITERS if role in self.engine.roles]

    @property
    def reply_tokens(self) -> int:
        """What a reply may have where nobody says: with a small window a quarter of it, for the conversation."""
        tokens = self.engine.window
        return REPLY_TOKENS if tokens is None else min(REPLY_TOKENS, max(1, tokens // 4))

    def chat_model(self, role: str | None = None) -> ChatModel:
        return ChatModel(engine=self.engine, role=role or self.roles[0], max_tokens=self.reply_tokens)


@dataclass(frozen=True)
class Answerer:
    """Who answers under a name: a role of a model, or its council."""

    name: str
    model: Model
    role: str

    @property
    def council(self) -> Seated | None:
        return self.model.council if self.role == COUNCIL else None


def answerers(models: Sequence[Model]) -> dict[str, Answerer]:
    """All names: each model's own, which is its first role's, and ``name:role`` and ``name:council``."""
    found = {}
    for model in models:
        found[model.name] = Answerer(model.name, model, model.roles[0])
        for role in [*model.roles, *([COUNCIL] if model.council else [])]:
            name = f"{model.name}:{role}"
            found[name] = Answerer(name, model, role)
    return found


def answerer(names: dict[str, Answerer], name: str) -> Answerer:
    """Raises Refusal (404) with the names that there are."""
    if name not in names:
        there = ", ".join(list(names)[:8])
        raise Refusal(404, f"there is no model {name[:80]!r}; there is {there}", "model", "model_not_found")
    return names[name]


@contextmanager
def opened(names: Sequence[str], runs_root: Path) -> Iterator[list[Model]]:
    """The models, loaded. Raises UsageError for one that is not to be served, SetupError for one that cannot."""
    with ExitStack() as stack:
        models: list[Model] = []
        for given in names:
            if is_address(given):
                raise UsageError(f"{given} is a server already; serve a run, a folder, a hub id or embedded")
            run, folder = RunDir.find(given, runs_root), Path(given)
            name = run.path.resolve().name if run else folder.resolve().name if folder.is_dir() else given
            if any(model.name == name for model in models):
                raise UsageError(f"two models are called {name}; serve one of them, or rename its folder")
            engine = stack.enter_context(Engine.open(run.path if run else given, runs_root=runs_root))
            models.append(Model(name, engine, council_of(run, engine) if run else None, int(time.time()), run))
        yield models


def council_of(run: RunDir, engine: Engine) -> Seated | None:
    """Seats the council of a run; None, and a note, where it has none that can sit."""
    try:
        recipe, calibration = load_recipe(run.path / "config.yaml"), calibration_of(run)
        task = load_task(recipe.task, run.path)
        tools = tools_of(recipe.council, False)
        seat(engine, task, recipe, "serve", calibration, tools)  # says now what is missing
    except JuntoError as error:
        print(f"note: {run.path.name} is served without a council: {error}", file=sys.stderr, flush=True)
        return None

    def seated(thread: str, seed: int | None, tokens: int | None, asks: list[str] | None) -> Council:
        before = None if asks is None else [*recipe.council.ask_before, *asks]
        changes = {"seed": seed, "max_total_tokens": tokens, "ask_before": before}
        given = {key: value for key, value in changes.items() if value is not None}
        changed = recipe.model_copy(update={"council": recipe.council.model_copy(update=given)})
        return seat(engine, task, changed, thread, calibration, tools, asks is not None)

    return seated
