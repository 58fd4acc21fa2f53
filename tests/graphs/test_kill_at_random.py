"""kill -9 of the command at random instants, on a tiny model in float32: nothing lost or corrupt, an equal end."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from alignment.checkpoint import checkpoints
from alignment.run_dir import TIME_COLUMNS, RunDir


def command(model: Path, root: Path) -> list[str]:
    content = {
        "name": "tiny",
        "data": {"lines": 24, "pairs": 16, "prompts": 24, "held_out": ["4 7 8 8"]},
        "backbone": {"model": str(model), "quantization": "none", "compute_dtype": "float32", "lora": {"rank": 4}},
        "sft": {"steps": 30, "batch_size": 4, "checkpoint_every": 3},
        "reward": {"steps": 30, "batch_size": 2, "checkpoint_every": 3},
        "ppo": {"iterations": 12, "batch_size": 4, "max_tokens": 6},
        "evaluate": {"n": 20, "max_tokens": 6, "ability": False},
        "council": {"rounds": 2, "max_tokens_per_step": 6},
    }
    recipe = root / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(content))
    return [sys.executable, "-m", "graphs.cli", "run", "align", str(recipe), "--runs-root", str(root / "runs")]


def finish(model: Path, root: Path) -> tuple[RunDir, float]:
    """Runs to the end; also the seconds that it took."""
    began = time.monotonic()
    done = subprocess.run(command(model, root), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return RunDir(root / "runs" / "tiny"), time.monotonic() - began


def outcome(run: RunDir) -> dict[str, Any]:
    adapters = {p.parent.name: json.loads(p.read_text())["sha256"] for p in run.path.glob("adapters/*/adapter.json")}
    metrics = [{k: v for k, v in row.items() if k not in TIME_COLUMNS} for row in run.metrics()]
    results = {name: entry.get("results") for name, entry in run.status()["stages"].items()}
    return {"adapters": adapters, "metrics": metrics, "results": results, "samples": run.samples()}


@pytest.fixture(scope="module")
def straight(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], float]:
    run, seconds = finish(tiny_model, tmp_path_factory.mktemp("straight"))
    return outcome(run), seconds


def kill_at(instant: float, model: Path, root: Path) -> None:
    process = subprocess.Popen(command(model, root), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(instant)
    process.kill()
    process.wait()
    run = RunDir(root / "runs" / "tiny")
    if run.path.exists():  # what is there can be read, whenever it was cut off
        run.status(), run.metrics(), run.samples()
        for path in run.path.glob("checkpoints/*"):
            assert all((step / "state.json").exists() or list(step.glob("*.json")) for step in checkpoints(path))


def check(numbers: range, straight: tuple[dict[str, Any], float], model: Path, root: Path) -> None:
    want, seconds = straight
    instants = random.Random(0)
    for number in range(max(numbers) + 1):
        instant = instants.uniform(0.2, 0.98) * seconds
        if number not in numbers:
            continue
        folder = root / str(number)
        folder.mkdir()
        kill_at(instant, model, folder)
        run, _ = finish(model, folder)
        assert outcome(run) == want, f"killed after {instant:.2f} s of {seconds:.2f}"
        shutil.rmtree(folder)


def test_three_instants(straight: tuple[dict[str, Any], float], tiny_model: Path, tmp_path: Path) -> None:
    check(range(3), straight, tiny_model, tmp_path)


@pytest.mark.soak
def test_thirty_instants(straight: tuple[dict[str, Any], float], tiny_model: Path, tmp_path: Path) -> None:
    check(range(30), straight, tiny_model, tmp_path)
