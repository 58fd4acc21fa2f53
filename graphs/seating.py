"""A council without a run: any model takes the seats, here or behind a server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agents.chat_model import WRITERS
from agents.config import CouncilConfig
from agents.endpoint import Endpoint
from agents.server import is_address
from alignment.embedded import cache_dir
from alignment.engine import Engine
from alignment.scoring import function_scorer
from graphs.council import Context, Event, sit
from graphs.modules import load_function
from graphs.recipe import Recipe, load_task


def seat_model(
    model: str, recipe: Recipe, question: str, on_event: Callable[[Event], None], thread: str | None
) -> dict[str, Any]:
    """``junto run council --model``: sits the recipe's council on ``model`` (an address, a hub id, a folder or
    ``embedded``) and returns the result. Lines are scored by the recipe's reward function; without one the vote is of
    the majority. Raises JuntoError where the model cannot be had.
    """
    task = load_task(recipe.task)
    question = task.validate_question(question)
    threads = cache_dir() / "councils.sqlite"
    threads.parent.mkdir(parents=True, exist_ok=True)
    threads.touch(mode=0o600)  # what people ask is theirs
    score = None
    if recipe.reward.function is not None:
        found = load_function(recipe.reward.function)
        score = function_scorer(found.call, found.name)
    opened: Endpoint | Engine = Endpoint.open(model) if is_address(model) else Engine.open(model)
    with opened as engine:
        role = next(role for role in WRITERS if role in engine.roles)
        system = recipe.data.get("system", "")
        council = seats(recipe.council, role, system, task.STEP)
        context = Context(engine, task, council, thread or question, system, score)
        return sit(context, question, on_event, threads, thread)


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
