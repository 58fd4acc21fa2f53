"""The engine as a LangChain chat model: invoke, stream, batch, stop, usage, tools, structured output."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.exceptions import ContextOverflowError
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import get_config_list
from langchain_core.tools import BaseTool
from pydantic import Field

from agents.config import WRITERS
from agents.json_grammar import call_grammar, json_grammar
from agents.prompt import as_prompt, schema_instructions
from agents.structured_output import json_replies
from agents.tool_calls import (
    Tool,
    as_chunk,
    as_message,
    call_pieces,
    forced,
    instructions,
    is_call,
    openai_tools,
    split_calls,
)
from alignment.engine import Completion, Engine, Request
from alignment.errors import UsageError

FINISH_REASONS = {"eos": "stop", "stop": "stop", "length": "length"}  # in OpenAI's words, as LangChain's users expect


class ChatModel(BaseChatModel):
    """A role of ``engine`` as a chat model.

    ``seed`` None draws a new random stream for every call; with a seed, the same messages give the same text, alone
    or in a batch. ``temperature`` 0 is greedy. ``stop`` is cut from the text. A reply ends where the model's window
    ends. Every setting can be given for one call too: ``model.bind(temperature=0)``.

    Tools and structured output work with every model: what a reply must be is enforced by a grammar while it is
    written. Strings, arrays and numbers that a schema leaves without bounds get those of ``agents.json_grammar``. A
    reply that ``max_tokens`` cuts short is incomplete all the same. Images are not supported yet.
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
        return self.engine.window

    def get_token_ids(self, text: str) -> list[int]:
        return self.engine.backbone.chat.text_ids(text)

    def get_num_tokens_from_messages(self, messages: list[BaseMessage], tools: Sequence[Any] | None = None) -> int:
        """Tokens of the whole prompt as the model reads it, with the chat template's own."""
        note = instructions(openai_tools(tools)) if tools else ""
        return len(self.engine.backbone.chat.prompt_ids(as_prompt(messages, note)))

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | bool | dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Runnable[Any, AIMessage]:
        """This model with ``tools`` in its system message; calls that it writes are in ``tool_calls``, malformed ones
        in ``invalid_tool_calls``.

        ``tool_choice``: None and "auto" leave it to the model; "any", "required" and True make the reply one call of
        any tool, and a tool's name one of that tool; "none" leaves the tools out. Raises UsageError for a choice
        that no tool fits, ValueError for what is no tool.
        """
        known = openai_tools(tools)
        forced(known, tool_choice)
        return self.bind(tools=known, tool_choice=tool_choice, **kwargs)

    def with_structured_output(
        self,
        schema: dict[str, Any] | type,
        *,
        method: Literal["json_schema", "json_mode", "function_calling"] = "json_schema",
        include_raw: bool = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[Any, Any]:
        """Replies as objects of ``schema``: a pydantic class, whose objects are validated, or a TypedDict or JSON
        schema, which give dicts.

        Every ``method`` enforces the schema, so that ``strict`` changes nothing: "json_schema" and "json_mode" make
        the reply its JSON, "function_calling" a call of a tool of that name. With ``include_raw`` the result has the
        keys ``raw``, ``parsed`` and ``parsing_error``, and nothing is raised by the parser. Raises UsageError for
        another method.
        """
        if method == "function_calling":
            return super().with_structured_output(schema, include_raw=include_raw, **kwargs)
        if method not in ("json_schema", "json_mode"):
            raise UsageError(f"there is no method {method!r}; take json_schema, json_mode or function_calling")
        if kwargs:
            raise UsageError(f"{', '.join(kwargs)}: not an option of structured output; there is include_raw")
        return json_replies(self, schema, method, include_raw)

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
        text = cut(done.text, request.stop)
        parts = split_calls(text)[0] if may_call(**kwargs) else [text]
        message = as_message(parts, usage(done), self._metadata(done, any(map(is_call, parts))))
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        request = self._request(messages, stop, **kwargs)
        stream: Iterator[Any] = cut_pieces(pieces(self.engine, request), request.stop)
        calls, valid = 0, False
        for part in call_pieces(stream) if may_call(**kwargs) else stream:
            if isinstance(part, Completion):
                metadata = self._metadata(part, valid)
                message = AIMessageChunk(
                    "", usage_metadata=usage(part), chunk_position="last", response_metadata=metadata
                )
            elif isinstance(part, str):
                message = AIMessageChunk(part)
            else:
                message = AIMessageChunk("", tool_call_chunks=[as_chunk(part, calls)])
                calls, valid = calls + 1, valid or is_call(part)
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
        tools: Sequence[Any] | None = None,
        tool_choice: str | bool | dict[str, Any] | None = None,
        response_schema: dict[str, Any] | None = None,
    ) -> Request:
        # ``stream`` is LangChain's own switch; whatever else is not named here is refused by Python
        known = [] if tool_choice == "none" else openai_tools(tools or ())
        must = forced(known, tool_choice)
        if known and response_schema is not None:
            raise UsageError("tools and a schema of the reply cannot be asked for in one call; give one of them")
        prompt = as_prompt(messages, task(known, must, response_schema))
        grammar = None
        if must or response_schema is not None:
            grammar = call_grammar(must) if response_schema is None else json_grammar(response_schema)
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
            grammar=grammar,
        )

    def _metadata(self, done: Completion, called: bool) -> dict[str, Any]:
        reason = FINISH_REASONS[done.finish]
        return {"finish_reason": "tool_calls" if called and reason == "stop" else reason, "model_name": self.model_name}


def writer(engine: Engine) -> str:
    """The role that writes where none is asked for."""
    return next(role for role in WRITERS if role in engine.roles)


def usage(done: Completion) -> UsageMetadata:
    return UsageMetadata(
        input_tokens=done.prompt_tokens, output_tokens=done.tokens, total_tokens=done.prompt_tokens + done.tokens
    )


def may_call(tools: Sequence[Any] | None = None, tool_choice: Any = None, **_: Any) -> bool:
    """Whether a reply is read for calls: by the settings of one call of the model."""
    return bool(tools) and tool_choice != "none"


def task(tools: Sequence[Tool], must: Sequence[Tool], schema: dict[str, Any] | None) -> str:
    """What is added to the system message."""
    return schema_instructions(schema) if schema is not None else instructions(tools, must) if tools else ""


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
