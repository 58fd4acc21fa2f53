"""Ctrl-C, kill and kill -9 of the installed command in every stage, on the embedded model: the run ends the same.

Run by ``make soak``. Small budgets; the same code as ``make demo``.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from alignment.run_dir import TIME_COLUMNS, RunDir

RECIPE = Path(__file__).parents[2] / "recipes" / "quickstart.yaml"
SMALL = [
    "sft.steps=6",
    "sft.checkpoint_every=2",
    "reward.steps=6",
    "reward.checkpoint_every=2",
    "reward.batch_size=2",
    "ppo.iterations=3",
    "ppo.batch_size=8",
    "ppo.max_tokens=16",
    "evaluate.n=32",
    "evaluate.max_tokens=16",
    "council.rounds=1",
    "data.lines=80",
    "data.pairs=40",
]
# where the signal falls: a stage, and how far it has come
POINTS = [("sft", 3), ("reward", 3), ("ppo", 1), ("evaluate", 0)]


def command(root: Path) -> list[str]:
    settings = [word for setting in SMALL for word in ("--set", setting)]
    return [sys.executable, "-m", "graphs.cli", "run", "align", str(RECIPE), "--runs-root", str(root), *settings]


def run(root: Path) -> RunDir:
    done = subprocess.run(command(root), capture_output=True, text=True, env=os.environ | {"NO_COLOR": "1"})
    assert done.returncode == 0, done.stderr[-2000:]
    return RunDir(root / "quickstart")


def outcome(run: RunDir) -> dict[str, Any]:
    adapters = {p.parent.name: json.loads(p.read_text())["sha256"] for p in run.path.glob("adapters/*/adapter.json")}
    metrics = [{k: v for k, v in row.items() if k not in TIME_COLUMNS} for row in run.metrics()]
    return {"adapters": adapters, "metrics": metrics, "evaluate": run.results("evaluate")}


def reached(run: RunDir, stage: str, step: int) -> bool:
    if not (run.path / "status.json").exists():
        return False
    if stage == "evaluate":
        return run.status()["stages"].get("evaluate", {}).get("state") == "running"
    return sum(row["stage"] == stage for row in run.metrics()) >= step


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return outcome(run(tmp_path_factory.mktemp("straight")))


@pytest.mark.soak
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=["ctrl-c", "kill", "kill-9"])
@pytest.mark.parametrize(("stage", "step"), POINTS)
def test_it_ends_the_same(
    straight: dict[str, Any], tmp_path: Path, stage: str, step: int, sent: signal.Signals
) -> None:
    process = subprocess.Popen(command(tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    watched = RunDir(tmp_path / "quickstart")
    while process.poll() is None and not reached(watched, stage, step):
        time.sleep(0.02)
    process.send_signal(sent)
    said = process.communicate()[1]
    if sent is not signal.SIGKILL:
        assert process.returncode == 130 and "Traceback" not in said and "run the same command again" in said
        assert watched.status()["state"] == "interrupted"
    else:
        assert process.returncode == -signal.SIGKILL
    assert not watched.done("evaluate")
    assert outcome(run(tmp_path)) == straight
