"""Chats: the graph over a real engine, sessions in SQLite, the pipe and the terminal."""

from __future__ import annotations

import json
import os
import pty
import signal
import sqlite3
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from select import select
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from agents.chat_model import ChatModel
from alignment.adapter_files import save_role
from alignment.backbone import Backbone
from alignment.config import BackboneConfig
from alignment.engine import Engine
from alignment.errors import UsageError
from graphs.chat import Chats, Context, fit, graph
from graphs.cli.chat import Talk, Wanted, piped_question, start
from graphs.cli.chat_terminal import Terminal
from graphs.cli.main import main
from graphs.cli.output import printable, unechoed
from graphs.database import Claimed, Database

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> Iterator[Engine]:
    with Engine.open(tiny_model, "float32") as engine:
        yield engine


@pytest.fixture
def context(engine: Engine) -> Context:
    return Context(ChatModel(engine=engine, max_tokens=16, temperature=0), window=512)


@pytest.fixture
def chats(context: Context, tmp_path: Path) -> Iterator[Chats]:
    with closing(Chats(tmp_path / "chats.sqlite", "tiny", context)) as chats:
        yield chats


def say(chats: Chats, session: str, question: str | None) -> str:
    return "".join(e["text"] for e in chats.reply(session, question) if e["kind"] == "token")


def words(chats: Chats, session: str) -> list[tuple[str, str]]:
    return [(m.type, m.text) for m in chats.messages(session)]


def test_two_turns_are_remembered_by_another_connection(context: Context, tmp_path: Path) -> None:
    path = tmp_path / "chats.sqlite"
    with closing(Chats(path, "tiny", context)) as chats:
        first = say(chats, "a", "4 7 8 8")
        assert context.model.invoke("4 7 8 8").text == first
    with closing(Chats(path, "tiny", context)) as chats:
        assert chats.last() == "a" and chats.sessions()[0].title == "4 7 8 8"
        second = say(chats, "a", "and 1 2?")
        assert words(chats, "a") == [("human", "4 7 8 8"), ("ai", first), ("human", "and 1 2?"), ("ai", second)]
        # the second reply has read the first turn
        assert context.model.invoke(chats.messages("a")[:3]).text == second
        assert all(isinstance(m, HumanMessage | AIMessage) for m in chats.messages("a"))
        assert chats.messages("b") == []
    assert path.stat().st_mode & 0o077 == 0


def test_the_graph_needs_no_checkpointer(context: Context) -> None:
    state = graph.invoke({"messages": [HumanMessage("4 7 8 8")]}, context=context)
    assert state["messages"][-1].text == context.model.invoke("4 7 8 8").text


def test_last_is_of_this_model(context: Context, tmp_path: Path) -> None:
    for model, session in (("one", "a"), ("two", "b"), ("one", "c"), ("two", "d")):
        with closing(Chats(tmp_path / "chats.sqlite", model, context)) as chats:
            assert chats.last() == {"a": None, "b": None, "c": "a", "d": "b"}[session]
            say(chats, session, "1 2")


def test_long_conversations_leave_out_the_oldest_turns_and_say_so(context: Context, chats: Chats) -> None:
    context.window = 120
    notes: list[str] = []
    for i in range(5):
        notes += [e["text"] for e in chats.reply("a", f"{i} 7 8 8 9 9 9 9 9 9") if e["kind"] == "note"]
    assert len(chats.messages("a")) == 10  # the conversation itself is whole
    assert notes and "left out of the prompt" in notes[-1] and "120 tokens" in notes[-1]
    with pytest.raises(UsageError, match="the message takes .* tokens, but the model's window leaves 104"):
        list(chats.reply("a", "9 " * 200))


@given(st.lists(st.tuples(st.sampled_from("sha"), st.integers(0, 5)), min_size=1, max_size=12), st.integers(0, 40))
def test_fit_keeps_the_newest_turns_that_fit(spoken: list[tuple[str, int]], limit: int) -> None:
    kinds: dict[str, Any] = {"s": SystemMessage, "h": HumanMessage, "a": AIMessage}
    messages: list[BaseMessage] = [kinds[kind]("x" * length) for kind, length in spoken] + [HumanMessage("?")]

    def count(some: list[BaseMessage]) -> int:
        return sum(len(m.text) + 1 for m in some)

    turns: list[list[BaseMessage]] = []
    for message in messages:
        if isinstance(message, HumanMessage) or (isinstance(message, AIMessage) and not turns):
            turns.append([])
        if not isinstance(message, SystemMessage):
            turns[-1].append(message)
    fitting = []
    for gone in range(len(turns)):
        lost = [id(m) for turn in turns[:gone] for m in turn]
        kept = [m for m in messages if id(m) not in lost]
        fitting += [(kept, gone)] if count(kept) <= limit else []
    if fitting:
        assert fit(messages, count, limit) == fitting[0]
    else:
        with pytest.raises(UsageError, match="shorten it"):
            fit(messages, count, limit)


def test_cancelling_keeps_what_is_written(context: Context, chats: Chats) -> None:
    context.model.max_tokens = 300
    whole = context.model.invoke("4 7 8 8").text
    events = chats.reply("a", "4 7 8 8")
    first = next(events)["text"]
    context.cancelled.set()
    told = first + "".join(e["text"] for e in events)
    assert whole.startswith(told) and len(told) < len(whole)
    assert words(chats, "a") == [("human", "4 7 8 8"), ("ai", told)]
    assert chats.messages("a")[-1].response_metadata["finish_reason"] == "cancelled"
    assert not chats.unanswered("a")


def test_a_reply_that_is_cancelled_before_it_begins_is_not_written(context: Context, chats: Chats) -> None:
    context.model.max_tokens = 300
    whole = context.model.invoke("4 7 8 8").text
    context.cancelled.set()
    said = say(chats, "a", "4 7 8 8")
    assert len(said) < len(whole) / 10 and not chats.unanswered("a")


def test_two_programs_do_not_reply_in_one_session(context: Context, chats: Chats, tmp_path: Path) -> None:
    context.model.max_tokens = 300
    with closing(Chats(tmp_path / "chats.sqlite", "tiny", context)) as other:
        events = chats.reply("a", "4 7 8 8")
        first = next(events)["text"]
        assert other.unanswered("a")  # as one sees it that comes meanwhile
        for action in (lambda: say(other, "a", None), lambda: say(other, "a", "1 2"), lambda: other.undo("a")):
            with pytest.raises(Claimed, match="another program is writing a reply in session a"):
                action()
        assert say(other, "b", "1 2")
        whole = first + "".join(event["text"] for event in events)
        assert words(chats, "a") == [("human", "4 7 8 8"), ("ai", whole)]
        assert say(other, "a", "and?") and other.undo("a") == "and?"
    assert not list(tmp_path.glob(".*.lock"))


def test_what_a_killed_program_has_claimed_is_free(tmp_path: Path) -> None:
    path = tmp_path / "chats.sqlite"
    code = "import sys, time; from pathlib import Path; from graphs.database import Database\n"
    code += f"with Database(Path({str(path)!r})).claim('a', 'taken'):\n    print('has it', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None and program.stdout.readline() == "has it\n"
        with closing(Database(path)) as database:
            with pytest.raises(Claimed, match="taken"), database.claim("a", "taken"):
                pass
            program.kill()
            program.wait()
            with database.claim("a", "taken"):
                pass
            with pytest.raises(FileNotFoundError, match="its own"), database.claim("a", "taken"):
                raise FileNotFoundError("its own")


def test_chats_that_are_pruned_are_listed_no_more(chats: Chats, tmp_path: Path) -> None:
    from graphs import kept_threads

    for session in ("a", "b", "c"):
        say(chats, session, "4 7 8 8")
    with kept_threads.opened(tmp_path / "chats.sqlite") as database:
        assert kept_threads.prune(database, ["chat/b", "chat/a"], 0.0)["threads"] == 2
    assert [session.name for session in chats.sessions()] == ["c"]


def test_undo_takes_back_one_turn(chats: Chats) -> None:
    say(chats, "a", "1 2")
    before = words(chats, "a")
    say(chats, "a", "3 4")
    assert chats.undo("a") == "3 4" and words(chats, "a") == before
    again = say(chats, "a", "5 6")
    assert words(chats, "a") == [*before, ("human", "5 6"), ("ai", again)]
    assert [chats.undo("a"), chats.undo("a"), chats.undo("a")] == ["5 6", "1 2", None]


def test_a_question_whose_reply_was_lost_is_answered(chats: Chats, context: Context) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("the program ends here")

    whole = context.model.invoke("1 2").text
    good, context.model = context.model, context.model.model_copy()
    object.__setattr__(context.model, "stream", fail)
    with pytest.raises(RuntimeError):
        say(chats, "a", "1 2")
    assert chats.unanswered("a")
    context.model = good
    assert "".join(e["text"] for e in chats.reply("a", None)) == whole
    assert words(chats, "a") == [("human", "1 2"), ("ai", whole)]


def type_in(terminal: Terminal, keys: str) -> None:
    with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
        pipe.send_text(keys)
        terminal.loop()


@pytest.fixture
def terminal(chats: Chats, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("JUNTO_CACHE", str(tmp_path))
    monkeypatch.setattr("prompt_toolkit.output.create_output", lambda **_: DummyOutput())
    return Terminal(Talk(chats, Wanted("tiny"), tmp_path / "chats.sqlite"), "a")


def test_the_terminal(terminal: Terminal, chats: Chats, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved = tmp_path / "chat.json"
    type_in(
        terminal,
        f"\r  \r4 7\x1b\r8 8\r1 2\r/undo\r/tokens\r/save {saved}\r/save {saved}\r/nw\r/new\r/sessions\r/exit\r",
    )
    (_, question), (_, reply) = words(chats, "a")  # one turn is left: empty lines are nothing
    assert question == "4 7\n8 8"
    out, err = capsys.readouterr()
    assert printable(reply) in out
    assert "taken back: 1 2" in out
    assert json.loads(saved.read_text()) == [
        {"role": "user", "content": question},
        {"role": "assistant", "content": reply},
    ]
    assert f"error: {saved} is there already" in err
    assert 'there is no command /nw; did you mean "/new"?' in out
    assert f"{chats.context.model.get_num_tokens_from_messages(chats.messages('a'))} tokens of the model's 512" in out
    assert "  a  " in out and "tiny  4 7 8 8" in out
    assert terminal.session != "a" and f"session {terminal.session}" in err
    assert "4 7" in (tmp_path / "chat_history").read_text()


def test_ctrl_c_and_ctrl_d_in_the_terminal(
    terminal: Terminal, chats: Chats, capsys: pytest.CaptureFixture[str]
) -> None:
    type_in(terminal, "half a line\x03\x04")
    assert chats.messages("a") == [] and "Ctrl-D or /exit leaves" in capsys.readouterr().err


def test_an_error_in_the_terminal_is_one_sentence(
    terminal: Terminal, chats: Chats, capsys: pytest.CaptureFixture[str]
) -> None:
    type_in(terminal, f"{'9 ' * 600}\r1 2\r\x04")
    assert [text for kind, text in words(chats, "a") if kind == "human"] == ["1 2"]
    assert capsys.readouterr().err.count("error: the message takes") == 1


def test_ctrl_c_ends_a_reply(terminal: Terminal, chats: Chats, capsys: pytest.CaptureFixture[str]) -> None:
    chats.context.model.max_tokens = 400
    written = threading.Event()
    write = sys.stdout.write

    def kill() -> None:
        written.wait(60)
        os.kill(os.getpid(), signal.SIGINT)

    def noticed(text: str) -> int:
        written.set()
        return write(text)

    killer = threading.Thread(target=kill)
    killer.start()
    sys.stdout.write = noticed  # type: ignore[method-assign]
    try:
        assert terminal.write_reply("4 7 8 8") is False
    finally:
        del sys.stdout.write
        killer.join()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    (_, _), (_, told) = words(chats, "a")
    assert told and "note: stopped" in capsys.readouterr().err
    chats.context.model.max_tokens = 4
    assert terminal.write_reply("1 2") is True


def test_start(chats: Chats, capsys: pytest.CaptureFixture[str]) -> None:
    assert start(chats, None, True) not in {"a", "kept"}
    assert "no earlier session" in capsys.readouterr().err
    say(chats, "kept", "4 7 8 8")
    assert start(chats, None, True) == "kept" == start(chats, "kept", False)
    assert "session kept goes on; it began with: 4 7 8 8" in capsys.readouterr().err
    assert start(chats, "other", False) == "other"


@pytest.mark.parametrize("sent", [b"", b"  \n", b"\xff\xfe\x00"])
def test_a_pipe_without_a_question(sent: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").write_bytes(sent)
    with (tmp_path / "in").open() as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        with pytest.raises(UsageError, match="the question is empty|not UTF-8"):
            piped_question()


def pipe(model: Path, cache: Path, question: str, *options: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"JUNTO_CACHE": str(cache), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "graphs.cli", "chat", str(model), *options],
        input=question,
        capture_output=True,
        text=True,
        cwd=cache,
        env=environment,
        timeout=200,
    )


def test_a_pipe_answers_and_goes_on(tiny_model: Path, tmp_path: Path, context: Context) -> None:
    first = pipe(tiny_model, tmp_path, "4 7 8 8\n")
    second = pipe(tiny_model, tmp_path, "1 2", "--continue")
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert "began with: 4 7 8 8" in second.stderr
    assert "135M" not in first.stderr  # this is not the embedded model
    with closing(Chats(tmp_path / "chats.sqlite", str(tiny_model), context)) as chats:
        (only,) = chats.sessions()
        kept = words(chats, only.name)
    assert [text for kind, text in kept if kind == "human"] == ["4 7 8 8", "1 2"]
    for done, (_, reply) in zip((first, second), kept[1::2], strict=True):
        assert done.stdout == (f"{printable(reply)}\n" if reply else "")


def test_a_run_answers_with_its_policy_and_keeps_its_sessions(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    backbone = Backbone(BackboneConfig(model=str(tiny_model), quantization="none", compute_dtype="float32"))
    run = tmp_path / "run"
    for i, role in enumerate(("sft", "policy")):
        backbone.add_role(role, seed=i)
        for parameter in backbone.parameters(role):
            torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(i))
        save_role(backbone, role, run / "adapters" / role)
    (run / "config.yaml").write_text(json.dumps({"backbone": backbone.config.model_dump(mode="json")}))
    (tmp_path / "in").write_text("4 7 8 8")
    written: list[str] = []
    generate = Engine._row
    monkeypatch.setattr(Engine, "_row", lambda self, request: written.append(request.role) or generate(self, request))
    for options, role in (([], "policy"), (["--role", "sft"], "sft"), (["--continue"], "policy")):
        with (tmp_path / "in").open() as stdin:
            monkeypatch.setattr(sys, "stdin", stdin)
            assert main(["chat", "run", "--runs-root", str(tmp_path), *options]) == 0, capsys.readouterr().err
        assert written.pop() == role and not written
    connection = sqlite3.connect(run / "threads.sqlite")
    assert connection.execute("SELECT count(*), min(model), max(model) FROM chats").fetchall() == [(2, "run", "run")]
    assert {row[0][:5] for row in connection.execute("SELECT thread_id FROM checkpoints")} == {"chat/"}


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--role", "policy"], 3, "this model has no role 'policy'; it has base"),
        (["--session", "a", "--continue"], 2, "give one of them"),
        (["--session", "a\x1bb"], 2, "without control characters"),
    ],
)
def test_wrong_options_are_one_sentence(
    options: list[str],
    code: int,
    words: str,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("JUNTO_CACHE", str(tmp_path))
    (tmp_path / "in").write_text("4 7")
    with (tmp_path / "in").open() as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert main(["chat", str(tiny_model), *options]) == code
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and words in err and err.count("\n") == 1


def test_what_is_typed_into_a_reply_is_not_drawn_over_it_and_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    keyboard, terminal = pty.openpty()
    with open(keyboard, "r+b", buffering=0) as keys, open(terminal) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        with unechoed():
            assert not termios.tcgetattr(stdin)[3] & termios.ECHO
            keys.write(b"next\n")
            assert select([stdin], [], [], 10)[0]  # only then has the terminal taken it
        assert termios.tcgetattr(stdin)[3] & termios.ECHO
        assert stdin.readline() == "next\n"
        keys.write(b"x\n")
        shown = b""
        while not shown.endswith(b"\n"):
            shown += keys.read(10)
        assert shown == b"x\r\n"  # of what was typed before nothing was
