"""What a client asks for in OpenAI's words, checked: pure functions on JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from langchain_core.messages import BaseMessage
from langchain_core.messages.utils import convert_to_messages

from graphs.server.refusals import Refusal

MAX_CHOICES = 8
ROLES = ("system", "developer", "user", "assistant", "tool")
# what would change the reply and cannot be honoured, by the values that ask for nothing
REFUSED: dict[str, tuple[Any, ...]] = {
    "logprobs": (False,),
    "top_logprobs": (0,),
    "top_p": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "functions": ([],),
    "function_call": ("none",),
    "modalities": (["text"],),
    "audio": (),
    "web_search_options": (),
}


@dataclass(frozen=True)
class Ask:
    """``settings`` are those of one call of the chat model; what is not asked for is not there."""

    model: str
    messages: list[BaseMessage]
    stream: bool = False
    include_usage: bool = False
    n: int = 1
    settings: dict[str, Any] = field(default_factory=dict)


def parsed_json(body: bytes) -> dict[str, Any]:
    """Raises Refusal (400) for what is no JSON object, or has half a surrogate pair, which is no text."""
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Refusal(400, f"the body is no JSON: {str(error).splitlines()[0]}") from None
    if not isinstance(found, dict):
        raise Refusal(400, "the body is no JSON object; send one, in braces")
    return found


def ask_of(body: Mapping[str, Any]) -> Ask:
    """Raises Refusal (400) that names the field which is wrong or cannot be honoured."""
    for name, nothing in REFUSED.items():
        if body.get(name) is not None and body[name] not in nothing:
            raise Refusal(400, f"{name} cannot be honoured by this server; leave it out", name, "unsupported_parameter")
    options = _object(body, "stream_options") or {}
    settings = {
        "temperature": _number(body, "temperature", 0, 2),
        "max_tokens": _limit(body),
        "seed": _integer(body, "seed", -(2**63), 2**63 - 1),
        "stop": _stops(body),
        "response_schema": _schema(_object(body, "response_format")),
        **_tools(body),
    }
    return Ask(
        model=_text(body, "model"),
        messages=_messages(body),
        stream=_flag(body, "stream"),
        include_usage=_flag(options, "include_usage"),
        n=_integer(body, "n", 1, MAX_CHOICES) or 1,
        settings={name: value for name, value in settings.items() if value is not None},
    )


def _wrong(name: str, wanted: str) -> Refusal:
    return Refusal(400, f"{name} has to be {wanted}", name, "invalid_value")


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise _wrong(name, "a text that is not empty")
    return value


def _flag(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise _wrong(name, "true or false")
    return bool(value)


def _object(body: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    value = body.get(name)
    if value is not None and not isinstance(value, dict):
        raise _wrong(name, "an object")
    return value


def _number(body: Mapping[str, Any], name: str, low: float, high: float) -> float | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise _wrong(name, f"a number from {low} to {high}")
    return float(value)


def _integer(body: Mapping[str, Any], name: str, low: int, high: int) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise _wrong(name, f"a whole number from {low} to {high}")
    return value


def _limit(body: Mapping[str, Any]) -> int | None:
    limits = [_integer(body, name, 1, 2**31) for name in ("max_completion_tokens", "max_tokens")]
    return min((limit for limit in limits if limit is not None), default=None)


def _stops(body: Mapping[str, Any]) -> list[str] | None:
    value = body.get("stop")
    stops = [value] if isinstance(value, str) else value
    if stops is None:
        return None
    if not isinstance(stops, list) or len(stops) > 16 or not all(isinstance(stop, str) and stop for stop in stops):
        raise _wrong("stop", "a text, or a list of at most 16, none of them empty")
    return stops


def _schema(asked: dict[str, Any] | None) -> dict[str, Any] | None:
    kind = (asked or {}).get("type", "text")
    if asked is None or kind == "text":
        return None
    if kind == "json_object":
        return {"type": "object"}
    named = asked.get("json_schema")
    schema = named.get("schema") if isinstance(named, dict) else None
    if kind != "json_schema" or not isinstance(schema, dict):
        wanted = 'text, json_object, or {"type": "json_schema", "json_schema": {"name": ..., "schema": {...}}}'
        raise _wrong("response_format", wanted)
    return schema


def _tools(body: Mapping[str, Any]) -> dict[str, Any]:
    tools = body.get("tools")
    if not tools:
        return {}
    if not isinstance(tools, list) or not all(
        isinstance(tool, dict)
        and tool.get("type") == "function"
        and isinstance(function := tool.get("function"), dict)
        and isinstance(function.get("name"), str)
        and isinstance(function.get("parameters") or {}, dict)
        for tool in tools
    ):
        raise _wrong("tools", 'a list of {"type": "function", "function": {"name": ..., "parameters": {...}}}')
    choice = body.get("tool_choice")
    named = isinstance(choice, dict) and isinstance(choice.get("function"), dict) and "name" in choice["function"]
    if not (named or choice in (None, "none", "auto", "required")):
        raise _wrong("tool_choice", 'none, auto, required, or {"type": "function", "function": {"name": ...}}')
    if body.get("parallel_tool_calls") is False:
        raise _wrong("parallel_tool_calls", "left out: how many calls a reply has is the model's choice")
    return {"tools": tools, "tool_choice": choice}


def _messages(body: Mapping[str, Any]) -> list[BaseMessage]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise _wrong("messages", "a list of messages, at least one")
    try:
        return convert_to_messages([_message(message, f"messages[{i}]") for i, message in enumerate(messages)])
    except Refusal:
        raise
    except (ValueError, KeyError, TypeError, NotImplementedError, AttributeError) as error:
        raise Refusal(400, f"a message is malformed: {str(error).splitlines()[0][:200]}", "messages") from None


def _message(message: Any, at: str) -> dict[str, Any]:
    """The parts of a message that are read; others change nothing."""
    if not isinstance(message, dict) or message.get("role") not in ROLES:
        raise _wrong(f"{at}.role", ", ".join(ROLES))
    content = message.get("content")
    if isinstance(content, list):
        for block in content:
            if not isinstance(block, dict) or block.get("type") != "text" or not isinstance(block.get("text"), str):
                raise _wrong(f"{at}.content", 'text, or blocks {"type": "text", "text": ...}; nothing else is read')
    elif not isinstance(content, str) and not (content is None and message["role"] == "assistant"):
        raise _wrong(f"{at}.content", "a text")
    kept = {"role": message["role"], "content": content if content is not None else ""}
    for name in ("name", "tool_call_id"):
        if isinstance(message.get(name), str):
            kept[name] = message[name]
    if message["role"] == "assistant" and message.get("tool_calls"):
        kept["tool_calls"] = message["tool_calls"]
    return kept
