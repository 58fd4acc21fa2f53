"""Threads, chats and the server's records on a Postgres server that the test starts, as in SQLite."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import HumanMessage

from alignment.errors import SetupError, UsageError
from graphs import kept_threads
from graphs.chat import Chats, Context
from graphs.cli.runs_remove import remove_runs
from graphs.database import ADDRESS, Claimed, Database, schema_of
from graphs.server.records import Records
from graphs.server.refusals import Refusal

BIN = next((path.parent for path in sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))[::-1]), None)
BIN = BIN or (Path(found).parent if (found := shutil.which("initdb")) else None)
pytestmark = pytest.mark.skipif(BIN is None, reason="no Postgres server on this machine (apt install postgresql)")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    assert BIN is not None
    folder = tmp_path_factory.mktemp("postgres")
    data, who = folder / "data", None
    if os.getuid() == 0:  # as whom it refuses to run
        who = next(one.pw_name for one in pwd.getpwall() if one.pw_name in ("postgres", "nobody"))
        os.chown(folder, pwd.getpwnam(who).pw_uid, -1)
        for parent in [folder, *folder.parents][:4]:  # up to pytest's own, where files are spread over processes
            parent.chmod(0o755)
    options: dict[str, Any] = {"user": who, "check": True, "capture_output": True, "cwd": "/", "timeout": 120}
    subprocess.run([BIN / "initdb", "-D", data, "-U", "junto", "-A", "trust", "-N"], **options)
    with closing(socket.create_server(("127.0.0.1", 0))) as bound:
        port = bound.getsockname()[1]
    flags = f"-p {port} -c listen_addresses=127.0.0.1 -c fsync=off -k {folder}"
    subprocess.run([BIN / "pg_ctl", "-D", data, "-w", "-l", folder / "log", "-o", flags, "start"], **options)
    yield f"postgresql://junto@127.0.0.1:{port}/postgres"
    subprocess.run([BIN / "pg_ctl", "-D", data, "-m", "immediate", "stop"], **options)


@pytest.fixture
def address(server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(ADDRESS, server)
    return server


def talk(path: Path, replies: list[str]) -> Chats:
    return Chats(path, "fake", Context(FakeListChatModel(responses=replies)))


def test_a_chat_goes_on_in_another_process_and_leaves_no_file(address: str, tmp_path: Path) -> None:
    path = tmp_path / "one" / "threads.sqlite"
    with closing(talk(path, ["first"])) as chats:
        assert "".join(event["text"] for event in chats.reply("talk", "hello %s ? \\")) == "first"
        assert chats.undo("talk") == "hello %s ? \\" and chats.messages("talk") == []
        list(chats.reply("talk", "again"))
    with closing(talk(path, ["second"])) as chats:
        list(chats.reply("talk", "and?"))
        assert [one.text for one in chats.messages("talk")] == ["again", "first", "and?", "second"]
        [session] = chats.sessions()
        assert (session.name, session.title) == ("talk", "hello %s ? \\") and session.updated > 1.7e9
    assert not path.exists()
    with closing(talk(tmp_path / "two" / "threads.sqlite", [])) as other:  # another run's threads are its own
        assert other.sessions() == []


def test_two_programs_do_not_reply_in_one_session(address: str, tmp_path: Path) -> None:
    path = tmp_path / "claimed" / "threads.sqlite"
    with closing(talk(path, ["a long reply"])) as chats, closing(talk(path, ["b"])) as other:
        events = chats.reply("talk", "1")
        next(events)
        with pytest.raises(Claimed, match="another program is writing a reply in session talk"):
            list(other.reply("talk", None))
        list(other.reply("else", "2"))
        list(events)
        assert other.undo("talk") == "1"


def test_a_connection_that_was_lost_is_made_anew(address: str, tmp_path: Path) -> None:
    with closing(talk(tmp_path / "lost" / "threads.sqlite", ["first", "second"])) as chats:
        list(chats.reply("talk", "1"))
        with closing(Database(tmp_path / "another" / "threads.sqlite")) as other:  # as a restart of the server does
            other.rows("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
        with pytest.raises(Exception, match="terminat|closed"):
            chats.messages("talk")
        list(chats.reply("talk", "2"))
        assert [one.text for one in chats.messages("talk")] == ["1", "first", "2", "second"]


def test_what_was_kept_of_a_run_goes_with_it(address: str, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "gone"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("name: gone\n")
    (run / "status.json").write_text('{"state": "done", "stages": {}}')
    with closing(talk(run / "threads.sqlite", ["first"])) as chats:
        list(chats.reply("talk", "1"))
    served = talk(run / "threads.sqlite", [])  # by a program that goes on
    assert remove_runs(["gone"], run.parent, True) == ["gone"]
    served.close()
    with closing(Database(tmp_path / "threads.sqlite")) as database:
        schemas = {row["name"] for row in database.rows("SELECT nspname AS name FROM pg_namespace")}
    assert schema_of(tmp_path / "threads.sqlite") in schemas and schema_of(run / "threads.sqlite") not in schemas
    with closing(talk(run / "threads.sqlite", ["again"])) as chats:  # a run of that name that comes later
        assert chats.messages("talk") == []


def test_threads_are_listed_copied_and_pruned(address: str, tmp_path: Path) -> None:
    path = tmp_path / "kept" / "threads.sqlite"
    with closing(talk(path, ["a", "b", "c"])) as chats:
        for question in ("1", "2", "3"):
            list(chats.reply("long", question))
    with kept_threads.opened(path) as database:
        assert kept_threads.names(database) == ["chat/long"]
        before = kept_threads.state_of(database, "chat/long")
        steps = [one.checkpoint["id"] for one in kept_threads.history(database, "chat/long")]
        assert before["checkpoints"] == len(steps) and before["state"] == "done"
        kept_threads.fork(database, "chat/long", "chat/short", steps[2])
        with pytest.raises(UsageError, match="already"):
            kept_threads.fork(database, "chat/long", "chat/short", None)
        assert len(kept_threads.state_of(database, "chat/short")["values"]["messages"]) <= 2
        went = kept_threads.prune(database, ["chat/long"], None)
        assert went["checkpoints"] == len(steps) - 1
        after = kept_threads.state_of(database, "chat/long")
        assert after["values"] == before["values"] and after["checkpoints"] == 1
        kept_threads.prune(database, ["chat/long"], 0.0)
        assert kept_threads.names(database) == ["chat/short"]


def test_records_of_the_server_and_what_two_do_at_the_same_time(address: str, tmp_path: Path) -> None:
    path = tmp_path / "server.sqlite"
    with closing(Records(path)) as one, closing(Records(path)) as two:
        one.add_thread("t", {"who": "me"})
        assert two.thread("t")["metadata"] == {"who": "me"}
        with pytest.raises(Refusal, match="there is a thread t already"):
            two.add_thread("t", {})
        began: list[Any] = []

        def begin(records: Records) -> None:
            try:
                began.append(records.begin_run("t", "a", {}, {}, "reject")["run_id"])
            except Refusal as refusal:
                began.append(refusal.status)

        workers = [threading.Thread(target=begin, args=(records,)) for records in (one, two) * 4]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        [run_id] = [found for found in began if found != 409]
        assert len(began) == 8 and one.search({"status": "busy"}) == ["t"]
        two.end_run(run_id, "success")
        assert [row["status"] for row in one.runs("t", "success", 10, 0)] == ["success"]
        assert one.runs("t", None, 10, 0)[0]["kwargs"] == {}
        assert one.copy_thread("t", "u")["metadata"] == {"who": "me"} and one.runs("u", None, 10, 0) == []
        one.remove_thread("t")
        assert not two.has_thread("t")


def test_a_council_waits_for_a_person_and_goes_on(address: str, tmp_path: Path) -> None:
    from langgraph.graph import END, START, StateGraph

    from graphs.asking import Waiting, answer, ask
    from graphs.threads import run_thread
    from graphs.turns import State

    def decide(state: State) -> State:
        return {"answer": ask("conclude", {"answer": "24"}, "The verdict.").kind}

    builder = StateGraph(State)
    builder.add_node("decide", decide)
    builder.add_edge(START, "decide")
    builder.add_edge("decide", END)
    given: dict[str, Any] = {"question": "4 7 8 8"}
    path = tmp_path / "council" / "threads.sqlite"
    with pytest.raises(Waiting) as waiting:
        run_thread(builder, "council", path, "one", given, None, lambda event: None)
    decisions = {name: answer("approve") for name in waiting.value.asked}
    state = run_thread(builder, "council", path, "one", given, None, lambda event: None, decisions=decisions)
    assert state["answer"] == "approve"


def test_what_cannot_be_reached_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(ADDRESS, "postgresql://me:secret@127.0.0.1:1/none")
    with pytest.raises(SetupError, match=f"{ADDRESS} cannot be reached") as error:
        Database(tmp_path / "x.sqlite")
    assert "secret" not in str(error.value)
    monkeypatch.setenv(ADDRESS, "mysql://x")
    with pytest.raises(SetupError, match="no address of a Postgres server"):
        Database(tmp_path / "x.sqlite")
    assert schema_of(Path("/x/Runs of Me/" + "y" * 80 + ".sqlite")).startswith("runs_of_me_yyy")


def test_messages_are_the_same_in_both(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = [HumanMessage("a\x00\x01b \U0001f600 <|im_end|>", id="1")]
    found = []
    for url in (address, ""):
        monkeypatch.setenv(ADDRESS, url)
        with closing(talk(tmp_path / "both" / "threads.sqlite", [])) as chats:
            chats.begin("s", said)
            found.append(chats.messages("s"))
    assert found[0] == found[1] == said
