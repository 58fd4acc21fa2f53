"""Assistants: a graph, and the model that it runs with. Their ids are the same after every start."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from langgraph.graph import StateGraph

from graphs import chat
from graphs.server import council_thread
from graphs.server.models import Model
from graphs.server.refusals import Refusal

NAMESPACE = uuid.UUID("5d1c8c1e-4f5e-5d0b-9c55-5a1f6f0b7a10")

Json = dict[str, Any]
MakeContext = Callable[[Mapping[str, Any], threading.Event], Any]  # settings, what ends it early -> the graph's context


@dataclass(frozen=True)
class Assistant:
    """``builder`` without a checkpointer; ``settings`` is the JSON schema of what a run's ``context`` may set."""

    graph_id: str
    name: str
    builder: StateGraph
    context: MakeContext
    description: str = ""
    settings: Json = field(default_factory=dict)
    created: int = 0

    @property
    def assistant_id(self) -> str:
        return str(uuid.uuid5(NAMESPACE, f"{self.graph_id}/{self.name}"))

    def entry(self) -> Json:
        created = datetime.fromtimestamp(self.created, UTC).isoformat()
        return {
            "assistant_id": self.assistant_id,
            "graph_id": self.graph_id,
            "name": self.name,
            "description": self.description,
            "config": {},
            "context": {},
            "metadata": {"created_by": "system"},
            "version": 1,
            "created_at": created,
            "updated_at": created,
        }


def assistants_of(models: Sequence[Model]) -> list[Assistant]:
    """``chat`` for every model, ``council`` for every one that has one."""
    found = []
    for model in models:
        found.append(_chat(model))
        if model.council is not None:
            found.append(_council(model))
    return found


def _chat(model: Model) -> Assistant:
    settings = {
        "role": {"enum": model.roles},
        "temperature": {"type": "number", "minimum": 0, "maximum": 2},
        "max_tokens": {"type": "integer", "minimum": 1},
        "seed": {"type": "integer"},
    }

    def context(given: Mapping[str, Any], stop: threading.Event) -> chat.Context:
        answers = model.chat_model(given.get("role"))
        answers = answers.model_copy(update={key: value for key, value in given.items() if key != "role"})
        return chat.Context(answers, answers.window, cancelled=stop)

    described = f"a conversation with {model.name}"
    return Assistant("chat", model.name, chat.build(), context, described, settings, model.created)


def _council(model: Model) -> Assistant:
    seated = model.council
    assert seated is not None  # those without one have no such assistant

    def context(given: Mapping[str, Any], stop: threading.Event) -> Any:
        asks = [given["ask_before"]] if "ask_before" in given else []
        return seated("thread", given.get("seed"), given.get("max_total_tokens"), asks)

    settings = {
        "seed": {"type": "integer", "minimum": 0},
        "max_total_tokens": {"type": "integer", "minimum": 1},
        "ask_before": {"enum": ["conclude", "tool"]},
    }
    described = f"the council of {model.name}: experts reason in steps, and vote"
    return Assistant("council", model.name, council_thread.build(), context, described, settings, model.created)


def checked(settings: Json, given: Mapping[str, Any]) -> Json:
    """What a run sets of its ``context``. Raises Refusal (422) for what is not there to be set, or out of bounds."""
    for name, value in given.items():
        if name not in settings:
            there = ", ".join(settings) or "nothing"
            raise Refusal(422, f"context has no {name[:40]!r} to set; there is {there}")
        wanted = settings[name]
        kinds: dict[str | None, Any] = {"integer": int, "number": int | float, None: object}
        fits = isinstance(value, kinds[wanted.get("type")]) and not isinstance(value, bool)
        if fits and "enum" in wanted:
            fits = value in wanted["enum"]
        if fits and "type" in wanted:
            fits = wanted.get("minimum", value) <= value <= wanted.get("maximum", value)
        if not fits:
            bounds = ", ".join(f"{key} {value}" for key, value in wanted.items())
            raise Refusal(422, f"context.{name} does not fit ({bounds})")
    return dict(given)


def assistant(known: Sequence[Assistant], name: Any) -> Assistant:
    """The one of that id, or the first of that graph or of that name. Raises Refusal (404)."""
    for key in ("assistant_id", "graph_id", "name"):
        for one in known:
            if getattr(one, key) == name:
                return one
    there = ", ".join(dict.fromkeys(one.graph_id for one in known))
    raise Refusal(404, f"there is no assistant {str(name)[:80]!r}; there is {there}")
