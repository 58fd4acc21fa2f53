"""The LangChain face of the engine: the standard suites, and streams, batches, stops and usage against the engine."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain.agents import create_agent
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.exceptions import ContextOverflowError
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, FunctionMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from agents.chat_model import ChatModel, cut, cut_pieces, writer
from agents.prompt import as_prompt
from alignment.backbone import Backbone
from alignment.config import BackboneConfig
from alignment.decoding import Completion
from alignment.engine import Engine, Request
from alignment.errors import SetupError

QUESTION = [HumanMessage("4 7 8 8")]


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> Iterator[Engine]:
    with Engine.open(tiny_model, "float32") as engine:
        yield engine


@pytest.fixture
def model(engine: Engine) -> ChatModel:
    return ChatModel(engine=engine, max_tokens=24, seed=3, temperature=1.0)


class Standard:
    """What both of LangChain's suites are run on: a tiny model that knows the answers to what the suites ask, because
    some tests want the right argument of a call, or a call that nothing enforces."""

    engine: Engine

    @pytest.fixture(autouse=True)
    def _open(self, taught_engine: Engine) -> None:
        self.engine = taught_engine

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatModel

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"engine": self.engine, "seed": 1}

    @property
    def standard_chat_model_params(self) -> dict[str, Any]:
        # what was learnt by heart is the most probable; most of the tiny model's tokens are single bytes, of which a
        # call needs more than the suite's 100
        return {**super().standard_chat_model_params, "temperature": 0, "max_tokens": 300}  # type: ignore[misc]

    @property
    def supports_model_override(self) -> bool:
        return False

    @property
    def has_tool_calling(self) -> bool:
        return True

    @property
    def has_tool_choice(self) -> bool:
        return True

    @property
    def has_structured_output(self) -> bool:
        return True

    @property
    def supports_json_mode(self) -> bool:
        return True


class TestUnit(Standard, ChatModelUnitTests):
    pass


class TestIntegration(Standard, ChatModelIntegrationTests):
    pytestmark = pytest.mark.anyio

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"


def test_an_agent_of_langchain_calls_a_tool_and_ends(taught_engine: Engine) -> None:
    asked: list[str] = []

    def get_weather(location: str) -> str:
        """Get the weather at a location."""
        asked.append(location)
        return "It's sunny."

    agent = create_agent(ChatModel(engine=taught_engine, temperature=0), [get_weather])
    messages = agent.invoke({"messages": [HumanMessage("What is the weather in San Francisco, CA?")]})["messages"]
    assert asked == ["San Francisco, CA"]
    assert [type(m) for m in messages] == [HumanMessage, AIMessage, ToolMessage, AIMessage]
    assert messages[-1].content == "Sunny."


def test_invoke_is_the_engines_completion(engine: Engine, model: ChatModel) -> None:
    blocks: list[str | dict[str, Any]] = [{"type": "text", "text": "4 7"}, {"type": "text", "text": " 8"}]
    prompt = [SystemMessage("Make 24."), HumanMessage(blocks)]
    request = Request(
        [{"role": "system", "content": "Make 24."}, {"role": "user", "content": "4 7 8"}],
        role="base",
        max_tokens=24,
        temperature=1.0,
        seed=3,
    )
    want = engine.generate([request])[0]
    got = model.invoke(prompt)
    assert got.content == want.text
    assert got.usage_metadata == {
        "input_tokens": len(engine.backbone.chat.prompt_ids(request.prompt)),
        "output_tokens": len(want.ids),
        "total_tokens": want.prompt_tokens + want.tokens,
    }
    assert got.response_metadata["finish_reason"] == {"eos": "stop", "length": "length"}[want.finish]
    assert model.get_num_tokens_from_messages(prompt) == want.prompt_tokens


def test_streaming_is_invoking(model: ChatModel) -> None:
    for seed in range(6):
        whole = model.invoke(QUESTION, seed=seed)
        chunks = list(model.stream(QUESTION, seed=seed))
        full = chunks[0]
        for chunk in chunks[1:]:
            full = full + chunk
        assert full.content == whole.content and full.usage_metadata == whole.usage_metadata
        assert full.response_metadata["finish_reason"] == whole.response_metadata["finish_reason"]
        assert [c.usage_metadata is None for c in chunks] == [True] * (len(chunks) - 1) + [False]


def test_callbacks_get_every_token_of_a_stream(model: ChatModel) -> None:
    class Listener(BaseCallbackHandler):
        text = ""

        def on_llm_new_token(self, token: str, **kwargs: Any) -> None:
            self.text += token

    listener = Listener()
    told = "".join(chunk.text for chunk in model.stream(QUESTION, {"callbacks": [listener]}))
    assert listener.text == told == model.invoke(QUESTION).text


def test_stop_is_cut_from_replies_and_streams(model: ChatModel) -> None:
    free = model.invoke(QUESTION).text
    for stop in (free[3:6], free[5]):
        want = free[: free.index(stop)]
        done = model.invoke(QUESTION, stop=[stop])
        assert done.text == want and done.response_metadata["finish_reason"] == "stop"
        assert "".join(c.text for c in model.stream(QUESTION, stop=[stop])) == want
        assert model.model_copy(update={"stop": [stop]}).invoke(QUESTION).text == want


@given(st.text("abc", max_size=12), st.lists(st.text("abc", min_size=1, max_size=4), max_size=3), st.data())
def test_a_stream_is_cut_where_its_text_is(text: str, stops: list[str], data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)))))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    done = Completion(text, (), 0, 0.0, "stop")
    got = list(cut_pieces([*pieces, done], stops))
    assert got[-1] is done and "".join(got[:-1]) == cut(text, stops)  # type: ignore[arg-type]
    assert not any(stop in cut(text, stops) for stop in stops) and all(got)


def test_a_closed_stream_frees_the_engine(model: ChatModel) -> None:
    seen: list[int] = []
    stream = model.stream(QUESTION, max_tokens=400, temperature=1.0)
    seen.append(len(next(stream).text))
    stream.close()
    assert model.invoke(QUESTION, max_tokens=2).usage_metadata["output_tokens"] <= 2


def test_batch_is_invoking_each(model: ChatModel) -> None:
    questions = [f"{i} 7 8 8" for i in range(12)]
    alone = [model.invoke(q).text for q in questions]
    assert [m.text for m in model.batch(questions)] == alone
    assert [m.text for m in model.batch(questions, {"max_concurrency": 2})] == alone
    assert [m.text for m in asyncio.run(model.abatch(questions))] == alone
    assert model.batch([]) == []


def test_batch_can_return_exceptions(model: ChatModel) -> None:
    function = FunctionMessage("4", name="add")
    first, second = model.batch([QUESTION, [function]], return_exceptions=True)
    assert first.text == model.invoke(QUESTION).text and isinstance(second, ValueError)
    with pytest.raises(ValueError, match="FunctionMessage"):
        model.batch([QUESTION, [function]])


def test_seeds(engine: Engine) -> None:
    model = ChatModel(engine=engine, max_tokens=24, temperature=1.0)
    assert model.invoke(QUESTION).text != model.invoke(QUESTION).text  # without a seed each call draws anew
    assert model.invoke(QUESTION, seed=5).text == model.bind(seed=5).invoke(QUESTION).text
    assert model.invoke(QUESTION, seed=5).text != model.invoke(QUESTION, seed=6).text


def test_a_reply_ends_with_the_window(engine: Engine, model: ChatModel) -> None:
    def reply(words: int) -> AIMessage:
        return model.invoke([HumanMessage("7 " * words)], max_tokens=500)

    frame = model.get_num_tokens_from_messages([HumanMessage("")])
    per_word = model.get_num_tokens_from_messages([HumanMessage("7 7 ")]) - model.get_num_tokens_from_messages(
        [HumanMessage("7 ")]
    )
    words = (512 - frame) // per_word - 2
    usage = reply(words).usage_metadata
    assert usage is not None and usage["total_tokens"] <= 512
    with pytest.raises(ContextOverflowError, match="the window of .* is 512; shorten it"):
        reply(600)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (FunctionMessage("4", name="add"), "FunctionMessage is not supported yet"),
        (
            HumanMessage([{"type": "image_url", "image_url": {"url": "data:,"}}]),
            "type 'image_url' is not supported yet",
        ),
        (
            ToolMessage([{"type": "image", "url": "data:,"}], tool_call_id="1"),
            "type 'image' is not supported yet",
        ),
    ],
)
def test_what_is_not_supported_is_one_sentence(message: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        as_prompt([message])


def test_settings_and_roles_that_there_are_not(model: ChatModel) -> None:
    with pytest.raises(TypeError, match="top_p"):
        model.invoke(QUESTION, top_p=0.9)
    with pytest.raises(SetupError, match="no role 'policy'; it has base"):
        model.invoke(QUESTION, role="policy")


def test_the_policy_writes_where_there_is_one(tiny_model: Path) -> None:
    backbone = Backbone(BackboneConfig(model=str(tiny_model), quantization="none", compute_dtype="float32"))
    with Engine(backbone) as engine:
        assert writer(engine) == "base"
        for i, role in enumerate(("sft", "reward", "policy")):
            backbone.add_role(role, seed=i)
            assert writer(engine) == ("policy" if role == "policy" else "sft")
