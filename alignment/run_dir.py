"""The run directory: everything that a training writes, in plain files that survive a kill at any moment.

``config.yaml``, ``environment.json``, ``status.json``, ``metrics.jsonl``, ``samples.jsonl``, ``checkpoints/``,
``base/`` (a base model of its own, after full tuning), ``adapters/``, ``trees/``, ``revisions/``,
``explanations/``, ``report.html``. Free of torch.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from alignment.errors import SetupError, UsageError
from alignment.shipped import shipped

Event = dict[str, Any]
Report = Callable[[Event], None]  # takes {"stage", "step", "total", "metrics", "tokens_per_second", "eta_seconds"}

TIME_COLUMNS = ("seconds", "tokens_per_second")
LOOKS = 10  # tries at the lock of a run
STAGES = ("data", "sft", "reward", "audit", "ppo", "evaluate", "test", "council")
OPTIONAL = ("audit", "test")  # only where the recipe asks for them


def write_atomic(path: Path, text: str) -> None:
    """Writes aside, flushes to disk, renames: readers see the old text or the new one."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)  # a disk that is full needs the room
        raise


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSONL file; a last line that a kill cut short is dropped. Lines end in a line feed and nothing else:
    a model's text may hold any of the separators that ``splitlines`` knows."""
    rows = []
    for line in path.read_bytes().split(b"\n")[:-1] if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:  # broken JSON, or a character that was cut
            break
    return rows


def to_jsonl(rows: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


class RunDir:
    """Reads and writes ``runs/<name>/``."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    @classmethod
    def open(cls, name_or_path: str | Path, root: str | Path = "runs") -> RunDir:
        """As ``find``; raises UsageError with the names that there are where there is none."""
        if run := cls.find(name_or_path, root):
            return run
        root = Path(root)
        names = sorted(p.parent.name for p in root.glob("*/config.yaml")) if root.is_dir() else []
        there = f"runs in {root}/: {', '.join(names)}" if names else f"there are no runs in {root}/ yet"
        trained = (
            f"trained ones come with the project: {', '.join(shipped())}"
            if shipped()
            else "those that come trained lie in adapters/ of a clone of the project, not in an installed package"
        )
        raise UsageError(f"no run {str(name_or_path)!r}; {there}; {trained}")

    def adapter(self, role: str) -> Path:
        """The folder of a trained role; raises SetupError where the run has none (yet)."""
        folder = self.path / "adapters" / role
        if not (folder / "adapter.json").is_file():
            raise SetupError(f"the run {self.path} has no adapter {role}; finish its recipe first")
        return folder

    @classmethod
    def find(cls, name_or_path: str | Path, root: str | Path = "runs") -> RunDir | None:
        """An existing run, by path or by name under ``root``; one that comes with the project is copied to ``root``
        before, and a line on stderr says so: what is written into a run is not written into the project."""
        ships, given, root = shipped(), Path(name_or_path), Path(root)
        by_path = {folder.resolve(): name for name, folder in ships.items()}.get(given.resolve())
        for path in [root / by_path] if by_path else [given, root / given]:
            if (path / "config.yaml").is_file():
                return cls(path)
        name = by_path or str(name_or_path)
        return cls(root / name)._copied(ships[name]) if name in ships else None

    def _copied(self, source: Path) -> RunDir:
        root = self.path.parent
        root.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=".copying-", dir=root))
        try:
            shutil.copytree(source, aside / self.path.name)
            with self.locked():
                if self.path.exists() and not (self.path / "config.yaml").exists():
                    raise UsageError(f"{source} is to be copied to {self.path}, which is there and no run; remove it")
                if not self.path.exists():  # else another process was faster
                    os.replace(aside / self.path.name, self.path)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        print(f"{self.path.name} comes with the project, trained: copied {source} to {self.path}", file=sys.stderr)
        return self

    # -- reading ------------------------------------------------------------------------------------------

    def config(self) -> dict[str, Any]:
        return yaml.safe_load((self.path / "config.yaml").read_text(encoding="utf-8"))

    def backbone(self) -> dict[str, Any]:
        """The settings of the run's backbone; after full tuning its model is the base that the run has written."""
        settings: dict[str, Any] = self.config()["backbone"]
        tuned = self.path / "base"
        return settings | {"model": str(tuned)} if self.done("sft") and tuned.is_dir() else settings

    def status(self) -> dict[str, Any]:
        path = self.path / "status.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"state": "pending", "stages": {}}

    def environment(self) -> dict[str, Any]:
        path = self.path / "environment.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def metrics(self) -> list[dict[str, Any]]:
        return read_rows(self.path / "metrics.jsonl")

    def samples(self) -> list[dict[str, Any]]:
        return read_rows(self.path / "samples.jsonl")

    def done(self, stage: str) -> bool:
        return self.status()["stages"].get(stage, {}).get("state") == "done"

    def results(self, stage: str) -> dict[str, Any]:
        return self.status()["stages"].get(stage, {}).get("results", {})

    def state(self) -> str:
        """``pending``, ``running``, ``done``, ``failed``, ``waiting`` (for a person) or ``interrupted``: a run that
        says that it is running, while no process holds its lock, was killed."""
        state: str = self.status().get("state", "pending")
        if state != "running" or not self._lock_file().exists():
            return state
        return "interrupted" if self.owner() is None else state

    def owner(self) -> int | None:
        """The process that works on the run, 0 where it has not said which, or None."""
        with suppress(FileNotFoundError), self._lock_file().open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                said = file.read()
                return int(said) if said.isdecimal() else 0
        return None

    # -- writing ------------------------------------------------------------------------------------------

    def create(self, config: str, environment: dict[str, Any]) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomic(self.path / "config.yaml", config)
        write_atomic(self.path / "environment.json", json.dumps(environment, indent=1) + "\n")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One process at a time trains a run. The lock goes with the process, however it ends."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock_file().open("a+") as file:
            for attempt in range(LOOKS + 1):  # somebody may be looking whether it is locked
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if attempt == LOOKS:
                        raise UsageError(
                            f"another process is working on the run {self.path.name!r}; wait for it, or stop it"
                        ) from None
                    time.sleep(0.02)
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            try:
                yield
            finally:
                file.truncate(0)  # its number may be another process's one day

    def _lock_file(self) -> Path:
        # beside the folder, not in it: --fresh deletes the folder while the lock is held
        return self.path.with_name(f".{self.path.name}.lock")

    def set_status(self, state: str, stage: str = "", message: str = "") -> None:
        self.update_status(state=state, stage=stage, message=message)

    def update_status(self, **fields: Any) -> None:
        status = self.status() | fields | {"updated": _now()}
        write_atomic(self.path / "status.json", json.dumps(status, indent=1) + "\n")

    def set_stage(self, stage: str, **fields: Any) -> None:
        """Updates one stage's entry: ``state``, ``step``, ``total``, ``seconds``, ``results``."""
        stages = self.status()["stages"]
        stages[stage] = stages.get(stage, {"state": "pending"}) | fields
        self.update_status(stage=stage, stages=stages)

    def rewind(self, file: str, stage: str, step: int) -> None:
        """Drops a stage's rows after ``step`` from ``metrics.jsonl`` or ``samples.jsonl``: they will come again."""
        path = self.path / file
        rows = [r for r in read_rows(path) if r["stage"] != stage or r.get("step", 0) <= step]
        write_atomic(path, to_jsonl(rows))

    def append(self, file: str, rows: Iterable[dict[str, Any]]) -> None:
        with (self.path / file).open("a", encoding="utf-8") as out:
            out.write(to_jsonl(rows))


class StageLog:
    """One stage's steps: a metrics row each, a progress event each, rates and time left."""

    def __init__(self, run: RunDir, stage: str, total: int, start: int, report: Report) -> None:
        self.run, self.stage, self.total, self.report = run, stage, total, report
        self.first = self.last = time.monotonic()
        self.start = start
        self.spent = run.status()["stages"].get(stage, {}).get("seconds", 0.0) if start else 0.0
        run.rewind("metrics.jsonl", stage, start)
        run.set_stage(stage, state="running", step=start, total=total)
        report({"stage": stage, "step": start, "total": total, "metrics": {}})

    def step(self, step: int, metrics: dict[str, float], tokens: int) -> None:
        """Records ``step`` (1-based) with its metrics and the number of tokens that it processed."""
        now = time.monotonic()
        seconds, self.last = now - self.last, now
        rate = tokens / max(seconds, 1e-9)
        row = {"stage": self.stage, "step": step, "total": self.total, **metrics}
        self.run.append("metrics.jsonl", [row | {"tokens_per_second": round(rate, 1), "seconds": round(seconds, 3)}])
        left = (now - self.first) / (step - self.start) * (self.total - step)
        self.report(
            {
                "stage": self.stage,
                "step": step,
                "total": self.total,
                "metrics": metrics,
                "tokens_per_second": rate,
                "eta_seconds": left,
            }
        )

    def saved(self, step: int) -> None:
        """Says in ``status.json`` that a checkpoint of ``step`` is on disk."""
        self.run.set_stage(self.stage, step=step, seconds=self.seconds())

    def seconds(self) -> float:
        return round(self.spent + time.monotonic() - self.first, 1)

    def done(self, results: dict[str, Any]) -> None:
        self.run.set_stage(self.stage, state="done", step=self.total, seconds=self.seconds(), results=results)
        self.report({"stage": self.stage, "step": self.total, "total": self.total, "metrics": results, "done": True})


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
