"""Two gloo processes with half the batch each take the steps of one process with the whole batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from alignment.run_dir import TIME_COLUMNS, RunDir

SCRIPT = Path(__file__).with_name("two_processes.py")
ROOT = Path(__file__).parents[2]


def launch(model: Path, folder: Path, processes: int, batch_size: int) -> RunDir:
    folder.mkdir()
    run = RunDir(folder / "run")
    run.create("", {})
    (folder / "plain.txt").write_text("the quick brown fox 10 - 4 = 6 (left: 5 6 6) " * 20)
    # on CPUs accelerate starts several processes by mpirun alone; its launcher for GPUs starts them by torchrun
    start = ["--multi_gpu"] if processes > 1 else ["--cpu"]
    start += ["--num_processes", str(processes), "--num_machines", "1", "--mixed_precision", "no"]
    start += ["--dynamo_backend", "no", "--num_cpu_threads_per_process", "1", "--main_process_port", "0"]
    done = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", *start, SCRIPT, model, folder, str(batch_size)],
        env=os.environ | {"PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return run


def test_two_processes_are_one_with_the_doubled_batch(tiny_model: Path, tmp_path: Path) -> None:
    one = launch(tiny_model, tmp_path / "one", 1, 8).metrics()
    two = launch(tiny_model, tmp_path / "two", 2, 4).metrics()
    assert len(one) == len(two) == 3
    for a, b in zip(one, two, strict=True):
        for name in set(a) - set(TIME_COLUMNS) - {"stage"}:
            assert a[name] == pytest.approx(b[name], rel=1e-3, abs=1e-4), name
