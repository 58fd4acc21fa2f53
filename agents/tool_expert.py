"""Tools inside a thought: one expert calls tools before it writes one step.

The calls are made by a smolagents agent. Such an agent keeps memory and a step number, which calls from several threads
would mix (smolagents#1781), so each step has an agent of its own, made for it and thrown away. The step itself is
written as without tools, a plain line in the form that the model was tuned to: what the tools gave stands in the
prompt.
"""

from __future__ import annotations

import copy
import queue
import threading
import uuid
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from smolagents import ActionStep, ChatMessage, FinalAnswerTool, LogLevel, MessageRole, Tool, ToolCallingAgent
from smolagents.agents import EMPTY_PROMPT_TEMPLATES
from smolagents.utils import AgentGenerationError

from agents.smol_model import EngineModel
from agents.thought import call_line
from alignment.engine import Request

DONE = "final_answer"  # smolagents' name of the tool that ends an agent's run
LONGEST_RESULT = 1000  # characters of a tool's result that are kept and read: it has to fit into the window

Message = dict[str, str]
Outcome = tuple[str, bool]  # a call's result, or what went wrong, and whether it did
Permit = Callable[[str, Any, Callable[[], Outcome]], Outcome]  # of a tool, its arguments, and what makes the call
Call = dict[str, Any]  # {"tool": name, "arguments": {...}, "result": text, "failed": bool}, which is JSON


@dataclass(frozen=True)
class Calls:
    """The calls of tools, in their order; a failed one's result says why. ``tokens`` were written by the model for
    them and ``prompt_tokens`` read, in ``replies`` replies; a reply that ``max_tokens`` cut short is no call."""

    calls: list[Call]
    tokens: int
    prompt_tokens: int
    replies: int


@dataclass(frozen=True)
class ToolStep:
    """A step that was written with tools: ``text`` and ``finish`` as of an engine's completion, the calls before it,
    and the tokens of both."""

    text: str
    finish: str
    tokens: int
    prompt_tokens: int
    calls: list[Call]


def tool_step(
    model: EngineModel,
    tools: Sequence[Tool],
    messages: Sequence[Message],
    max_calls: int = 3,
    seconds: float = 10.0,
    grammar: str | None = None,
) -> ToolStep:
    """One line after ``messages``, whose last may be the assistant's: the lines that stand already. ``grammar`` is a
    regular expression of the line. See ``call_tools`` for the rest."""
    called = call_tools(model, tools, messages, max_calls, seconds)
    prompt = with_results(messages, called.calls)
    before = prompt.pop()["content"] + "\n" if prompt[-1]["role"] == "assistant" else ""
    request = Request(
        prompt,
        prefix=before,
        role=model.role,
        max_tokens=model.max_tokens,
        temperature=model.temperature,
        seed=_seed(model, "step") or uuid.uuid4().hex,
        stop=("\n",),
        grammar=grammar,
    )
    done = model.engine.generate([request])[0]
    tokens, prompt_tokens = called.tokens + done.tokens, called.prompt_tokens + done.prompt_tokens
    return ToolStep(done.text, done.finish, tokens, prompt_tokens, called.calls)


def call_tools(
    model: EngineModel,
    tools: Sequence[Tool],
    messages: Sequence[Message],
    max_calls: int = 3,
    seconds: float = 10.0,
    permit: Permit | None = None,
) -> Calls:
    """What the model asks ``tools`` for after ``messages``, until it says that it is done, at most ``max_calls`` times.

    A tool that raises, or gives nothing within ``seconds``, has a result that says so; the model reads it and may go
    on. A tool that hangs goes on in a thread of its own, which cannot be ended: what may compute for ever, or keep the
    interpreter to itself, belongs into ``agents.sandbox``. ``permit`` makes each call, or has another outcome. Tools
    are called by several steps at once, so they must not keep what one of them said. Raises what the engine raises.
    """
    if max_calls < 1:  # smolagents takes 0 for no limit of one's own
        return Calls([], 0, 0, 0)
    agent = _Caller(model, tools, messages, seconds, permit)
    try:
        agent.run("", max_steps=max_calls)
    except AgentGenerationError as error:  # of the engine, not of a tool: smolagents' words hide which one
        raise error.__cause__ or error from None
    written = [step.token_usage for step in agent.memory.steps if isinstance(step, ActionStep) and step.token_usage]
    tokens, prompt_tokens = sum(u.output_tokens for u in written), sum(u.input_tokens for u in written)
    return Calls(agent.calls, tokens, prompt_tokens, len(written))


def with_results(messages: Sequence[Message], calls: Sequence[Call]) -> list[Message]:
    """The messages with what tools gave at the end of the last one of the user."""
    found = [call_line(call) for call in calls if not call["failed"]]
    new = [dict(message) for message in messages]
    if found:
        asked = next(message for message in reversed(new) if message["role"] == "user")
        asked["content"] += "\nTools:\n" + "\n".join(found)
    return new


class _Caller(ToolCallingAgent):
    """Lives for one step."""

    def __init__(
        self,
        model: EngineModel,
        tools: Sequence[Tool],
        messages: Sequence[Message],
        seconds: float,
        permit: Permit | None,
    ) -> None:
        self.given = [ChatMessage.from_dict(dict(message)) for message in messages]
        self.seconds = seconds
        self.permit = permit
        self.asked = model
        self.calls: list[Call] = []
        done = FinalAnswerTool()
        done.description = "Ends the calls, when you know what to write next."
        done.inputs = {}
        # no templates: they are Jinja, and what users and peers wrote may not get into one
        super().__init__([*tools, done], model, EMPTY_PROMPT_TEMPLATES, verbosity_level=LogLevel.OFF)

    def write_memory_to_messages(self, summary_mode: bool = False) -> list[ChatMessage]:
        """The messages as they were given, without smolagents' own words around a task, then the calls."""
        steps = [step for step in self.memory.steps if isinstance(step, ActionStep)]
        return [*self.given, *(message for step in steps for message in step.to_messages(summary_mode))]

    def _step_stream(self, memory_step: ActionStep) -> Generator[Any]:
        # or the same random numbers would choose every call
        self.model = copy.copy(self.asked)
        self.model.seed = _seed(self.asked, self.step_number)
        yield from super()._step_stream(memory_step)

    def execute_tool_call(self, tool_name: str, arguments: dict[str, str] | str) -> Any:
        if tool_name == DONE:
            return ""
        make = partial(_within, self.seconds, partial(super().execute_tool_call, tool_name, arguments))
        result, failed = make() if self.permit is None else self.permit(tool_name, arguments, make)
        self.calls.append({"tool": tool_name, "arguments": arguments, "result": result, "failed": failed})
        return result

    def provide_final_answer(self, task: str) -> ChatMessage:
        return ChatMessage(MessageRole.ASSISTANT, "")  # when all calls are spent; smolagents would ask for an answer


def _seed(model: EngineModel, part: int | str) -> str | None:
    """Of one reply of a step."""
    return None if model.seed is None else f"{model.seed}/{part}"


def _within(seconds: float, work: Callable[[], Any]) -> Outcome:
    done: queue.SimpleQueue[Outcome] = queue.SimpleQueue()

    def run() -> None:
        try:
            done.put((_readable(str(work())), False))
        except BaseException as error:  # smolagents' error has the tool's own as its cause
            cause = error.__cause__ or error
            done.put((_readable(f"error: {type(cause).__name__}: {cause}"), True))

    # a daemon, so that one that hangs does not keep the process from ending
    threading.Thread(target=run, name="junto-tool", daemon=True).start()
    try:
        return done.get(timeout=seconds)
    except queue.Empty:
        return f"error: no result within {seconds:g} seconds", True


def _readable(text: str) -> str:
    text = text.encode("utf-8", "replace").decode()  # half a surrogate pair has no tokens
    return text if len(text) <= LONGEST_RESULT else f"{text[:LONGEST_RESULT]}... ({len(text)} characters)"
