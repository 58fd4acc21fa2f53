"""``junto serve --api`` as a process: what is left of a thread after kill -9 in the middle of an answer."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from langgraph_sdk import get_sync_client
from langgraph_sdk.errors import ConflictError

ROOT = Path(__file__).parents[3]
ASKED = {"messages": [{"role": "user", "content": "4 7 8 8"}]}
LONG = {"temperature": 0.5, "seed": 4, "max_tokens": 15000}  # more than a thousand tokens
SHORT = {"temperature": 0, "max_tokens": 6}
COUNCIL = {"messages": [{"role": "user", "content": "4 7 8 8", "id": "the-question"}]}


def kinds(values: Any) -> list[str]:
    return [message["type"] for message in values["messages"]]


def test_threads_go_on_after_a_kill(models: Any, serve: Any, tiny_run: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    (runs / "tiny").symlink_to(tiny_run)
    command = [sys.executable, "-m", "graphs.cli", "serve", "tiny", "--api", "--port", "0", "--runs-root", str(runs)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment)
    try:
        assert process.stderr is not None
        url = next(found[0] for line in process.stderr if (found := re.search(r"http://127\.0\.0\.1:\d+", line)))
        client = get_sync_client(url=url, api_key=None)
        chat, sitting = (client.threads.create()["thread_id"] for _ in range(2))
        client.runs.wait(chat, "chat", input=ASKED, context=SHORT)
        with serve(models, runs) as other:
            there = get_sync_client(url=other.url, api_key=None)
            expected = there.runs.wait(None, "council", input=COUNCIL)
            stream = client.runs.stream(sitting, "council", input=COUNCIL, stream_mode=["custom"])
            next(part for part in stream if part.event == "custom" and part.data["kind"] == "thought")
            run = client.runs.create(chat, "chat", input=ASKED, context=LONG, stream_mode="messages-tuple")
            next(part for part in client.runs.join_stream(chat, run["run_id"]) if part.event == "messages")
            with pytest.raises(ConflictError, match="a run goes on"):  # in another process on the same file
                there.runs.create(chat, "chat", input=ASKED)
            process.kill()  # in the middle of both
            process.wait(60)
    finally:
        process.kill()
        process.wait(60)
    with serve(models, runs) as site:
        client = get_sync_client(url=site.url, api_key=None)
        told, found = client.threads.get(chat), client.runs.get(chat, run["run_id"])
        print(
            "DEBUG",
            told["updated_at"],
            found,
            client.threads.get_state(chat)["next"],
            kinds(told["values"]),
            [(h["next"], h["metadata"]["step"], h["created_at"]) for h in client.threads.get_history(chat, limit=50)],
        )
        assert (told["status"], found["status"]) == ("interrupted", "interrupted")
        assert "the server ended" in found["error"] and kinds(told["values"]) == ["human", "ai", "human"]
        assert len(client.threads.get_history(chat, limit=50)) == 5
        assert kinds(client.runs.wait(chat, "chat", input=None, context=SHORT)) == ["human", "ai"] * 2
        assert kinds(client.runs.wait(chat, "chat", input=ASKED, context=SHORT)) == ["human", "ai"] * 3
        assert client.threads.get(chat)["status"] == "idle"
        # the sitting goes on in the round that it was in, and ends as one that nobody killed
        if client.threads.get(sitting)["status"] == "interrupted":
            client.runs.wait(sitting, "council", input=None)
        values = client.threads.get_state(sitting)["values"]
        assert {key: thought["text"] for key, thought in values["tree"].items()} == {
            key: thought["text"] for key, thought in expected["tree"].items()
        }
        assert kinds(values) == ["human", "ai"] and values["answer"] == expected["answer"]
