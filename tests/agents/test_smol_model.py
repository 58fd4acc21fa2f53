"""The smolagents face of the engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from smolagents import ChatMessage, CodeAgent, MessageRole
from smolagents.models import get_clean_message_list, tool_role_conversions

from agents.smol_model import EngineModel, as_prompt
from alignment.engine import Engine, Request


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> Iterator[Engine]:
    with Engine.open(tiny_model, "float32") as engine:
        yield engine


def text(role: MessageRole, words: str) -> ChatMessage:
    return ChatMessage(role, [{"type": "text", "text": words}])


def test_a_round(engine: Engine) -> None:
    model = EngineModel(engine, max_tokens=20, temperature=1.0, seed=2)
    prompt = [{"role": "system", "content": "Make 24."}, {"role": "user", "content": "4 7 8 8"}]
    want = engine.generate([Request(prompt, role="base", max_tokens=20, temperature=1.0, seed=2)])[0]
    for messages in ([text(MessageRole.SYSTEM, "Make 24."), text(MessageRole.USER, "4 7 8 8")], prompt):
        got = model(messages)
        assert (got.role, got.content) == (MessageRole.ASSISTANT, want.text)
        assert got.token_usage is not None
        assert (got.token_usage.input_tokens, got.token_usage.output_tokens) == (want.prompt_tokens, want.tokens)
    stop = want.text[4:6]
    assert model.generate(prompt, stop_sequences=[stop]).content == want.text[: want.text.index(stop)]
    assert model.generate(prompt, max_tokens=3).token_usage.output_tokens <= 3  # type: ignore[union-attr]
    assert model.generate(prompt, seed=9).content != want.text


def test_messages_are_smolagents_own() -> None:
    """The same roles and texts as smolagents' own cleaning gives."""
    messages = [
        text(MessageRole.SYSTEM, "s"),
        text(MessageRole.USER, "a"),
        text(MessageRole.TOOL_CALL, "b"),
        text(MessageRole.TOOL_RESPONSE, "c"),
        text(MessageRole.USER, "d"),
        text(MessageRole.ASSISTANT, "e"),
    ]
    theirs = get_clean_message_list(messages, role_conversions=tool_role_conversions, flatten_messages_as_text=True)
    assert as_prompt(messages) == [{"role": m["role"].value, "content": m["content"]} for m in theirs]


def test_an_agent_runs_on_it(engine: Engine) -> None:
    """A model of random weights writes no code; the agent must get to its last step with usage counted."""
    agent = CodeAgent(tools=[], model=EngineModel(engine, max_tokens=8, seed=1), max_steps=1, verbosity_level=0)
    result = agent.run("4 7 8 8", return_full_result=True)
    assert result.state == "max_steps_error"
    assert result.token_usage is not None and result.token_usage.output_tokens > 0


def test_what_is_not_supported_is_one_sentence(engine: Engine) -> None:
    model = EngineModel(engine)
    message = [text(MessageRole.USER, "x")]
    with pytest.raises(ValueError, match="response_format is not supported yet"):
        model.generate(message, response_format={"type": "json_object"})
    with pytest.raises(ValueError, match="tool calls are not supported yet"):
        model.generate(message, tools_to_call_from=[object()])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="top_p: not a setting"):
        model.generate(message, top_p=0.9)
    with pytest.raises(ValueError, match="type 'image' is not supported yet"):
        model.generate([ChatMessage(MessageRole.USER, [{"type": "image", "image": None}])])
