"""kill -9 of ``junto eval run`` at random instants: the same command again ends in the samples of an unbroken run."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from alignment.run_dir import read_rows

ITEMS = 320  # ten batches


def command(model: Path, root: Path) -> list[str]:
    rows = [{"question": f"What is {i} plus {i % 7}?", "answer": str(i + i % 7)} for i in range(ITEMS)]
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"name": "sums", "kind": "generate", "data": "rows.jsonl", "prompt": "question", "target": "answer"}
    (root / "sums.yaml").write_text(yaml.safe_dump(settings | {"max_tokens": 24, "temperature": 1.0}))
    asked = ["eval", "run", str(root / "sums.yaml"), "--model", str(model), "--runs-root", str(root / "runs")]
    return [sys.executable, "-m", "graphs.cli", *asked]


def samples(root: Path) -> list[dict[str, Any]]:
    files = list(root.glob("runs/evaluations/sums/*/samples.jsonl"))
    return read_rows(files[0]) if files else []


def finish(model: Path, root: Path) -> list[dict[str, Any]]:
    done = subprocess.run(command(model, root), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return samples(root)


@pytest.fixture(scope="module")
def straight(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    found = finish(tiny_model, tmp_path_factory.mktemp("straight"))
    assert len({row["id"] for row in found}) == len(found) == ITEMS
    return found


def check(count: int, straight: list[dict[str, Any]], model: Path, root: Path) -> None:
    """One evaluation that is killed so many times, each time when some more samples are there."""
    instants = random.Random(0)
    for number in range(count):
        wanted = instants.randint(number * ITEMS // count, (number + 1) * ITEMS // count - 1)
        process = subprocess.Popen(command(model, root), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and len(samples(root)) <= wanted:
            time.sleep(0.005)
        time.sleep(instants.uniform(0, 0.1))
        process.kill()
        process.wait()
        assert samples(root) == straight[: len(samples(root))]
    assert finish(model, root) == straight


def test_three_instants(straight: list[dict[str, Any]], tiny_model: Path, tmp_path: Path) -> None:
    check(3, straight, tiny_model, tmp_path)


@pytest.mark.soak
def test_twenty_instants(straight: list[dict[str, Any]], tiny_model: Path, tmp_path: Path) -> None:
    check(20, straight, tiny_model, tmp_path)
