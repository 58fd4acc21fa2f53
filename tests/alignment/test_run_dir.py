"""What a run directory says of itself."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from alignment.errors import UsageError
from alignment.run_dir import RunDir


def _hold(path: Path, ready: multiprocessing.synchronize.Event) -> None:
    run = RunDir(path)
    with run.locked():
        run.create("", {})
        run.set_status("running")
        ready.set()
        signal.pause()


def test_a_killed_run_is_interrupted_and_a_living_one_is_left_alone(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_hold, args=(tmp_path / "runs" / "r", ready))
    process.start()
    assert ready.wait(60)
    run = RunDir(tmp_path / "runs" / "r")
    assert run.state() == "running"
    with pytest.raises(UsageError, match="another process is working on the run 'r'"), run.locked():
        pass
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert run.state() == "interrupted"
    with run.locked():
        pass
