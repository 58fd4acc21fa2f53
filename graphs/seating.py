"""A council without a run: any model takes the seats, here or behind a server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agents.config import WRITERS, CouncilConfig
from agents.endpoint import Endpoint
from agents.server import is_address
from alignment.embedded import cache_dir
from alignment.engine import Engine
from alignment.errors import UsageError
from graphs.asking import OnAsk
from graphs.recipe import Recipe, load_task
from graphs.sitting import seat, sit_asking
from graphs.tools import tools_of


def seat_model(
    model: str,
    recipe: Recipe,
    question: str,
    on_event: Callable[[dict[str, Any]], None],
    thread: str | None,
    allow_code: bool = False,
    on_ask: OnAsk | None = None,
) -> dict[str, Any]:
    """``junto run council --model``: sits the recipe's council on ``model`` (an address, a hub id, a folder or
    ``embedded``) and returns the result. Lines are scored by the recipe's reward function; without one the vote is of
    the majority. Raises JuntoError where the model cannot be had.
    """
    if recipe.council.ask_before and on_ask is None:
        raise UsageError("council.ask_before asks a person, and there is no terminal; leave it out, or name a --run")
    task = load_task(recipe.task)
    question = task.validate_question(question)
    tools = tools_of(recipe.council, allow_code)
    threads = cache_dir() / "councils.sqlite"
    threads.parent.mkdir(parents=True, exist_ok=True)
    threads.touch(mode=0o600)  # what people ask is theirs
    opened: Endpoint | Engine = Endpoint.open(model) if is_address(model) else Engine.open(model)
    with opened as engine:
        role = next(role for role in WRITERS if role in engine.roles)
        council = seats(recipe.council, role, recipe.data.get("system", ""), task.STEP)
        seated = recipe.model_copy(update={"council": council})
        context = seat(engine, task, seated, thread or question, tools=tools, asks=True)
        return sit_asking(context, question, on_event, threads, thread, on_ask)


def seats(council: CouncilConfig, role: str, system: str, step: str | None) -> CouncilConfig:
    """The council with every expert in ``role``, and told how a line is written: nobody has trained it."""
    experts = [
        e.model_copy(update={"role": role, "persona": f"{e.persona or system} {rules(step)}".strip()})
        for e in council.experts
    ]
    return council.model_copy(update={"experts": experts})


def rules(step: str | None) -> str:
    """What a council relies on in its experts' lines, in words."""
    form = f" Every step matches the regular expression {step}" if step else ""
    return (
        "Reason in steps, one step a line, without numbering and without any other text."
        f"{form}\nEnd after the step that reaches the goal. If the steps so far cannot reach it, write one line "
        "instead that begins with LEAVE: and says why."
    )
