"""``junto runs rm``: a run and all that is in it, after a question."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import typer

from alignment.errors import UsageError
from alignment.run_dir import RunDir
from graphs.database import forget


def remove_runs(names: Sequence[str], root: Path, is_sure: bool) -> list[str]:
    """Removes runs of ``root`` and returns their names. Raises UsageError for one that is not there or is being
    trained, and where nobody can be asked and ``is_sure`` is not."""
    runs = [_found(name, root) for name in dict.fromkeys(names)]
    for run in runs:
        if run.state() == "running":
            raise UsageError(f"{run.path} is being trained by another process; stop that first")
        for other, how in _used_by(run, root, names):
            print(f"note: {other} {how} {run.path.name}", file=sys.stderr)
    if not is_sure:
        if not sys.stdin.isatty():
            raise UsageError(f"this removes {', '.join(names)} for good; say so by --yes")
        sizes = ", ".join(f"{run.path} ({_megabytes(run.path):.0f} MB)" for run in runs)
        if not typer.confirm(f"remove {sizes} for good?", err=True):
            return []
    for run in runs:
        with run.locked():
            if run.path.is_symlink():
                run.path.unlink()
                continue
            forget(run.path / "threads.sqlite")
            (run.path / "config.yaml").unlink()  # so that half a run is never taken for one
            shutil.rmtree(run.path)
    return [run.path.name for run in runs]


def _found(name: str, root: Path) -> RunDir:
    path = root / name
    if Path(name).name != name or name == ".." or not (path / "config.yaml").is_file():
        there = ", ".join(sorted(one.parent.name for one in root.glob("*/config.yaml"))) or "none"
        raise UsageError(f"there is no run {name!r} in {root}; there are {there}")
    return RunDir(path)


def _used_by(run: RunDir, root: Path, names: Sequence[str]) -> list[tuple[str, str]]:
    """Other runs that need this one."""
    found = []
    for path in sorted(root.glob("*/config.yaml")):
        other = RunDir(path.parent)
        if other.path.name in names:
            continue
        config = other.config()
        if (config.get("sft") or {}).get("start") == run.path.name and not other.done("sft"):
            found.append((other.path.name, "begins with the adapter of"))
        seats = (config.get("council") or {}).get("experts") or []
        if any(seat.get("run") == run.path.name for seat in seats):
            found.append((other.path.name, "seats an expert of"))
    return found


def _megabytes(path: Path) -> float:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / 1e6
