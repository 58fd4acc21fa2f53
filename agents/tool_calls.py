"""Tool calls as text: how the tools stand in the prompt, and how calls are read from what the model writes.

The text is ours, because many chat templates ignore tools: a call is ``<tool_call>{"name": ..., "arguments":
{...}}</tool_call>``, its result ``<tool_response>{"name": ..., "content": ...}</tool_response>`` (the format of the
Hermes and Qwen models).
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import ToolCallChunk, invalid_tool_call, tool_call, tool_call_chunk
from langchain_core.utils.function_calling import convert_to_openai_tool

from alignment.engine import Completion
from alignment.errors import UsageError

OPEN, CLOSE = "<tool_call>", "</tool_call>"
# to the first end that does not stand in a JSON string
BODY = re.compile(rf'((?:"(?:[^"\\]|\\.)*"|[^"])*?){re.escape(CLOSE)}', re.DOTALL)

Tool = dict[str, Any]  # in OpenAI's format
Part = str | dict[str, Any]  # of a reply: text, or LangChain's ToolCall or InvalidToolCall


def openai_tools(tools: Sequence[Any]) -> list[Tool]:
    """Tools of any kind that LangChain knows in OpenAI's format. Raises ValueError for what is no tool, UsageError for
    one that runs on OpenAI's own servers."""
    known = [convert_to_openai_tool(tool) for tool in tools]
    for tool in known:
        if "function" not in tool:
            raise UsageError(f"the tool {tool.get('type')!r} has no function that could be called here; leave it out")
    return known


def forced(tools: Sequence[Tool], tool_choice: str | bool | dict[str, Any] | None) -> list[Tool]:
    """The tools of which the reply must call one; none where the model is free.

    ``tool_choice``: "auto", "none", None and False leave it free; "any", "required" and True ask for any tool; a
    name, or OpenAI's ``{"type": "function", "function": {"name": ...}}``, asks for that one. Raises UsageError for a
    name that no tool has.
    """
    if tool_choice in (None, False, "auto", "none"):
        return []
    if tool_choice in (True, "any", "required"):
        found = list(tools)
    else:
        name = tool_choice["function"]["name"] if isinstance(tool_choice, dict) else tool_choice
        found = [tool for tool in tools if tool["function"]["name"] == name]
    if not found:
        names = ", ".join(tool["function"]["name"] for tool in tools)
        raise UsageError(f"tool_choice {tool_choice!r} fits no tool; there is {names or 'none'}")
    return found


def instructions(tools: Sequence[Tool], must: Sequence[Tool] = ()) -> str:
    """What the system message says about ``tools``, of which the reply has to call one of ``must``."""
    lines = ["You can call these tools, each given with the JSON schema of its arguments:"]
    lines += [_json({k: v for k, v in tool["function"].items() if k != "strict"}) for tool in tools]
    lines.append(f'To call a tool, write {OPEN}{{"name": ..., "arguments": {{...}}}}{CLOSE}')
    if must:
        lines.append(f"Now call {' or '.join(tool['function']['name'] for tool in must)}.")
    return "\n".join(lines)


def call_text(message: AIMessage) -> list[str]:
    """The calls of a message, as the model writes them; malformed ones as they were written."""
    calls = [OPEN + _json({"name": c["name"], "arguments": c["args"]}) + CLOSE for c in message.tool_calls]
    return calls + [c["args"] for c in message.invalid_tool_calls if c["args"]]


def response_text(message: ToolMessage, text: str, name: str | None) -> str:
    """A tool's result ``text``. Raises nothing for a result of which no call is known: it has no name then."""
    response = {"name": name} if name else {}
    if message.status == "error":
        response["status"] = "error"
    return "<tool_response>" + _json(response | {"content": text}) + "</tool_response>"


def split_calls(text: str, ended: bool = True) -> tuple[list[Part], str]:
    """The parts of a reply, and the end of the text of which only more text can tell what it is.

    Where the text has ``ended`` nothing is left: a call whose end is missing counts if its JSON is complete. Never
    gives empty text. What the parts are does not depend on how a text is divided over time.
    """
    parts: list[Part] = []
    while text:
        before, found, after = text.partition(OPEN)
        if not found:
            back = 0 if ended else max((n for n in range(1, len(OPEN)) if text.endswith(OPEN[:n])), default=0)
            ready, text = text[: len(text) - back], text[len(text) - back :]
            return parts + ([ready] if ready else []), text
        if before:
            parts.append(before)
        if match := BODY.match(after):
            body, text = match[1], after[match.end() :]
        elif not ended:
            return parts, found + after
        else:  # a string in it never closes, or there is no end
            body, closed, text = after.partition(CLOSE)
        parts.append(read_call(body))
    return parts, ""


def read_call(body: str) -> dict[str, Any]:
    """A call from what stands between its tags; an invalid one where that is not an object with a ``name`` and with
    ``arguments`` that are an object."""
    number = f"call_{uuid.uuid4().hex[:24]}"
    try:
        call = json.loads(body)
        name, args = call["name"], call.get("arguments", {})
        if not isinstance(name, str) or not isinstance(args, dict):
            raise ValueError("name is no string, or arguments is no object")
        json.dumps(call, ensure_ascii=False).encode()  # half a surrogate pair is JSON, but no text
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        # with its tags: a stream is parsed by LangChain, which would repair what looks like half an object
        return invalid_tool_call(args=OPEN + body + CLOSE, id=number, error=f"no call of a tool: {error}")
    return tool_call(name=name, args=args, id=number)


def call_pieces(pieces: Iterable[str | Completion]) -> Iterator[Part | Completion]:
    """``split_calls`` of a stream that ends in a completion."""
    held = ""
    for piece in pieces:
        ended = isinstance(piece, Completion)
        parts, held = split_calls(held if isinstance(piece, Completion) else held + piece, ended)
        yield from parts
        if isinstance(piece, Completion):
            yield piece


def is_call(part: Part) -> bool:
    """Whether a part is a call that can be carried out."""
    return not isinstance(part, str) and part["type"] == "tool_call"


def as_message(parts: Sequence[Part], usage: UsageMetadata, metadata: dict[str, Any]) -> AIMessage:
    calls = [part for part in parts if not isinstance(part, str)]
    return AIMessage(
        "".join(part for part in parts if isinstance(part, str)),
        tool_calls=[call for call in calls if call["type"] == "tool_call"],
        invalid_tool_calls=[call for call in calls if call["type"] != "tool_call"],
        usage_metadata=usage,
        response_metadata=metadata,
    )


def as_chunk(call: dict[str, Any], index: int) -> ToolCallChunk:
    """A whole call as the chunk of a stream."""
    args = call["args"] if isinstance(call["args"], str) else json.dumps(call["args"], ensure_ascii=False)
    return tool_call_chunk(name=call["name"], args=args, id=call["id"], index=index)


def _json(value: Any) -> str:
    # "</" in a string could end what it stands in; "<\/" is the same to a reader of JSON
    return json.dumps(value, ensure_ascii=False).replace("</", "<\\/")
