"""Recipes that are started, stopped and gone on with from the page. A training is a process of its own, which does not
end with the server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import yaml

from alignment.errors import UsageError
from alignment.run_dir import RunDir
from graphs.gate_person import decide
from graphs.recipe import Recipe, load_recipe

COMMAND = "import sys; from graphs.cli.main import main; sys.exit(main())"
ENDING_SECONDS = 10.0  # that a process may take from its last word to its end
SHOWN = 4000  # bytes of a log's end


class Trainings:
    """``folder`` is where the server was started: its recipes, and those in ``recipes/``, can be started."""

    def __init__(self, runs_root: Path, folder: Path) -> None:
        self.runs_root = runs_root
        self.folder = folder
        self._begun: dict[str, subprocess.Popen[bytes]] = {}

    def recipes(self) -> list[str]:
        """Paths relative to ``folder``. Others cannot be named: a recipe may name Python files, which are run."""
        found = []
        for path in [*self.folder.glob("*.yaml"), *self.folder.glob("recipes/**/*.yaml")]:
            try:
                keys = yaml.safe_load(path.read_text(encoding="utf-8")).keys()
            except (OSError, ValueError, AttributeError, yaml.YAMLError):
                continue
            # not loaded: that would run the files that it names
            if "name" in keys and keys <= Recipe.model_fields.keys():
                found.append(str(path.relative_to(self.folder)))
        return sorted(found)

    def runs(self) -> list[str]:
        """Names, the newest first; also of those that were started and have no folder yet."""
        found = [path.parent for path in self.runs_root.glob("*/config.yaml")]
        names = [path.name for path in sorted(found, key=lambda path: -path.stat().st_mtime)]
        return [*(name for name in self._begun if name not in names), *names]

    def run(self, name: str) -> RunDir:
        """Raises UsageError for what is no run here, whatever path it names."""
        if name not in self.runs():
            raise UsageError(f"there is no run {name!r} in {self.runs_root}/")
        return RunDir(self.runs_root / name)

    def working(self) -> list[str]:
        """Those that a process works on, or is about to."""
        starting = [name for name, process in self._begun.items() if process.poll() is None]
        owned = [name for name in self.runs() if RunDir(self.runs_root / name).owner() is not None]
        return list(dict.fromkeys([*starting, *owned]))

    def start(self, recipe: str, name: str, settings: Sequence[str]) -> str:
        """The run's name. Raises UsageError for a recipe, a name or a setting that is none, and while something is
        trained."""
        if recipe not in self.recipes():
            raise UsageError(f"there is no recipe {recipe!r} in {self.folder}/ or {self.folder}/recipes/")
        if any(setting.startswith("task") or ".py" in setting for setting in settings):
            raise UsageError("settings that name Python code are not taken from a page; write them into the recipe")
        given = [*settings, *([f'name="{name}"'] if name else [])]
        called = load_recipe(self.folder / recipe, given).name
        self._begin(self.folder / recipe, called, settings)
        return called

    def resume(self, name: str) -> None:
        """Goes on with a run, by the recipe that it keeps. Raises UsageError."""
        run = self.run(name)
        if "base" not in run.environment():
            raise UsageError(f"{name} came trained; there is nothing to go on with")
        self._begin(run.path / "config.yaml", name, [])

    def decide(self, name: str, kind: str, message: str) -> None:
        """A person's word for a run that waits, which then goes on, or ends with its report. Raises UsageError."""
        decide(self.run(name), kind, message)
        self.resume(name)

    def _begin(self, recipe: Path, name: str, settings: Sequence[str]) -> None:
        before = self._begun.get(name)
        if before is not None and RunDir(self.runs_root / name).state() != "running":
            with suppress(subprocess.TimeoutExpired):  # a run says that it is interrupted before its process has ended
                before.wait(ENDING_SECONDS)
        if busy := self.working():
            raise UsageError(f"{busy[0]} is being trained; two trainings at a time are slower than one after the other")
        self.runs_root.mkdir(parents=True, exist_ok=True)
        changes = [part for setting in settings for part in ("--set", setting)]
        options = ["--run", name, "--runs-root", str(self.runs_root.resolve()), *changes]
        with self._log(name).open("wb") as log:
            self._begun[name] = subprocess.Popen(
                [sys.executable, "-c", COMMAND, "run", "align", str(recipe.resolve()), *options],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in the server's terminal is not for it
            )

    def stop(self, name: str) -> None:
        """As Ctrl-C would: the training keeps what it has, and can be gone on with. Raises UsageError."""
        owner = self.run(name).owner()
        process = self._begun.get(name)
        if owner:
            os.kill(owner, signal.SIGINT)
        elif process is not None and process.poll() is None:  # it is starting
            process.send_signal(signal.SIGINT)
        else:
            raise UsageError(f"{name} is not being trained")

    def failed(self, name: str) -> bool:
        """Whether a training that was started here has ended with an error: its log says which."""
        return name in self._begun and self._begun[name].poll() not in (None, 0, 130)

    def log(self, name: str) -> str:
        """The end of what a run that was started here has printed."""
        try:
            said = self._log(name).read_bytes()
        except FileNotFoundError:
            return ""
        return said[-SHOWN:].decode("utf-8", "replace")

    def _log(self, name: str) -> Path:
        return self.runs_root / f".{name}.log"
