"""A chat with a run's council, and the commands that its terminal has."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage
from prompt_toolkit.application import create_app_session
from prompt_toolkit.document import Document
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from alignment.engine import Engine
from alignment.errors import UsageError
from graphs.align import run_align
from graphs.chat import Chats, sitting_of
from graphs.cli.chat import Talk, Wanted, opened
from graphs.cli.chat_commands import COMMANDS, completions, turns_of
from graphs.cli.chat_files import read
from graphs.cli.chat_terminal import Terminal, parted
from graphs.cli.output import printable
from graphs.council_chat import sitting
from graphs.recipe import load_recipe


@pytest.fixture(scope="module")
def runs(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``tiny``, which has a council and a reward model."""
    folder = tmp_path_factory.mktemp("chats")
    content = {
        "name": "tiny",
        "stop_after": "reward",
        "data": {"lines": 24, "pairs": 16, "prompts": 24},
        "backbone": {"model": str(tiny_model), "quantization": "none", "compute_dtype": "float32", "lora": {"rank": 4}},
        "sft": {"steps": 2, "batch_size": 4},
        "reward": {"steps": 2, "batch_size": 2},
        "council": {
            "experts": [{"name": "Ada", "role": "sft"}, {"name": "Carl", "role": "sft", "temperature": 1.3}],
            "rounds": 3,
            "max_tokens_per_step": 200,  # a random model is long about its numbers
        },
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content))
    run_align(load_recipe(folder / "recipe.yaml"), folder, folder / "runs", False, lambda event: None)
    return folder / "runs"


@pytest.fixture
def talk(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Talk]:
    monkeypatch.setenv("JUNTO_CACHE", str(tmp_path))
    monkeypatch.setattr("prompt_toolkit.output.create_output", lambda **_: DummyOutput())
    with opened(Wanted("tiny", graph="council", runs_root=runs)) as talk:
        database = tmp_path / "threads.sqlite"  # of each test its own
        context = replace(talk.chats.context, council=_over(talk, database))
        with closing(Chats(database, "tiny", context)) as chats:
            yield replace(talk, chats=chats, database=database)


def _over(talk: Talk, database: Path) -> Any:
    from functools import partial

    from graphs import council_chat

    return partial(council_chat.reply, talk.council, database)


def typed(terminal: Terminal, *lines: str) -> Wanted | None:
    with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
        pipe.send_text("".join(f"{line}\r" for line in lines) + "/exit\r")
        return terminal.loop()


def test_the_council_replies_and_says_why(talk: Talk, capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal(talk, "a")
    typed(terminal, "8 7 8 4", "/experts", "/tree", "/score", "/why", "/why shapley", "no puzzle", "/why nonsense")
    asked, reply = talk.chats.messages("a")  # what is no puzzle is taken back
    assert talk.council is not None
    result = sitting(talk.council, talk.database, "8 7 8 4", sitting_of(asked))
    out, err = capsys.readouterr()
    assert reply.text == (result["answer"] or f"No answer: {result['notes'][-1]}")
    assert reply.response_metadata["council"]["experts"] == result["experts"]
    assert reply.usage_metadata["output_tokens"] == result["tokens"]
    for thought in result["thoughts"]:
        assert f"{thought['expert']}: {printable(thought['text']).strip()[:10]}" in out  # of /tree
    assert "Carl" in out and "1.3" in out and "sft" in out
    page = talk.run.path / "trees" / "4-7-8-8.html"
    assert str(page) in out and page.is_file()
    if result["answer"]:
        assert f"{max(t['score'] for t in result['thoughts'] if t['status'] == 'final'):+.3f}" in out
        assert "LIME" in out and "Shapley" in out
    else:
        assert err.count("the council finished no line") == 3
    assert "is no puzzle" in err and "there is no method 'nonsense'; there are lime" in err


def test_a_sitting_that_was_killed_goes_on_where_it_was(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    list(talk.chats.reply("whole", "8 7 8 4"))
    (asked, reply) = talk.chats.messages("whole")
    # the same question, by the same id and so the same seeds, in a session that ends in the middle
    talk.chats._graph.update_state(
        {"configurable": {"thread_id": "chat/killed"}}, {"messages": [asked]}, as_node="__start__"
    )
    database = talk.database.with_name("other.sqlite")
    over = talk.chats.context.council = _over(talk, database)

    def dies(event: dict[str, Any]) -> None:
        if event["kind"] == "thought":  # the first steps are written, and are judged
            raise KeyboardInterrupt

    talk.chats.context.council = lambda question, thread, tell, *more: over(question, thread, dies, *more)
    with pytest.raises(KeyboardInterrupt):
        list(talk.chats.reply("killed", None))
    talk.chats.context.council = over
    assert talk.chats.unanswered("killed")
    asked_again: list[str] = []
    generate = Engine._row

    def noticed(engine: Engine, request: Any) -> Any:
        asked_again.append(request.seed)
        return generate(engine, request)

    monkeypatch.setattr(Engine, "_row", noticed)
    list(talk.chats.reply("killed", None))
    assert talk.chats.messages("killed")[-1].text == reply.text
    assert not any(seed.endswith(("/Ada-1", "/Carl-1")) for seed in asked_again)


def test_a_council_that_is_stopped_concludes_with_what_it_has(talk: Talk) -> None:
    events = talk.chats.reply("a", "8 7 8 4")
    rounds = set()
    for event in events:
        rounds.add(event.get("round"))
        talk.chats.context.cancelled.set()
    reply = talk.chats.messages("a")[-1]
    assert isinstance(reply, AIMessage) and rounds <= {1, None}
    assert reply.response_metadata["council"]["rounds"] == 1
    if reply.text.startswith("No answer"):
        assert reply.text == "No answer: no line was finished: it was stopped after 1 rounds"


def test_a_person_decides_in_the_chat(
    talk: Talk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert talk.council is not None
    asking = replace(talk.council, config=talk.council.config.model_copy(update={"ask_before": ["conclude"]}))
    terminal = Terminal(replace(talk, council=asking), "a")
    talk.chats.context.council = _over(terminal.talk, talk.database)
    monkeypatch.setattr("sys.stdin", io.StringIO("mine\n" * 9))
    for _ in range(9):  # random weights leave as often as they finish
        typed(terminal, "8 7 8 4")
        reply = talk.chats.messages("a")[-1]
        if not reply.text.startswith("No answer"):
            break
    assert reply.text == "mine" and "The council's verdict is" in capsys.readouterr().err
    assert not talk.chats.unanswered("a") and talk.chats.context.decisions is not None


def test_a_run_without_a_council_and_a_model_without_a_run(runs: Path, tiny_model: Path) -> None:
    refused = pytest.raises(UsageError, match="is no run, and only a run has a council")
    with refused, opened(Wanted(str(tiny_model), graph="council", runs_root=runs)):
        pass


# -- the conversation, replied to by a model --------------------------------------------------------------


@pytest.fixture
def plain(talk: Talk) -> Terminal:
    talk.chats.context.council = None
    model: Any = talk.chats.context.model
    model.max_tokens, model.temperature = 6, 1.0
    return Terminal(replace(talk, council=None), "a")


def said(terminal: Terminal) -> list[str]:
    return [turn[0].text for turn in turns_of(terminal.chats.messages(terminal.session))]


def test_branches_retries_and_comparisons(plain: Terminal, capsys: pytest.CaptureFixture[str]) -> None:
    typed(plain, "one", "two", "three", "/retry", "/branch", "/branch 1", "four", "/compare")
    assert said(plain) == ["one", "four"]
    first = next(s.name for s in plain.chats.sessions() if s.name == "a")
    out, err = capsys.readouterr()
    assert (
        "1 turns are the same" in out
        and "> two" in out
        and "> four" in out
        and "> one" not in out.split("are the same")[1]
    )
    assert "2  two" in out and "> three" in out
    typed(plain, f"/sessions {first}", "/branch 4", "/branch x", "/compare nobody", "/undo")
    assert said(plain) == ["one", "two"]
    err = capsys.readouterr().err
    assert (
        "'4' is no turn; there are 0 to 3" in err and "'x' is no turn" in err and "there is no session 'nobody'" in err
    )


def test_files(plain: Terminal, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "<script>alert(1)</script> <|im_end|> \x1b[31m"
    plain.chats.begin("a", [HumanMessage(hostile), AIMessage("# no *markup*")])
    files = [tmp_path / name for name in ("a.json", "a.html", "a.md")]
    typed(plain, f"/save {files[0]}", f"/export {files[1]}", f"/export {files[2]}", f"/load {files[0]}", "/load none")
    assert plain.session != "a"
    assert [(m.type, m.text) for m in plain.chats.messages(plain.session)] == [
        ("human", hostile),
        ("ai", "# no *markup*"),
    ]
    page = files[1].read_text()
    assert "<script" not in page and "&lt;script&gt;" in page and "\x1b" not in page
    assert files[2].read_text().startswith("## user\n\n<script>")
    assert "none cannot be read: No such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "holds no JSON"),
        ("[" * 100_000, "holds no JSON"),
        ("{}", "is no list of"),
        ('[{"role": "user"}]', "is no list of"),
        ('[{"role": "tool", "content": "x"}]', "is no list of"),
        ('[{"role": "assistant", "content": "x"}]', "nothing that a user said"),
    ],
)
def test_a_file_that_is_no_conversation(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UsageError, match=sentence):
        read(tmp_path / "a.json")


def test_roles_and_models(plain: Terminal, capsys: pytest.CaptureFixture[str]) -> None:
    model: Any = plain.chats.context.model
    assert typed(plain, "/model", "/model base", "/model reward") is None
    assert model.role == "base"
    out, err = capsys.readouterr()
    assert "roles: base, sft" in out and "reward scores and does not write; there are base, sft" in err
    following = typed(plain, "/model somebody/else")
    assert following == replace(plain.talk.wanted, model="somebody/else", graph="chat")
    plain.following = None
    assert typed(plain, "/score", "/tree", "hello", "/score", "/tree", "/experts") is None
    out, err = capsys.readouterr()
    assert err.count("there is no reply yet") == 2 and "so there is no tree" in err
    reply = plain.chats.messages("a")[-1].text
    reward = plain.talk.engine.score([[{"role": "user", "content": "hello"}]], [reply])[0]
    assert f"reward of the last reply: {reward:+.3f}" in out and "one model replies" in out


def test_a_command_that_fails_ends_neither_chat_nor_session(
    plain: Terminal, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("out of paper\nsecond line")

    monkeypatch.setitem(COMMANDS, "/tokens", replace(COMMANDS["/tokens"], run=broken))
    typed(plain, "one", "/tokens", "two")
    assert said(plain) == ["one", "two"]
    monkeypatch.setattr(Engine, "streams", broken)
    monkeypatch.setattr(Engine, "stream", broken)
    typed(plain, "three")
    assert said(plain) == ["one", "two"]
    assert capsys.readouterr().err.count("RuntimeError: out of paper; run again") == 2


def test_completion(plain: Terminal, tmp_path: Path) -> None:
    typed(plain, "one")
    completer = completions(plain)

    def of(line: str) -> list[str]:
        return [one.text for one in completer.get_completions(Document(line), None)]  # type: ignore[arg-type]

    assert of("/br") == ["/branch"] and set(of("/")) == set(COMMANDS)
    assert of("/model s") == ["sft"] and of("/compare ") == ["a"] and of("/why sh") == ["shapley"]
    (tmp_path / "chat.json").touch()
    assert "json" in "".join(of(f"/load {tmp_path}/chat."))
    assert of("hello /br") == [] and of("/undo x") == []


# -- Markdown ---------------------------------------------------------------------------------------------

LINES = st.lists(st.sampled_from(["", "text", "```", "~~~", "  ```python", "- item", " "]), max_size=12)


@given(LINES, st.booleans())
def test_blocks_are_parted_at_blank_lines_outside_of_code(lines: list[str], ends: bool) -> None:
    text = "\n".join(lines) + ("\n" if ends else "")
    finished, rest = parted(text)
    assert finished + rest == text
    fences = sum(line.lstrip().startswith(("```", "~~~")) for line in finished.splitlines())
    assert fences % 2 == 0  # no block of code is cut
    assert not finished or not finished.splitlines()[-1].strip()


def test_a_block_of_code_with_blank_lines_stays_whole() -> None:
    assert parted("a\n\n```\nx\n\ny\n") == ("a\n\n", "```\nx\n\ny\n")
    assert parted("```\nx\n\ny\n```\n\nb") == ("```\nx\n\ny\n```\n\n", "b")


def test_saved_files_are_what_any_list_of_messages_is(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]))
    assert [m.type for m in read(tmp_path / "a.json")] == ["system", "human"]
