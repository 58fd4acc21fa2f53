"""The engine as a smolagents model: text, one native tool call, JSON of a schema, streams."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from smolagents import ChatMessage, ChatMessageStreamDelta, MessageRole, Model, Tool
from smolagents.models import (
    ChatMessageToolCall,
    ChatMessageToolCallFunction,
    ChatMessageToolCallStreamDelta,
    get_tool_json_schema,
    tool_role_conversions,
)
from smolagents.monitoring import TokenUsage

from agents.chat_model import cut, cut_pieces, pieces, task, writer
from agents.json_grammar import MAX_STRING, call_grammar, json_grammar
from agents.prompt import instructed, joined_text
from agents.tool_calls import CLOSE, OPEN, is_call, read_call
from alignment.engine import Completion, Engine, Request
from alignment.errors import UsageError


class EngineModel(Model):
    """A role of ``engine`` for smolagents. ``seed`` None draws a new random stream for every call.

    The sampling settings can be given for one call too. Where there are tools to call, the reply is one call of one of
    them; where there is a ``response_format`` of type json_schema, it is JSON of that schema. Both are enforced by a
    grammar while the reply is written, with the bounds of ``agents.json_grammar``; only ``max_tokens`` can cut such a
    reply short. Where the last message is an assistant's, the reply goes on from its end, on a new line. A reply ends
    where the model's window ends.
    """

    def __init__(
        self,
        engine: Engine,
        role: str | None = None,
        temperature: float = 0.7,
        max_tokens: int = MAX_STRING + 100,  # a call with one longest string fits, also where it is of digits
        seed: int | str | None = None,
    ) -> None:
        # keywords of Model.__init__ would win over those of a call, so the sampling settings stay out of it
        super().__init__(model_id=engine.backbone.config.model)
        self.engine = engine
        self.role = role or writer(engine)
        self.temperature = temperature
        self.max_tokens = max_tokens
        self.seed = seed

    def generate(
        self,
        messages: list[ChatMessage | dict[str, Any]],
        stop_sequences: list[str] | None = None,
        response_format: dict[str, Any] | None = None,
        tools_to_call_from: list[Tool] | None = None,
        **kwargs: Any,
    ) -> ChatMessage:
        """One assistant message, with ``token_usage``. A stop sequence is cut from free text; a reply that a grammar
        ends is not stopped by one. ``tool_calls`` is None for a call that was cut short. Raises UsageError where the
        prompt leaves no room in the model's window."""
        request = self._request(messages, stop_sequences, response_format, tools_to_call_from, **kwargs)
        done = self.engine.generate([request])[0]
        text = cut(done.text, request.stop)
        call = _call(text) if tools_to_call_from else None
        return ChatMessage(
            MessageRole.ASSISTANT,
            text,
            tool_calls=[call] if call else None,
            raw=done,
            token_usage=TokenUsage(done.prompt_tokens, done.tokens),
        )

    def generate_stream(
        self,
        messages: list[ChatMessage | dict[str, Any]],
        stop_sequences: list[str] | None = None,
        response_format: dict[str, Any] | None = None,
        tools_to_call_from: list[Tool] | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatMessageStreamDelta]:
        """The same as pieces of text, then the call and the usage; closing the iterator cancels the reply."""
        request = self._request(messages, stop_sequences, response_format, tools_to_call_from, **kwargs)
        text = ""
        for piece in cut_pieces(pieces(self.engine, request), request.stop):
            if isinstance(piece, Completion):
                call = _call(text) if tools_to_call_from else None
                delta = call and ChatMessageToolCallStreamDelta(
                    0,
                    call.id,
                    call.type,
                    # the pieces of arguments are joined as text by smolagents
                    ChatMessageToolCallFunction(json.dumps(call.function.arguments), call.function.name),
                )
                usage = TokenUsage(piece.prompt_tokens, piece.tokens)
                yield ChatMessageStreamDelta("", [delta] if delta else None, usage)
            else:
                text += piece
                yield ChatMessageStreamDelta(piece)

    def parse_tool_calls(self, message: ChatMessage) -> ChatMessage:
        # agents call this for a reply without calls; smolagents would look for any braces in its text
        raise ValueError(f"{_read(message.content)['error']}; write a shorter call, which max_tokens does not cut")

    def _request(
        self,
        messages: Sequence[ChatMessage | dict[str, Any]],
        stop_sequences: list[str] | None,
        response_format: dict[str, Any] | None,
        tools_to_call_from: list[Tool] | None,
        *,
        temperature: float | None = None,
        max_tokens: int | None = None,
        seed: int | str | None = None,
        **unknown: Any,
    ) -> Request:
        if unknown:
            raise ValueError(
                f"{', '.join(sorted(unknown))}: not a setting of this model; there are temperature, max_tokens and seed"
            )
        schema = None
        if response_format is not None:
            if response_format.get("type") != "json_schema":
                raise ValueError(f"response_format {response_format.get('type')!r} is not supported; give json_schema")
            if tools_to_call_from:
                raise ValueError("tools and a response_format cannot be asked for in one call; give one of them")
            schema = response_format["json_schema"]["schema"]
        tools = [tool_schema(tool) for tool in tools_to_call_from or ()]
        prompt = as_prompt(messages, task(tools, tools, schema))
        prefix = prompt.pop()["content"] + "\n" if prompt and prompt[-1]["role"] == "assistant" else ""
        grammar = call_grammar(tools) if tools else json_grammar(schema) if schema is not None else None
        seed = self.seed if seed is None else seed
        return Request(
            prompt,
            prefix=prefix,
            role=self.role,
            max_tokens=self._fitting(max_tokens or self.max_tokens, prompt, prefix),
            temperature=self.temperature if temperature is None else temperature,
            seed=uuid.uuid4().hex if seed is None else seed,
            # "Observation:" in an argument is no reason to stop in the middle of a call
            stop=() if grammar else tuple(text for text in stop_sequences or () if text),
            grammar=grammar,
        )

    def _fitting(self, tokens: int, prompt: list[dict[str, str]], prefix: str) -> int:
        """As many of ``tokens`` as the model's window leaves for a reply."""
        limit = self.engine.window
        if limit is None:
            return tokens
        chat = self.engine.backbone.chat
        used = len(chat.prompt_ids(prompt)) + len(chat.text_ids(prefix))
        if used >= limit:
            raise UsageError(
                f"the prompt has {used} tokens, but the window of {self.model_id} is {limit}; shorten it, or let the "
                "agent make fewer steps"
            )
        return min(tokens, limit - used)


def tool_schema(tool: Tool) -> dict[str, Any]:
    """A tool in OpenAI's format. Images and sounds are named by the text under which an agent keeps them."""
    schema = get_tool_json_schema(tool)
    for given in schema["function"]["parameters"]["properties"].values():
        if given["type"] in ("image", "audio"):
            given["type"] = "string"
    return schema


def _call(text: str) -> ChatMessageToolCall | None:
    """The call that a reply is; None where it was cut short, or has half a character in it."""
    call = _read(text)
    if not is_call(call):
        return None
    return ChatMessageToolCall(ChatMessageToolCallFunction(call["args"], call["name"]), call["id"], "function")


def _read(text: str) -> dict[str, Any]:
    return read_call(text.removeprefix(OPEN).removesuffix(CLOSE))


def as_prompt(messages: Sequence[ChatMessage | dict[str, Any]], instructions: str = "") -> list[dict[str, str]]:
    """smolagents' messages as the engine's: tool traffic as assistant and user text, neighbours of a role joined,
    ``instructions`` at the end of the system message."""
    prompt: list[dict[str, str]] = []
    for given in messages:
        message = ChatMessage.from_dict(dict(given)) if isinstance(given, dict) else given
        role = MessageRole(tool_role_conversions.get(message.role, message.role)).value
        text = joined_text(message.content)
        if prompt and prompt[-1]["role"] == role:
            if message.role == MessageRole.TOOL_CALL and prompt[-1]["content"].endswith(CLOSE):
                continue  # an agent's memory tells each call twice: as the model wrote it, and in its own words
            prompt[-1]["content"] += f"\n{text}"
        else:
            prompt.append({"role": role, "content": text})
    return instructed(prompt, instructions)
