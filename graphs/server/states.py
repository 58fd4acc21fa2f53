"""States of graphs and their events as JSON, in the words of LangGraph's server: pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import orjson
from langchain_core.messages import AIMessageChunk, BaseMessage, message_chunk_to_message
from langgraph.types import Interrupt, StateSnapshot
from pydantic import BaseModel

Json = dict[str, Any]


def dumped(value: Any) -> bytes:
    """JSON of whatever a graph's state or event may hold; what has no JSON is told by its words."""
    return orjson.dumps(value, _plain, orjson.OPT_NON_STR_KEYS | orjson.OPT_PASSTHROUGH_DATACLASS)


def plain(value: Any) -> Any:
    """The same as data of Python's own kinds."""
    return orjson.loads(dumped(value))


def _plain(value: Any) -> Any:
    if isinstance(value, Interrupt):
        return interrupt_of(value)
    if isinstance(value, StateSnapshot):
        return thread_state(value)
    if isinstance(value, BaseModel):
        return value.model_dump()
    if is_dataclass(value):
        return {one.name: getattr(value, one.name) for one in fields(value)}
    if isinstance(value, BaseException):
        return f"{type(value).__name__}: {value}"
    if isinstance(value, tuple | set | frozenset):
        return list(value)
    if isinstance(value, Mapping):
        return dict(value)
    return str(value)


def interrupt_of(one: Interrupt) -> Json:
    schema = {"response_schema": one.response_schema} if isinstance(one.response_schema, dict) else {}
    return {"value": one.value, "id": one.id} | schema


def checkpoint_of(config: Any) -> Json | None:
    if not config:
        return None
    own = config["configurable"]
    return {key: own.get(key) for key in ("thread_id", "checkpoint_ns", "checkpoint_id")}


def thread_state(found: StateSnapshot) -> Json:
    checkpoint, parent = checkpoint_of(found.config) or {}, checkpoint_of(found.parent_config)
    return {
        "values": found.values,
        "next": list(found.next),
        "tasks": [
            {
                "id": task.id,
                "name": task.name,
                "path": list(task.path),
                "error": task.error,
                "interrupts": [interrupt_of(one) for one in task.interrupts],
                "checkpoint": checkpoint_of(task.state) if isinstance(task.state, dict) else None,
                "state": thread_state(task.state) if isinstance(task.state, StateSnapshot) else None,
                "result": task.result,
            }
            for task in found.tasks
        ],
        "metadata": found.metadata,
        "created_at": found.created_at,
        "checkpoint": checkpoint,
        "parent_checkpoint": parent,
        "interrupts": [interrupt_of(one) for one in found.interrupts],
        "checkpoint_id": checkpoint.get("checkpoint_id"),
        "parent_checkpoint_id": parent and parent["checkpoint_id"],
    }


def selected(state: Json, names: Sequence[str] | None) -> Json:
    """Some fields of a state; ``values.KEY`` is one key of its values."""
    if not names:
        return state
    kept = {name: state[name] for name in names if name in state}
    keys = [name.removeprefix("values.") for name in names if name.startswith("values.")]
    if keys and "values" not in kept:
        kept["values"] = {key: state["values"][key] for key in keys if key in state["values"]}
    return kept


def summary_of(found: StateSnapshot) -> Json:
    """What a thread's record says of its state."""
    return {
        "values": plain(found.values),
        "interrupts": plain({task.id: list(task.interrupts) for task in found.tasks if task.interrupts}),
        "status": "interrupted" if found.next else "idle",
    }


class Partial:
    """Messages of the stream mode ``messages``, which tells each one as far as it is written."""

    def __init__(self) -> None:
        self._known: dict[str, BaseMessage] = {}

    def events(self, piece: BaseMessage, about: Any) -> list[tuple[str, Any]]:
        name = str(piece.id)
        before = self._known.get(name)
        whole = piece
        if isinstance(piece, AIMessageChunk) and isinstance(before, AIMessageChunk):
            whole = before + piece
        self._known[name] = whole
        first = [] if before is not None else [("messages/metadata", {name: {"metadata": about}})]
        done = not isinstance(piece, AIMessageChunk)
        told = whole if done else message_chunk_to_message(whole)
        return [*first, ("messages/complete" if done else "messages/partial", [told])]


def sse(name: str, data: bytes, number: int) -> bytes:
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (number, name.encode(), data)
