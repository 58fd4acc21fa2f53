"""Replies in OpenAI's words: pure functions to JSON."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

DONE = b"data: [DONE]\n\n"

Json = dict[str, Any]


@dataclass
class Written:
    """One choice, as far as it is written. ``reasoning`` is what came before the answer."""

    content: str = ""
    reasoning: str = ""
    calls: list[Json] = field(default_factory=list)
    finish: str | None = None
    prompt_tokens: int = 0
    tokens: int = 0

    def take(self, delta: Mapping[str, Any]) -> None:
        """Adds what a delta says."""
        self.content += delta.get("content", "")
        self.reasoning += delta.get("reasoning_content", "")
        # calls come whole
        self.calls += [{k: v for k, v in call.items() if k != "index"} for call in delta.get("tool_calls", ())]


def head(model: str, kind: str) -> Json:
    return {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": model}


def usage(choices: Sequence[Written]) -> Json:
    """The prompt is read once for all choices."""
    read, written = max(one.prompt_tokens for one in choices), sum(one.tokens for one in choices)
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def completion(model: str, choices: Sequence[Written]) -> Json:
    return head(model, "chat.completion") | {
        "choices": [
            {"index": i, "message": _message(one), "logprobs": None, "finish_reason": one.finish}
            for i, one in enumerate(choices)
        ],
        "usage": usage(choices),
    }


def _message(one: Written) -> Json:
    message: Json = {"role": "assistant", "content": one.content, "refusal": None}
    if one.reasoning:
        message["reasoning_content"] = one.reasoning
    if one.calls:
        message |= {"tool_calls": one.calls, "content": one.content or None}
    return message


def chunk(about: Json, index: int, delta: Json, finish: str | None = None) -> Json:
    return about | {"choices": [{"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}]}


def as_event(data: Any) -> bytes:
    return b"data: " + orjson.dumps(data) + b"\n\n"


def model_entry(name: str, created: int) -> Json:
    return {"id": name, "object": "model", "created": created, "owned_by": "junto"}
