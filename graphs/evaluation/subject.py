"""Who is evaluated: a model, a role of a run, a run's council, or a model behind a server."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.config import WRITERS
from agents.endpoint import Endpoint
from agents.server import is_address
from alignment.engine import Engine
from alignment.errors import SetupError, UsageError
from alignment.run_dir import RunDir
from graphs.recipe import load_recipe, load_task
from graphs.sitting import calibration_of, seat, sit
from graphs.tools import tools_of

COUNCIL = "council"
ROLES = ("base", "sft", "policy", COUNCIL)

Sit = Callable[[str, int], dict[str, Any]]  # question and seed -> the result of a sitting


@dataclass(frozen=True)
class Subject:
    """``name`` as it was asked for; ``role`` writes and is read; ``about`` is what decides its answers; ``sit`` where
    it is a council."""

    name: str
    engine: Engine | Endpoint
    role: str
    about: dict[str, Any]
    sit: Sit | None = None

    @property
    def here(self) -> Engine:
        """The engine, where the model is in this process. Raises SetupError for one behind a server."""
        if isinstance(self.engine, Engine):
            return self.engine
        raise SetupError(f"{self.name} is behind a server, which only writes; load the model here to have texts read")

    @property
    def words(self) -> str:
        """The name as part of a folder's."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")[-48:].strip("-")


def parted(name: str) -> tuple[str, str | None]:
    """The model and the role of ``model:role``; an address, which has colons of its own, has none."""
    model, _, role = name.rpartition(":")
    return (model, role) if model and role in ROLES and not is_address(name) else (name, None)


@contextmanager
def opened(names: list[str], runs_root: Path) -> Iterator[Callable[[str], Subject]]:
    """Inside, a function from a name to its subject. A model is loaded when it is first asked for, stays as long as the
    next name is of the same one, and all are closed in the end. Raises UsageError for a name twice."""
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"{twice} is named twice")
    held: list[tuple[str, Engine | Endpoint]] = []

    def subject(name: str) -> Subject:
        model, role = parted(name)
        if held and held[0][0] != model:
            held.pop()[1].close()
        if not held:
            engine = Endpoint.open(model) if is_address(model) else Engine.open(model, runs_root=runs_root)
            held.append((model, engine))
            if isinstance(engine, Engine):
                _refuse_absent(model, [parted(other)[1] for other in names if parted(other)[0] == model], engine)
        return _subject(name, model, role, held[0][1], runs_root)

    try:
        yield subject
    finally:
        for _, engine in held:
            engine.close()


def _subject(name: str, model: str, role: str | None, engine: Engine | Endpoint, runs_root: Path) -> Subject:
    if isinstance(engine, Endpoint):
        return Subject(name, engine, "base", {"server": engine.server.url, "model": engine.server.model})
    if role == COUNCIL:
        return _council(name, model, engine, runs_root)
    role = role or next(one for one in WRITERS if one in engine.roles)
    return Subject(name, engine, role, about(engine, role))


def _refuse_absent(model: str, roles: list[str | None], engine: Engine) -> None:
    """Raises SetupError for a role that the model has not, before another one is evaluated for an hour."""
    for role in roles:
        if role not in (None, COUNCIL, *engine.roles):
            raise SetupError(f"{model} has no role {role!r}; it has {', '.join(engine.roles)}")


def about(engine: Engine, *roles: str) -> dict[str, Any]:
    """What decides the answers of some roles: other roles of the same run may be trained further."""
    whole = engine.fingerprint
    return whole | {
        "adapters": {role: whole["adapters"][role] for role in roles if role != "base"},
        "scales": {role: whole["scales"][role] for role in roles if role in whole["scales"]},
    }


def _council(name: str, model: str, engine: Engine, runs_root: Path) -> Subject:
    run = RunDir.find(model, runs_root)
    if run is None:
        raise UsageError(f"{model} is no run, and only a run has a council of its own")
    recipe, calibration = load_recipe(run.path / "config.yaml"), calibration_of(run)
    task, tools = load_task(recipe.task, run.path), tools_of(recipe.council, False)

    def sitting(question: str, seed: int) -> dict[str, Any]:
        council = recipe.council.model_copy(update={"seed": recipe.council.seed + seed})
        changed = recipe.model_copy(update={"council": council})
        context = seat(engine, task, changed, f"evaluation/{question}", calibration, tools)
        return sit(context, question, lambda event: None, Path(":memory:"), None)

    seat(engine, task, recipe, "evaluation", calibration, tools)  # says what is missing before anything is asked
    # without defaults, so that a new setting does not make another council of this one
    council = recipe.council.model_dump(mode="json", exclude_defaults=True)
    settings = {"task": recipe.task, "council": council, "calibration": calibration}
    return Subject(name, engine, COUNCIL, engine.fingerprint | settings, sitting)
