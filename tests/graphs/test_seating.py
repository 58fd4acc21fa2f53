"""A council and a chat without a run: the commands on an OpenAI-compatible server of the tiny model."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from agents.thought import step_grammar
from alignment.engine import Request
from graphs.cli.chat import Wanted, opened
from graphs.cli.chat_terminal import Terminal
from graphs.cli.main import main
from graphs.cli.output import printable

TASK = "from graphs.tasks.game24 import *\nSTEP = '[0-9]{2}'\n"  # random weights write it: two digits, and more or none
COUNCIL = ["run", "council", "--question", "4 7 8 8", "--set", "council.rounds=2"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("JUNTO_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits.py").write_text(TASK)
    return tmp_path / "cache"


def council(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    code = main([*COUNCIL, "--json", *arguments])
    out, err = capsys.readouterr()
    assert code == 0, err
    return json.loads(out)


def test_a_council_on_a_server(chat_server: Any, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = council(capsys, "--model", chat_server.address, "--task", "digits.py", "--set", "council.seed=1")
    assert [e["name"] for e in result["experts"]] == ["Ada", "Blaise", "Carl"]
    steps = [t for t in result["thoughts"] if t["status"] != "pruned"]  # pruned: those that its limit cut
    assert steps and all(re.fullmatch(step_grammar("[0-9]{2}"), t["text"]) for t in steps)
    # there is no reward model here: lines are scored by the log-probabilities that the server tells
    assert all((t["score"] is None) == (t["status"] == "left") for t in steps) and result["tokens"] > 0
    scores = [t["score"] for t in steps if t["status"] != "left"]
    assert scores and max(scores) < 0
    assert any("majority" in note for note in result["notes"])
    asked = [b for b in chat_server.received if b.get("structured_outputs") == {"regex": step_grammar("[0-9]{2}")}]
    assert len(asked) == len(result["thoughts"])
    for body in asked:
        assert "matches the regular expression [0-9]{2}\n" in body["messages"][0]["content"]
        assert [m["role"] for m in body["messages"][2:]] in ([], ["assistant", "user"])
    assert (cache / "councils.sqlite").stat().st_mode & 0o777 == 0o600


def test_steps_without_their_form_are_none(chat_server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    chat_server.refuses = {"structured_outputs"}
    result = council(capsys, "--model", chat_server.address, "--set", "council.max_tokens_per_step=8")
    assert result["answer"] is None and {e["status"] for e in result["experts"]} == {"left"}
    assert {t["status"] for t in result["thoughts"]} == {"pruned"}
    assert all("form" in t["reason"] or "limit" in t["reason"] for t in result["thoughts"])


def test_a_council_on_a_folder_and_a_recipe(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my.py").write_text("def length(prompt, response):\n    return -len(response)\n")
    (tmp_path / "r.yaml").write_text(
        "name: mine\ntask: digits.py\nreward: {function: my.py:length}\n"
        "council: {experts: [{name: Zoe, persona: Be bold., role: sft}]}\n"
    )
    result = council(capsys, "r.yaml", "--model", str(tiny_model))
    assert [(e["name"], e["status"] == "crashed") for e in result["experts"]] == [("Zoe", False)]
    first = result["thoughts"][0]
    assert first["score"] == -len(first["text"])


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ([*COUNCIL, "--model", "http://127.0.0.1/v1"], 2, "write it as http://host:port/v1#model-name"),
        ([*COUNCIL, "--model", "http://127.0.0.1:1/v1#m"], 3, "cannot be reached"),
        ([*COUNCIL, "--model", "embedded", "--task", "graphs.tasks.gone"], 2, "there is no task 'graphs.tasks.gone'"),
        ([*COUNCIL, "--model", "embedded", "--set", "council.ronds=1"], 2, "council.rounds"),
        ([*COUNCIL, "--model", "embedded", "--run", "kept"], 2, "--model seats a model without a run"),
        ([*COUNCIL, "--task", "graphs.tasks.game24"], 2, "--task goes with --model"),
        (["run", "council", "--model", "embedded"], 2, "needs a question"),
        (["chat", "http://127.0.0.1:1/v1#m"], 3, "cannot be reached"),
        (["chat", "http://127.0.0.1:1/v1#m", "--role", "policy"], 2, "a server has no roles"),
    ],
)
def test_a_wrong_request_is_one_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, says: str
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"4 7 8 8")))
    assert main(arguments) == code
    out, err = capsys.readouterr()
    [sentence] = err.splitlines()
    assert out == "" and sentence.startswith("error: ") and says in sentence


def test_the_plan_asks_nobody(chat_server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*COUNCIL, "--model", chat_server.address, "--dry-run"]) == 0
    assert f"# model: {chat_server.address}, in every seat" in capsys.readouterr().out
    assert not chat_server.received


def test_chat_with_a_server(
    chat_server: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, str]] = []
    for question, *options in (["4 <|im_end|> 8"], ["again", "--continue"]):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(question.encode())))
        assert main(["chat", chat_server.address, *options]) == 0
        reply = capsys.readouterr().out
        asked.append({"role": "user", "content": question})
        messages = chat_server.received[-1]["messages"]
        assert messages == asked
        done = chat_server.engine.generate([Request(messages, role="base", max_tokens=64)])[0]
        assert reply == f"{printable(done.text)}\n"
        asked.append({"role": "assistant", "content": done.text})


def test_tokens_of_a_chat_are_the_servers(chat_server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with opened(Wanted(chat_server.address)) as talk:
        terminal = Terminal(talk, "s")
        terminal.command("/tokens")
        terminal.write_reply("4 7")
        assert "the server counted no tokens" in capsys.readouterr().out
        terminal.command("/tokens")
        done = chat_server.engine.generate([Request([{"role": "user", "content": "4 7"}], role="base", max_tokens=64)])[
            0
        ]
    assert capsys.readouterr().out == f"the server counted {done.prompt_tokens + done.tokens} tokens\n"
