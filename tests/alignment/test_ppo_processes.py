"""Two gloo processes with half the batch each take the steps of one process with the whole batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from alignment.run_dir import TIME_COLUMNS, RunDir
from graphs.align import run_align
from graphs.recipe import load_recipe

SCRIPT = Path(__file__).with_name("two_processes.py")
ROOT = Path(__file__).parents[2]


def accelerate(processes: int, *command: str) -> subprocess.CompletedProcess[str]:
    # on CPUs accelerate starts several processes by mpirun alone; its launcher for GPUs starts them by torchrun
    start = ["--multi_gpu"] if processes > 1 else ["--cpu"]
    start += ["--num_processes", str(processes), "--num_machines", "1", "--mixed_precision", "no"]
    start += ["--dynamo_backend", "no", "--num_cpu_threads_per_process", "1", "--main_process_port", "0"]
    return subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", *start, *command],
        env=os.environ | {"PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
    )


def launch(model: Path, folder: Path, processes: int, batch_size: int) -> RunDir:
    folder.mkdir()
    run = RunDir(folder / "run")
    run.create("", {})
    (folder / "plain.txt").write_text("the quick brown fox 10 - 4 = 6 (left: 5 6 6) " * 20)
    done = accelerate(processes, str(SCRIPT), str(model), str(folder), str(batch_size))
    assert done.returncode == 0, done.stderr[-3000:]
    return run


def test_two_processes_are_one_with_the_doubled_batch(tiny_model: Path, tmp_path: Path) -> None:
    one = launch(tiny_model, tmp_path / "one", 1, 8).metrics()
    two = launch(tiny_model, tmp_path / "two", 2, 4).metrics()
    assert len(one) == len(two) == 3
    for a, b in zip(one, two, strict=True):
        for name in set(a) - set(TIME_COLUMNS) - {"stage"}:
            assert a[name] == pytest.approx(b[name], rel=1e-3, abs=1e-4), name


def test_the_command_goes_on_with_ppo_in_several_processes(tiny_model: Path, tmp_path: Path) -> None:
    content = {
        "name": "tiny",
        "data": {"lines": 24, "pairs": 16, "prompts": 24},
        "backbone": {"model": str(tiny_model), "quantization": "none", "compute_dtype": "float32", "lora": {"rank": 4}},
        "sft": {"steps": 2, "batch_size": 4},
        "reward": {"steps": 2, "batch_size": 2},
        "ppo": {"iterations": 2, "batch_size": 4, "max_tokens": 6},
        "evaluate": {"n": 4, "max_tokens": 6, "ability": False},
        "council": {"rounds": 1, "max_tokens_per_step": 6},
    }
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(content))
    command = ["-m", "graphs.cli", "run", "align", str(recipe), "--runs-root", str(tmp_path / "runs")]
    refused = accelerate(2, *command)
    assert refused.returncode != 0 and "--set stop_after=reward" in refused.stderr
    run_align(load_recipe(recipe, ["stop_after=reward"]), tmp_path, tmp_path / "runs", False, lambda event: None)
    done = accelerate(2, *command)
    assert done.returncode == 0, done.stderr[-3000:]
    run = RunDir(tmp_path / "runs" / "tiny")
    assert run.status()["state"] == "done" and (run.path / "report.html").exists()
    assert [row["step"] for row in run.metrics() if row["stage"] == "ppo"] == [1, 2]
