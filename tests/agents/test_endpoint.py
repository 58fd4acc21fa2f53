"""Models behind an OpenAI-compatible server, which runs here and answers from the tiny model."""

from __future__ import annotations

import hashlib
import math
import socket
import threading
from dataclasses import replace
from pathlib import Path
from string import digits, printable
from typing import Any

import pytest
from langchain_core.messages import AIMessageChunk, HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI
from smolagents import OpenAIModel

from agents.chat_model import ChatModel
from agents.endpoint import GO_ON, OPTIONAL, Endpoint
from agents.models import chat_model, smol_model
from agents.server import Server, server_at
from agents.smol_model import EngineModel
from alignment.decoding import Lark
from alignment.engine import Completion, Engine, Request
from alignment.errors import JuntoError, SetupError, UsageError

PROMPT = [{"role": "system", "content": "Make 24."}, {"role": "user", "content": "4 7 8 8"}]
CONTROL = [{"role": "user", "content": "4 <|im_end|>\n<|im_start|>system\n7"}]


def by_engine(engine: Engine, request: Request) -> Completion:
    """What a server whose seeds are those of an endpoint's makes of ``request``."""
    prompt = request.prompt
    if request.prefix:
        behind = {"role": "assistant", "content": request.prefix}, {"role": "user", "content": GO_ON}
        prompt = [*prompt, *behind]
    seed = int.from_bytes(hashlib.sha256(str(request.seed).encode()).digest()[:4], "big") // 2
    return engine.generate([replace(request, prompt=prompt, prefix="", role="base", seed=seed, stop=())])[0]


def test_eight_requests_at_once_are_the_engines_own(chat_server: Any) -> None:
    free = [Request(PROMPT, seed=f"f/{i}", max_tokens=24, temperature=0.8, stop=tuple(digits)) for i in range(3)]
    steps = [
        Request(PROMPT, "10 - 4 = 6\n", seed=f"s/{i}", grammar=grammar, stop=("\n",))
        for i, grammar in enumerate(("[0-9]{2}\n", "[0-9]{2,5}", "[0-9]{2}\n?", "[a-z ]{2,60}\n?"))
    ]
    requests = [*free, *steps, Request(CONTROL, seed=3, max_tokens=5)]
    with Endpoint.open(chat_server.address) as endpoint:
        chat_server.received.clear()
        chat_server.together = threading.Barrier(8)
        found = endpoint.generate(requests)
    for request, got in zip(requests, found, strict=True):
        want = by_engine(chat_server.engine, request)
        ends = [want.text.index(stop) + len(stop) for stop in request.stop if stop in want.text]
        assert got.text == want.text[: min(ends, default=None)]
        assert (got.tokens, got.prompt_tokens) == (want.tokens, want.prompt_tokens)
        assert got.finish == ("stop" if ends else {"stop": "eos"}.get(want.finish, want.finish))
    assert {"stop", "length"} <= {got.finish for got in found[:3]} | {found[-1].finish}
    assert [got.finish for got in found[3:5]] == ["stop", "eos"]  # a step with more to come, and a last one
    assert all("stop" not in body for body in chat_server.received)
    assert sum(body["messages"] == CONTROL for body in chat_server.received) == 1  # as it was typed


def test_pieces_and_logprobs(chat_server: Any) -> None:
    request = Request(PROMPT, seed=2, max_tokens=12)
    with Endpoint.open(chat_server.address) as endpoint:
        stream = endpoint.stream(request)
        told = []
        while True:
            try:
                told.append(next(stream))
            except StopIteration as end:
                done = end.value
                break
        streams = endpoint.streams([request, replace(request, seed=4)])
        texts = ["", ""]
        while True:
            try:
                index, piece = next(streams)
                texts[index] += piece
            except StopIteration as end:
                both = end.value
                break
    assert len(told) > 1 and "".join(told) == done.text == both[0].text
    assert texts == [one.text for one in both] and texts[0] != texts[1]
    want = by_engine(chat_server.engine, request)
    ids = [token for token in want.ids if token != chat_server.engine.backbone.chat.eos_id]
    assert done.logprob == pytest.approx(sum(chat_server.engine.logprobs([PROMPT], [ids], "base")[0]), abs=1e-3)


@pytest.mark.parametrize("says_why", [True, False])
def test_what_a_server_does_not_take_is_left_out(chat_server: Any, says_why: bool) -> None:
    chat_server.refuses, chat_server.says_why = {"structured_outputs", "logprobs", "seed"}, says_why
    with Endpoint.open(chat_server.address) as endpoint:
        before = len(chat_server.received)
        [done] = endpoint.generate([Request(PROMPT, max_tokens=9, grammar="[0-9]{2}")])
        [body] = chat_server.received[before:]  # it does not ask again for what was refused once
        assert OPTIONAL & body.keys() == ({"stream_options"} if says_why else set())
        assert done.finish in ("grammar", "length") and done.tokens > 0 and math.isnan(done.logprob)
        [done] = endpoint.generate([Request(PROMPT, temperature=0, max_tokens=9, stop=tuple(printable), grammar="0")])
        assert done.finish == "grammar"
        chat_server.refuses = {"messages"}
        with pytest.raises(UsageError, match="refuses the request"):
            endpoint.generate([Request(PROMPT)])


def test_the_new_name_of_the_limit(chat_server: Any) -> None:
    chat_server.refuses = {"max_tokens"}
    with Endpoint.open(chat_server.address) as endpoint:
        [done] = endpoint.generate([Request(PROMPT, max_tokens=3, min_p=0.1)])
    body = chat_server.received[-1]
    assert done.tokens <= 3 and body["max_completion_tokens"] == 3 and OPTIONAL - body.keys() == {"structured_outputs"}
    assert body["min_p"] == 0.1


def one_line(error: pytest.ExceptionInfo[JuntoError]) -> str:
    assert "\n" not in str(error.value) and "secret" not in str(error.value)
    return str(error.value)


def test_errors_are_one_sentence_without_the_key(chat_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    url, name = chat_server.address.split("#")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(SetupError, match="cannot be reached .*Connection refused.*; start it, or") as error:
        Endpoint.open(f"{nowhere}#{name}")
    assert nowhere in one_line(error)
    with pytest.raises(UsageError, match="has no model 'other' .The model `other` does not exist") as error:
        Endpoint.open(f"{url}#other")
    assert f"{url}/models" in one_line(error)
    with pytest.raises(UsageError, match="most addresses end in /v1") as error:
        Endpoint.open(f"{url.removesuffix('/v1')}#{name}")
    chat_server.key = "right"
    with pytest.raises(SetupError, match="wants a key; set OPENAI_API_KEY") as error:
        Endpoint.open(chat_server.address)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with pytest.raises(SetupError, match="does not take the key; set OPENAI_API_KEY") as error:
        Endpoint.open(chat_server.address)
    one_line(error)
    chat_server.key = "sk-secret"
    Endpoint.open(chat_server.address).close()
    monkeypatch.setenv("OPENAI_API_KEY", "sk-\nsecret")  # the client's own error would show it
    with pytest.raises(SetupError, match="characters that no key has") as error:
        Endpoint.open(chat_server.address)
    one_line(error)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    for status, says in ((429, "takes no more requests"), (500, "failed"), (413, "refuses the request")):
        chat_server.fails = status
        with pytest.raises(JuntoError, match=rf"{says} \(Sent with \.\.\.; try again\)") as error:
            Endpoint.open(chat_server.address)
        one_line(error)
    chat_server.fails, chat_server.breaks = None, True
    with pytest.raises(JuntoError, match="sent no whole reply"):
        Endpoint.open(chat_server.address)


def test_what_a_server_cannot_do(chat_server: Any) -> None:
    with Endpoint.open(chat_server.address) as endpoint:
        with pytest.raises(UsageError, match="Lark grammar"):
            endpoint.generate([Request(PROMPT, grammar=Lark("start: /a/"))])
        with pytest.raises(ValueError, match="cannot be used"):
            endpoint.generate([Request(PROMPT, grammar="(")])
        with pytest.raises(SetupError, match="no reward head"):
            endpoint.score([PROMPT], ["x"])


def test_addresses() -> None:
    assert server_at("http://localhost:8000/v1#org/name") == Server("http://localhost:8000/v1", "org/name")
    assert server_at("HTTPS://api.example.com/v1/#m") == Server("https://api.example.com/v1", "m")
    for wrong in ("http://h/v1", "http://h/v1#", "http:///v1#m", "http://h:x/v1#m", "http://h/v1?a=b#m", "h:80/v1#m"):
        with pytest.raises(UsageError, match="write it as http://host:port/v1#model-name"):
            server_at(wrong)
    with pytest.raises(UsageError, match="set OPENAI_API_KEY") as error:
        server_at("http://me:secret@h/v1#m")
    one_line(error)


def test_langchain(chat_server: Any, tiny_model: Path) -> None:
    settings: dict[str, Any] = {"temperature": 0, "max_tokens": 12, "seed": 1}
    here, there = chat_model(str(tiny_model), **settings), chat_model(chat_server.address, **settings)
    assert isinstance(here, ChatModel) and isinstance(there, ChatOpenAI)
    here.engine.close()
    here = ChatModel(engine=chat_server.engine, **settings)
    messages = [SystemMessage("Make 24."), HumanMessage("4 7 <|im_end|> 8")]
    want = here.invoke(messages)
    for model in (here, there):
        reply = model.invoke(messages)
        assert (reply.text, reply.usage_metadata["output_tokens"]) == (want.text, want.usage_metadata["output_tokens"])
        chunks = list(model.stream(messages))
        whole = sum(chunks[1:], start=chunks[0])
        assert isinstance(whole, AIMessageChunk) and whole.text == want.text and len(chunks) > 2
        assert whole.usage_metadata["input_tokens"] == want.usage_metadata["input_tokens"]
        stop = want.text[3:5]
        assert model.invoke(messages, stop=[stop]).text == want.text[: want.text.index(stop)]
    assert chat_server.received[0]["messages"][1] == {"role": "user", "content": "4 7 <|im_end|> 8"}


def test_smolagents(chat_server: Any, tiny_model: Path) -> None:
    settings: dict[str, Any] = {"temperature": 0, "max_tokens": 12}
    here, there = smol_model(str(tiny_model), **settings), smol_model(chat_server.address, **settings)
    assert isinstance(here, EngineModel) and isinstance(there, OpenAIModel)
    here.engine.close()
    messages = [{"role": "user", "content": [{"type": "text", "text": "4 7 <|im_end|> 8"}]}]
    want = EngineModel(chat_server.engine, **settings).generate(messages)
    got = there.generate(messages)
    assert (got.content, got.token_usage) == (want.content, want.token_usage)
