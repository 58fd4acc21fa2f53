"""Every command of the documents, run in its order in an empty folder, as a reader would. Run by ``make soak``.

What a reader has to fill in is filled in here, trainings and the calibration of the README are shortened, and a server
is stopped when it has answered. The one on Postgres is not among them (tests/graphs/test_postgres.py).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.test_docs import DOCUMENTS, ROOT, blocks

SHORT = "--set sft.steps=40 --set reward.steps=12 --set ppo.iterations=1 --set ppo.batch_size=8 --set evaluate.n=8"
FILLED = {
    "[--fix]": "",
    "--model MODEL [RECIPE] [--task TASK]": "--model embedded --task graphs.tasks.game24",
    "[RUN|MODEL] [--graph council] [--continue | --session ID]": "quickstart --graph council --session mine",
    "Qwen/Qwen2.5-7B-Instruct": "embedded",
    "8000/v1#NAME": "8000/v1#embedded",
    "run align recipes/quickstart.yaml": f"run align recipes/quickstart.yaml {SHORT}",
    "runs rm assistant": "runs rm assistant --yes",  # nobody is there to be asked
    "calibrate quickstart": "calibrate quickstart --n 16",
}
WAITS = "--set council.ask_before=[conclude]"  # nobody is there to answer
# what has to be there before a command
BEFORE = {
    "junto run my_graph.py": f"cp {ROOT}/tests/graphs/stranger/twice.py my_graph.py",
    "junto explain audit quickstart pairs.jsonl": "cp my-project/data/pairs.jsonl .",
    "junto tokenize train": f"cp {ROOT}/README.md corpus.txt; cp {ROOT}/docs/ppo.md text.txt",
    "junto runs compare quickstart assistant": "junto run align recipes/assistant.yaml --set stop_after=sft",
    "junto threads resume game24 mine --decision edit": (
        f"junto run council --run game24 --question '3 3 8 8' --thread edited {WAITS}"
    ),
}


@pytest.fixture
def environment() -> dict[str, str]:
    junto = shutil.which("junto", path=str(Path(sys.executable).parent))
    assert junto is not None, "the command is not installed beside this Python"
    return os.environ | {"PATH": f"{Path(junto).parent}:{os.environ['PATH']}", "NO_COLOR": "1"}


def run(line: str, folder: Path, environment: dict[str, str], code: int = 0) -> str:
    given = "4 7 8 8\n" if line.startswith("junto chat") else ""
    began = time.monotonic()
    done = subprocess.run(line, shell=True, cwd=folder, env=environment, capture_output=True, text=True, input=given)
    print(f"$ {line}   ({time.monotonic() - began:.0f} s)\n{done.stdout[-1500:]}", flush=True)
    assert done.returncode == code, f"{line}: {done.stderr[-2000:]}"
    assert "Traceback" not in done.stderr
    return done.stdout


@contextmanager
def served(line: str, folder: Path, environment: dict[str, str]) -> Iterator[int]:
    """While a server runs, at a port that is free; it has answered once."""
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port = bound.getsockname()[1]
    line, told = f"{line} --port {port}", ""
    with subprocess.Popen(line.split(), cwd=folder, env=environment, stderr=subprocess.PIPE, text=True) as server:
        try:
            path = "v1/models" if "--api" in line else ""
            while server.poll() is None:
                try:
                    assert httpx.get(f"http://127.0.0.1:{port}/{path}", timeout=30).status_code == 200
                    break
                except httpx.TransportError:
                    time.sleep(0.5)
            yield port
            server.send_signal(signal.SIGINT)
            told = server.communicate(timeout=120)[1]
        finally:
            server.kill()
    assert server.returncode in (0, 130) and "Traceback" not in told, f"{line}: {told[-2000:]}"
    print(f"$ {line}\n{told[-500:]}", flush=True)


@pytest.mark.soak
def test_the_tutorial(tmp_path: Path, environment: dict[str, str]) -> None:
    lines = [line for block in blocks(ROOT / "docs" / "tutorial.md", "sh") for line in block.splitlines() if line]
    assert len(lines) > 15
    for line in lines:
        run(line, tmp_path, environment)
    assert (tmp_path / "runs" / "helper" / "report.html").is_file() and (tmp_path / "helper-model").is_dir()


@pytest.mark.soak
def test_the_other_documents(tmp_path: Path, environment: dict[str, str]) -> None:
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    (tmp_path / "adapters").mkdir()
    (tmp_path / "adapters" / "game24").symlink_to(ROOT / "adapters" / "game24")
    lines = [
        line.partition("  #")[0].strip()
        for path in DOCUMENTS
        if path.name != "tutorial.md"
        for block in blocks(path, "(?:sh|bash)?")
        for line in block.splitlines()
        if re.search(r"^(echo .*)?junto ", line)
    ]
    assert len(lines) > 50
    # of a run, a graph or a thread, the last use takes it away
    lines.sort(key=lambda line: line.startswith(("junto runs rm", "junto threads prune")))
    for line in lines:
        for begins, command in BEFORE.items():
            if line.startswith(begins):
                run(command, tmp_path, environment, code=int(WAITS in command))
        for what, filled in FILLED.items():
            line = line.replace(what, filled)
        if "--decision edit" in line:
            line = line.replace(" mine ", " edited ")
        if "CHECKPOINT" in line:
            told = json.loads(run("junto threads show game24 mine --json", tmp_path, environment))
            line = line.replace("CHECKPOINT", told["history"][-1]["checkpoint"])
        if line.startswith("junto serve"):
            with served(line, tmp_path, environment):
                continue
        if ":8000/" in line:
            with served("junto serve --api embedded", tmp_path, environment) as port:
                run(line.replace("8000", str(port)), tmp_path, environment)
            continue
        run(line, tmp_path, environment, code=int(WAITS in line))
