"""LangChain's messages as the engine's prompt."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

from agents.tool_calls import call_text, response_text

CALLS = ("tool_use", "tool_call", "invalid_tool_call")  # blocks of a content that stand in tool_calls as well


def as_prompt(messages: Iterable[BaseMessage], instructions: str = "") -> list[dict[str, str]]:
    """The messages with ``instructions`` at the end of the first system message, which is made where there is none.

    Results of tools are the user's, those that follow one another in one message. Raises ValueError for what is not
    text from system, human, AI or tool.
    """
    roles = {SystemMessage: "system", HumanMessage: "user", AIMessage: "assistant", ToolMessage: "user"}
    prompt: list[dict[str, str]] = []
    names: dict[str, str] = {}  # of tools, by the ids of their calls
    before: BaseMessage | None = None
    for message in messages:
        role = next((name for kind, name in roles.items() if isinstance(message, kind)), None)
        if role is None:
            raise ValueError(f"{type(message).__name__} is not supported yet; use system, human, AI and tool messages")
        if isinstance(message, AIMessage):
            names |= {call["id"]: call["name"] for call in message.tool_calls if call["id"]}
            text = "\n".join(part for part in (joined_text(_without_calls(message)), *call_text(message)) if part)
        else:
            text = joined_text(message.content)
        if isinstance(message, ToolMessage):
            text = response_text(message, text, message.name or names.get(message.tool_call_id))
            if isinstance(before, ToolMessage):
                prompt[-1]["content"] += f"\n{text}"
                continue
        prompt.append({"role": role, "content": text})
        before = message
    return instructed(prompt, instructions)


def instructed(prompt: list[dict[str, str]], instructions: str) -> list[dict[str, str]]:
    """``prompt`` with ``instructions`` at the end of its system message, which is made where there is none."""
    if instructions:
        if not prompt or prompt[0]["role"] != "system":
            prompt.insert(0, {"role": "system", "content": ""})
        prompt[0]["content"] = f"{prompt[0]['content']}\n\n{instructions}".strip()
    return prompt


def schema_instructions(schema: dict[str, Any]) -> str:
    """What the system message says where the reply has to be JSON of ``schema``."""
    return f"Reply with JSON of this schema and nothing else:\n{json.dumps(schema, ensure_ascii=False)}"


def joined_text(content: str | Sequence[Any] | None) -> str:
    """The text of a message's content: a string, or blocks ``{"type": "text", "text": ...}``."""
    if isinstance(content, str) or content is None:
        return content or ""
    for block in content:
        if not isinstance(block, str) and block.get("type") != "text":
            raise ValueError(f"content of type {block.get('type')!r} is not supported yet; send text only")
    return "".join(block if isinstance(block, str) else block["text"] for block in content)


def _without_calls(message: AIMessage) -> str | list[Any]:
    if isinstance(message.content, str):
        return message.content
    return [block for block in message.content if isinstance(block, str) or block.get("type") not in CALLS]
