"""The engine as a LangChain chat model: invoke, stream, batch, stop, usage."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.exceptions import ContextOverflowError
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, SystemMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import get_config_list
from pydantic import Field

from alignment.engine import Completion, Engine, Request

WRITERS = ("policy", "sft", "base")  # who writes where no role is asked for: the first that the model has
FINISH_REASONS = {"eos": "stop", "stop": "stop", "length": "length"}  # in OpenAI's words, as LangChain's users expect


class ChatModel(BaseChatModel):
    """A role of ``engine`` as a chat model.

    ``seed`` None draws a new random stream for every call; with a seed, the same messages give the same text, alone
    or in a batch. ``temperature`` 0 is greedy. ``stop`` is cut from the text. A reply ends where the model's window
    ends. Every setting can be given for one call too: ``model.bind(temperature=0)``. Tools, structured output and
    images are not supported yet.
    """

    engine: Engine = Field(exclude=True, repr=False)
    role: str | None = None
    temperature: float = Field(0.7, ge=0)
    max_tokens: int = Field(512, ge=1)
    seed: int | str | None = None
    stop: list[str] | None = None

    @property
    def _llm_type(self) -> str:
        return "junto"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        names = ("model_name", "role", "temperature", "max_tokens", "seed", "stop")
        return {name: getattr(self, name) for name in names}

    @property
    def model_name(self) -> str:
        return self.engine.backbone.config.model

    @property
    def window(self) -> int | None:
        """Tokens that prompt and reply may have together; None where the architecture sets no limit."""
        return getattr(self.engine.backbone.model.config.get_text_config(), "max_position_embeddings", None)

    def get_token_ids(self, text: str) -> list[int]:
        return self.engine.backbone.chat.text_ids(text)

    def get_num_tokens_from_messages(self, messages: list[BaseMessage], tools: Sequence[Any] | None = None) -> int:
        """Tokens of the whole prompt as the model reads it, with the chat template's own."""
        if tools:
            raise ValueError("tools are not supported yet by this chat model")
        return len(self.engine.backbone.chat.prompt_ids(as_prompt(messages)))

    def batch(
        self,
        inputs: list[Any],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Any]:
        # one thread per input: those that arrive together are one batch of the engine, and LangChain's default of a
        # few threads would make waves of it
        configs = [
            {**c, "max_concurrency": c.get("max_concurrency") or len(inputs)}
            for c in get_config_list(config, len(inputs))
        ]
        return super().batch(inputs, configs, return_exceptions=return_exceptions, **kwargs)

    async def abatch(
        self,
        inputs: list[Any],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[Any]:
        return await asyncio.to_thread(self.batch, inputs, config, return_exceptions=return_exceptions, **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        request = self._request(messages, stop, **kwargs)
        done = self.engine.generate([request])[0]
        message = AIMessage(
            cut(done.text, request.stop), usage_metadata=usage(done), response_metadata=self._metadata(done)
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        request = self._request(messages, stop, **kwargs)
        for piece in cut_pieces(pieces(self.engine, request), request.stop):
            if isinstance(piece, Completion):
                message = AIMessageChunk(
                    "", usage_metadata=usage(piece), chunk_position="last", response_metadata=self._metadata(piece)
                )
            else:
                message = AIMessageChunk(piece)
            chunk = ChatGenerationChunk(message=message)
            if run_manager:
                run_manager.on_llm_new_token(message.text, chunk=chunk)
            yield chunk

    def _request(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None,
        *,
        role: str | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
        seed: int | str | None = None,
        stream: bool | None = None,
    ) -> Request:
        # ``stream`` is LangChain's own switch; whatever else is not named here is refused by Python
        prompt = as_prompt(messages)
        limit = max_tokens or self.max_tokens
        if self.window is not None:
            used = len(self.engine.backbone.chat.prompt_ids(prompt))
            if used >= self.window:
                raise ContextOverflowError(
                    f"the prompt has {used} tokens, but the window of {self.model_name} is {self.window}; shorten it"
                )
            limit = min(limit, self.window - used)
        seed = self.seed if seed is None else seed
        return Request(
            prompt,
            role=role or self.role or writer(self.engine),
            max_tokens=limit,
            temperature=self.temperature if temperature is None else temperature,
            seed=uuid.uuid4().hex if seed is None else seed,
            stop=tuple(text for text in (*(self.stop or ()), *(stop or ())) if text),
        )

    def _metadata(self, done: Completion) -> dict[str, Any]:
        return {"finish_reason": FINISH_REASONS[done.finish], "model_name": self.model_name}


def writer(engine: Engine) -> str:
    """The role that writes where none is asked for."""
    return next(role for role in WRITERS if role in engine.roles)


def usage(done: Completion) -> UsageMetadata:
    return UsageMetadata(
        input_tokens=done.prompt_tokens, output_tokens=done.tokens, total_tokens=done.prompt_tokens + done.tokens
    )


def as_prompt(messages: Iterable[BaseMessage]) -> list[dict[str, str]]:
    """LangChain's messages as the engine's. Raises ValueError for what is not text from system, human or AI."""
    roles = {SystemMessage: "system", HumanMessage: "user", AIMessage: "assistant"}
    prompt = []
    for message in messages:
        role = next((name for kind, name in roles.items() if isinstance(message, kind)), None)
        if role is None:
            raise ValueError(f"{type(message).__name__} is not supported yet; use system, human and AI messages")
        if isinstance(message, AIMessage) and message.tool_calls:
            raise ValueError("messages with tool calls are not supported yet; leave them out")
        prompt.append({"role": role, "content": joined_text(message.content)})
    return prompt


def joined_text(content: str | Sequence[Any] | None) -> str:
    """The text of a message's content: a string, or blocks ``{"type": "text", "text": ...}``."""
    if isinstance(content, str) or content is None:
        return content or ""
    for block in content:
        if not isinstance(block, str) and block.get("type") != "text":
            raise ValueError(f"content of type {block.get('type')!r} is not supported yet; send text only")
    return "".join(block if isinstance(block, str) else block["text"] for block in content)


def cut(text: str, stops: Sequence[str]) -> str:
    """``text`` up to the first stop."""
    return text[: min((at for stop in stops if (at := text.find(stop)) >= 0), default=len(text))]


def cut_pieces(pieces: Iterable[str | Completion], stops: Sequence[str]) -> Iterator[str | Completion]:
    """``cut`` of a stream: holds back what may turn out to be the beginning of a stop. Never yields empty text."""
    held = ""
    for piece in pieces:
        if isinstance(piece, Completion):
            if left := cut(held, stops):
                yield left
            yield piece
            return
        held += piece
        if cut(held, stops) == held:
            back = max((n for stop in stops for n in range(1, len(stop)) if held.endswith(stop[:n])), default=0)
            if ready := held[: len(held) - back]:
                yield ready
            held = held[len(held) - back :]


def pieces(engine: Engine, request: Request) -> Iterator[str | Completion]:
    """What ``Engine.stream`` gives, and the completion behind it; closing the iterator cancels the row."""
    yield (yield from engine.stream(request))
