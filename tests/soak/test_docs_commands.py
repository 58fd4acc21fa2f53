"""Every command of the tutorial, run in its order in an empty folder, as a reader would. Run by ``make soak``."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_docs import ROOT, blocks


@pytest.mark.soak
def test_the_tutorial(tmp_path: Path) -> None:
    junto = shutil.which("junto", path=str(Path(sys.executable).parent))
    assert junto is not None, "the command is not installed beside this Python"
    environment = os.environ | {"PATH": f"{Path(junto).parent}:{os.environ['PATH']}", "NO_COLOR": "1"}
    lines = [line for block in blocks(ROOT / "docs" / "tutorial.md", "sh") for line in block.splitlines() if line]
    assert len(lines) > 15
    for line in lines:
        done = subprocess.run(line, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True)
        print(f"$ {line}\n{done.stdout[-1500:]}")
        assert done.returncode == 0, f"{line}: {done.stderr[-2000:]}"
        assert "Traceback" not in done.stderr
    assert (tmp_path / "runs" / "helper" / "report.html").is_file() and (tmp_path / "helper-model").is_dir()
