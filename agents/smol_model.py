"""The engine as a smolagents model."""

from __future__ import annotations

import uuid
from typing import Any

from smolagents import ChatMessage, MessageRole, Model, Tool
from smolagents.models import tool_role_conversions
from smolagents.monitoring import TokenUsage

from agents.chat_model import cut, writer
from agents.prompt import joined_text
from alignment.engine import Engine, Request


class EngineModel(Model):
    """A role of ``engine`` for smolagents. ``seed`` None draws a new random stream for every call.

    The sampling settings can be given for one call too. Grammars and native tool calls are not supported yet.
    """

    def __init__(
        self,
        engine: Engine,
        role: str | None = None,
        temperature: float = 0.7,
        max_tokens: int = 512,
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
        response_format: dict[str, str] | None = None,
        tools_to_call_from: list[Tool] | None = None,
        **kwargs: Any,
    ) -> ChatMessage:
        """One assistant message, with ``token_usage``; the stop sequence is cut from it."""
        if response_format is not None:
            raise ValueError("response_format is not supported yet by this model; leave it out")
        if tools_to_call_from:
            raise ValueError("native tool calls are not supported yet by this model; use an agent that writes text")
        if unknown := set(kwargs) - {"temperature", "max_tokens", "seed"}:
            raise ValueError(
                f"{', '.join(sorted(unknown))}: not a setting of this model; there are temperature, max_tokens and seed"
            )
        seed = kwargs.get("seed", self.seed)
        stops = tuple(text for text in stop_sequences or () if text)
        request = Request(
            as_prompt(messages),
            role=self.role,
            max_tokens=kwargs.get("max_tokens", self.max_tokens),
            temperature=kwargs.get("temperature", self.temperature),
            seed=uuid.uuid4().hex if seed is None else seed,
            stop=stops,
        )
        done = self.engine.generate([request])[0]
        return ChatMessage(
            MessageRole.ASSISTANT,
            cut(done.text, stops),
            raw=done,
            token_usage=TokenUsage(done.prompt_tokens, done.tokens),
        )


def as_prompt(messages: list[ChatMessage | dict[str, Any]]) -> list[dict[str, str]]:
    """smolagents' messages as the engine's: tool traffic as assistant and user text, neighbours of a role joined."""
    prompt: list[dict[str, str]] = []
    for given in messages:
        message = ChatMessage.from_dict(dict(given)) if isinstance(given, dict) else given
        role = MessageRole(tool_role_conversions.get(message.role, message.role)).value
        text = joined_text(message.content)
        if prompt and prompt[-1]["role"] == role:
            prompt[-1]["content"] += f"\n{text}"
        else:
            prompt.append({"role": role, "content": text})
    return prompt
