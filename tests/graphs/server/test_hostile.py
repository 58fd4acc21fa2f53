"""What strangers, broken clients and other processes may do to a server, and what they may not."""

from __future__ import annotations

import http.client
import json
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime
from langgraph_sdk import get_sync_client
from openai import OpenAI
from typing_extensions import TypedDict

from alignment.errors import SetupError, UsageError
from graphs.cli.main import main
from graphs.server.assistants import Assistant
from graphs.server.connection import Connection
from graphs.server.guard import Limits, Policy
from graphs.server.records import Records
from graphs.server.refusals import Refusal
from graphs.server.serve import serve as serve_models
from tests.graphs.server.conftest import until

QUESTION = [{"role": "user", "content": "4 7 8 8"}]
ASKED = {"messages": QUESTION}
ENDLESS = {"type": "array", "items": {"enum": [1, 2]}, "minItems": 4000, "maxItems": 4000}
FORMAT = {"type": "json_schema", "json_schema": {"name": "endless", "schema": ENDLESS}}
LONG = {"response_format": FORMAT, "max_tokens": 12000}
CHAT = {"model": "tiny", "messages": QUESTION, "temperature": 0, "max_tokens": 4}


class Count(TypedDict):
    count: int


def talkative() -> StateGraph:
    """Tells far more than a connection holds."""

    def tell(state: Count, runtime: Runtime) -> Count:
        for _ in range(state["count"]):
            runtime.stream_writer("x" * 2**18)
        return {"count": 0}

    builder = StateGraph(Count)
    builder.add_node("tell", tell)
    builder.add_edge(START, "tell")
    return builder


TALKATIVE = Assistant("talkative", "talkative", talkative(), lambda settings, stop: None)


def idle(site: Any) -> bool:
    return not site.app.state.crew.working


def raw(site: Any, method: str, path: str, headers: dict[str, str], body: bytes = b"") -> tuple[int, bytes]:
    """A request as it stands: no client of ours would send some of these."""
    connection = http.client.HTTPConnection(site.url.removeprefix("http://"), timeout=60)
    with closing(connection):
        connection.putrequest(method, path, skip_host="Host" in headers)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            connection.putheader(name, value)
        connection.endheaders(body)
        response = connection.getresponse()
        return response.status, response.read()


def sentence(status: int, body: bytes, path: str) -> str:
    """The one sentence of an error, in the shape of its API."""
    told = json.loads(body)
    if path.startswith("/v1"):
        assert told.keys() == {"error"} and told["error"].keys() == {"message", "type", "param", "code"}
        said = told["error"]["message"]
    else:
        said = told["detail"]
    assert 400 <= status < 500 and said and "\n" not in said and "Traceback" not in said and "File " not in said
    return said


BROKEN = [b"{", b"[]", b'"text"', b"\xff\xfe", b'{"model": "\\ud800"}', b"[" * 100_000, b'{"a": NaN}', b"null"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/threads", "/threads/search", "/runs/stream"])
def test_broken_bodies(site: Any, path: str) -> None:
    for body in BROKEN:
        status, told = raw(site, "POST", path, {}, body)
        assert status == 400 and "JSON" in sentence(status, told, path), body[:20]


def test_junk_at_every_address_is_refused_in_a_sentence(site: Any) -> None:
    thread = site.post("/threads", json={}).json()["thread_id"]
    values: list[Any] = ["text", 7, -1, [[]], [{"a": 1}], {"a": {"b": []}}, True, None, "chat", 1.5, 10**30]
    several = [
        ("model", "messages", "stream"),
        ("input", "assistant_id", "command"),
        ("config", "context", "assistant_id"),
        ("metadata", "ids", "limit", "offset"),
        ("select", "checkpoint", "before", "subgraphs"),
        ("values", "as_node", "status", "sort_by", "extract"),
        ("thread_id", "if_exists", "supersteps", "stream_mode"),
    ]
    junk = [dict.fromkeys(names, value) for names in several for value in values]
    failed = []
    for route in site.app.routes:
        path = route.path.replace("{thread_id}", thread).replace("{name:path}", "x")
        path = path.replace("{run_id}", "x").replace("{assistant_id}", "x").replace("{checkpoint_id}", "x")
        for method in route.methods - {"HEAD", "DELETE"}:
            for body in junk if method in ("POST", "PATCH") else [None]:
                status, told = raw(site, method, path, {}, json.dumps(body).encode() if body else b"")
                if status >= 400:
                    sentence(status, told, path)
                elif status >= 500 or b"Traceback" in told:
                    failed.append((method, path, body, told[:200]))
    assert not failed
    assert site.get(f"/threads/{thread}/state").status_code == 200


def test_sizes(site: Any) -> None:
    for path in ("/v1/chat/completions", "/threads"):
        status, told = raw(site, "POST", path, {}, b'{"a": "' + b"x" * 2**20 + b'"}')
        assert status == 413 and "1048576 bytes" in sentence(status, told, path)
    large = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "<|im_end|>" * 10**5}]}).encode()
    status, told = raw(site, "POST", "/v1/chat/completions", {}, large)
    assert status == 400 and json.loads(told)["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/../../etc/passwd",
        "/v1/models/..%2f..%2fetc%2fpasswd",
        "/v1/models/%00",
        "/threads/..%2f..%2fetc/state",
        "/threads/%2e%2e/state",
        "/assistants/..%2f..%2fsetup.py",
        "/static/../server.sqlite",
        "//etc/passwd",
    ],
)
def test_paths_lead_nowhere(site: Any, path: str) -> None:
    status, told = raw(site, "GET", path, {})
    assert status == 404 and sentence(status, told, path)


def test_only_this_machine_and_its_pages_may_ask(site: Any) -> None:
    port = site.url.rpartition(":")[2]
    for host in ("localhost", "127.0.0.1", "[::1]", f"localhost:{port}", "LOCALHOST"):
        assert raw(site, "GET", "/v1/models", {"Host": host})[0] == 200
    for host in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "", "[", "evil@localhost:x"):
        for path in ("/v1/models", "/info"):
            status, told = raw(site, "GET", path, {"Host": host})
            assert status == 403 and "another machine" in sentence(status, told, path), host
    for origin in ("https://evil.example", "null", "http://localhost.evil.example", "file://", "http://[", "x"):
        status, told = raw(site, "POST", "/threads/search", {"Origin": origin, "Content-Type": "text/plain"}, b"{}")
        assert status == 403 and "other sites" in sentence(status, told, "/threads"), origin
    page = {"Origin": "http://localhost:3000"}
    found = site.post("/threads/search", json={}, headers=page)
    assert found.status_code == 200 and found.headers["access-control-allow-origin"] == page["Origin"]
    assert "Content-Location" in found.headers["access-control-expose-headers"]
    asked = page | {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key,content-type"}
    before = httpx.options(f"{site.url}/threads/search", headers=asked)
    assert before.status_code == 204 and before.headers["access-control-allow-headers"] == "x-api-key,content-type"
    refused = site.get("/threads/absent", headers=page)  # a page must be able to read why
    assert refused.status_code == 404 and refused.headers["access-control-allow-origin"] == page["Origin"]


def test_the_token(models: Any, serve: Any, tmp_path: Path) -> None:
    with serve(models, tmp_path, Policy("s3cret")) as site:
        assert site.get("/ok").status_code == 200
        wrong: list[dict[str, str]] = [{}, {"x-api-key": "s3cre"}, {"Authorization": "Bearer s3cret2"}]
        wrong += [
            {"Authorization": "Basic s3cret"},
            {"x-api-key": "\u00e9".encode().decode("latin-1")},
            {"x-api-key": ""},
        ]
        for headers in wrong:
            for path in ("/v1/models", "/info", "/threads/x"):
                told = raw(site, "GET", path, headers)
                assert told[0] == 401 and "x-api-key" in sentence(*told, path)
        client = OpenAI(base_url=f"{site.url}/v1", api_key="s3cret")
        assert client.chat.completions.create(**CHAT).choices  # type: ignore[call-overload]
        with pytest.raises(openai.AuthenticationError):
            OpenAI(base_url=f"{site.url}/v1", api_key="other").models.list()
        assert get_sync_client(url=site.url, api_key="s3cret").assistants.search()


def test_a_client_that_leaves_ends_its_reply(site: Any) -> None:
    engine, client = site.models[0].engine, OpenAI(base_url=f"{site.url}/v1", api_key="x", max_retries=0)
    for name in ("tiny", "tiny:council"):
        before = engine.usage.written
        settings = LONG if name == "tiny" else {"seed": 1}
        stream = client.chat.completions.create(model=name, messages=QUESTION, stream=True, **settings)  # type: ignore[call-overload]
        next(iter(stream))
        stream.close()
        until(lambda: idle(site))
        assert engine.usage.written - before < 4000
    before = engine.usage.written
    with pytest.raises(openai.APITimeoutError):
        client.chat.completions.create(model="tiny", messages=QUESTION, timeout=0.3, **LONG)  # type: ignore[call-overload]
    until(lambda: idle(site))
    assert engine.usage.written - before < 7000


def test_on_disconnect(site: Any) -> None:
    client = get_sync_client(url=site.url, api_key=None)
    for mode, assistant, status in (("cancel", "endless", "interrupted"), ("continue", "chat", "success")):
        thread = client.threads.create()["thread_id"]
        body = {"assistant_id": assistant, "input": ASKED, "stream_mode": ["messages-tuple"], "on_disconnect": mode}
        body["context"] = {"max_tokens": 12} if assistant == "chat" else {}
        with httpx.stream("POST", f"{site.url}/threads/{thread}/runs/stream", json=body, timeout=60) as response:
            next(line for line in response.iter_lines() if line == "event: messages")
        until(lambda: idle(site))
        assert client.runs.list(thread)[0]["status"] == status
        assert client.threads.get(thread)["values"]["messages"][1]["content"]


def test_there_is_a_limit_to_what_is_done_at_a_time(models: Any, serve: Any, tmp_path: Path) -> None:
    with serve(models, tmp_path, Policy(limits=Limits(requests=2))) as site:
        client = get_sync_client(url=site.url, api_key=None)
        threads = [client.threads.create()["thread_id"] for _ in range(3)]
        runs = [client.runs.create(thread, "endless", input=ASKED) for thread in threads[:2]]
        for path, body in (
            ("/v1/chat/completions", CHAT),
            (f"/threads/{threads[2]}/runs", {"assistant_id": "chat", "input": ASKED}),
        ):
            found = site.post(path, json=body)
            assert found.status_code == 503 and found.headers["retry-after"] == "1"
        assert client.threads.get(threads[2])["status"] == "idle"
        for run in runs:
            client.runs.cancel(run["thread_id"], run["run_id"], wait=True)
        until(lambda: idle(site))
        assert site.post("/v1/chat/completions", json=CHAT).status_code == 200


@pytest.fixture
def stalling(models: Any, serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(Connection, "stall_seconds", 0.4)
    with serve(models, tmp_path, others=[TALKATIVE]) as site:
        yield site


@contextmanager
def listening(site: Any, thread: str, count: int) -> Iterator[socket.socket]:
    """A connection that has asked for ``count`` long events, and read the first ten bytes."""
    data = json.dumps({"assistant_id": "talkative", "input": {"count": count}, "stream_mode": ["custom"]}).encode()
    head = f"POST /threads/{thread}/runs/stream HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", int(site.url.rpartition(":")[2]))) as connection:
        connection.sendall(head.encode() + data)
        assert connection.recv(10) == b"HTTP/1.1 2"
        connection.settimeout(30)
        yield connection


def test_a_reader_that_stalls_is_left_and_delays_nobody(stalling: Any) -> None:
    site, client = stalling, get_sync_client(url=stalling.url, api_key=None)
    thread = client.threads.create()["thread_id"]
    with listening(site, thread, 200) as stalled:
        until(lambda: bool(client.runs.list(thread)) and idle(site))  # its work does not wait for it
        assert client.runs.list(thread)[0]["status"] == "success"
        assert site.post("/v1/chat/completions", json=CHAT).status_code == 200
        port = stalled.getsockname()[1]
        until(lambda: all(one.client[1] != port for one in site.server.server_state.connections if one.client))
        rest = b""
        while piece := stalled.recv(2**20):
            rest += piece
        # cut off and not ended, or told what it has missed: whichever came first
        assert len(rest) < 200 * 2**18 and (not rest.endswith(b"0\r\n\r\n") or b"events are gone" in rest)
    parts = list(client.runs.stream(thread, "talkative", input={"count": 200}, stream_mode="custom"))
    assert len(parts) == 201 or parts[-1].event == "error"


def test_a_reader_that_is_slow_gets_everything(stalling: Any) -> None:
    thread = get_sync_client(url=stalling.url, api_key=None).threads.create()["thread_id"]
    with listening(stalling, thread, 40) as slow:
        taken = bytearray()
        while not taken.endswith(b"0\r\n\r\n"):
            piece = slow.recv(2**18)
            assert piece
            taken += piece
            time.sleep(0.1)
    assert len(taken) > 40 * 2**18


def test_a_thread_is_not_removed_under_a_run_that_begins(tmp_path: Path) -> None:
    path = tmp_path / "server.sqlite"
    both = threading.Barrier(2)
    with closing(Records(path)) as one, closing(Records(path)) as two, ThreadPoolExecutor(2) as workers:

        def tried(work: Callable[[], Any]) -> int:
            both.wait()
            try:
                work()
            except Refusal as refusal:
                return refusal.status
            return 200

        for name in map(str, range(40)):
            one.add_thread(name, {})
            begins = workers.submit(tried, partial(one.begin_run, name, "a", {}, {}, "reject"))
            removes = workers.submit(tried, partial(two.remove_thread, name))
            assert (begins.result(), removes.result()) in ((200, 409), (404, 200))


def test_two_servers_on_one_file(models: Any, serve: Any, tmp_path: Path) -> None:
    with serve(models, tmp_path) as one, serve(models, tmp_path) as two:
        clients = [get_sync_client(url=site.url, api_key=None) for site in (one, two)]
        shared = clients[0].threads.create()["thread_id"]
        run = clients[0].runs.create(shared, "endless", input=ASKED)

        def talk(i: int) -> list[str]:
            client = clients[i % 2]
            thread = client.threads.create()["thread_id"]
            for _ in range(3):
                client.runs.wait(thread, "chat", input=ASKED, context={"temperature": 0, "max_tokens": 3})
            return [m["content"] for m in clients[(i + 1) % 2].threads.get_state(thread)["values"]["messages"]]

        with ThreadPoolExecutor(6) as threads:
            found = list(threads.map(talk, range(6)))
        assert len(found[0]) == 6 and all(one == found[0] for one in found)
        # the other process's run is known, and goes on
        assert clients[1].threads.get(shared)["status"] == "busy"
        for path in ("cancel", "join", "stream"):
            method = "POST" if path == "cancel" else "GET"
            status, told = raw(two, method, f"/threads/{shared}/runs/{run['run_id']}/{path}", {})
            assert status == 409 and "another process" in sentence(status, told, "/threads")
        clients[0].runs.cancel(shared, run["run_id"], wait=True)
        assert clients[1].threads.get(shared)["status"] == "idle"
    with closing(sqlite3.connect(tmp_path / "server.sqlite")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("SELECT DISTINCT type FROM checkpoints").fetchall() == [("msgpack",)]
    assert (tmp_path / "server.sqlite").stat().st_mode & 0o777 == 0o600
    assert not list(tmp_path.glob(".server*"))


def test_a_shutdown_keeps_what_is_written(models: Any, serve: Any, tmp_path: Path) -> None:
    told: list[Any] = []
    with serve(models, tmp_path) as site:
        client = get_sync_client(url=site.url, api_key=None)
        thread = client.threads.create()["thread_id"]
        stream = client.runs.stream(thread, "endless", input=ASKED, stream_mode=["messages-tuple"])
        next(part for part in stream if part.event == "messages")
        reader = threading.Thread(target=lambda: told.extend(stream))
        reader.start()
    reader.join(60)
    with serve(models, tmp_path) as site:
        client = get_sync_client(url=site.url, api_key=None)
        reply = client.threads.get_state(thread)["values"]["messages"][1]
        assert reply["content"] and reply["response_metadata"]["finish_reason"] == "cancelled"
        assert client.runs.list(thread)[0]["status"] == "interrupted"


def test_a_port_that_is_taken_is_said_before_anything_is_loaded(site: Any, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="cannot be had .*give another --host or --port"):
        serve_models(["absent"], "127.0.0.1", int(site.url.rpartition(":")[2]), None, tmp_path)


def test_others_need_a_token(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.org"):
        with pytest.raises(UsageError, match="give a --token"):
            serve_models(["embedded"], host, 0, None, tmp_path)
    assert main(["serve", "--api", "--host", "0.0.0.0"]) == 2
    assert main(["serve", "--host", "0.0.0.0"]) == 2  # the page, too
    assert "give a --token" in capsys.readouterr().err
    with pytest.raises(UsageError, match="printable"):
        serve_models(["embedded"], "127.0.0.1", 0, "a\nb", tmp_path)
    with pytest.raises(UsageError, match="is a server already"):
        serve_models(["http://127.0.0.1:1/v1#x"], "127.0.0.1", 0, None, tmp_path)
