"""What ``junto run`` was asked for, and the run, recipe and task that it names."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from alignment.errors import UsageError
from graphs.cli.output import printable, write_json


@dataclass(frozen=True)
class Request:
    """What the command line asked for."""

    graph: str
    recipe: Path | None
    run: str | None
    question: str | None
    overrides: Sequence[str]
    runs_root: Path
    dry_run: bool = False
    fresh: bool = False
    as_json: bool = False
    thread: str | None = None
    model: str | None = None
    task: str | None = None
    allow_code: bool = False


def run_of(request: Request) -> tuple[Path, Any, Any]:
    """Path, recipe with overrides, and task of the run that --run names, or that the recipe is called after."""
    from alignment.run_dir import RunDir
    from graphs.recipe import load_recipe, load_task

    name = request.run
    if name is None and request.recipe is not None:
        name = load_recipe(request.recipe).name
    if name is None:
        raise UsageError(f"run {request.graph} needs a run: --run NAME (`junto runs ls` lists them)")
    run = RunDir.open(name, request.runs_root)
    recipe = load_recipe(run.path / "config.yaml", request.overrides)
    return run.path, recipe, load_task(recipe.task, run.path)


def base_of(recipe: Path) -> Path:
    """What the paths in a recipe are relative to: its folder, or, where it is that of a run, what they were relative to
    when the run began."""
    from alignment.run_dir import RunDir

    run = RunDir(recipe.parent)
    began = run.environment().get("base") if recipe.name == "config.yaml" else None
    return Path(began) if began else recipe.parent


def without_run(request: Request) -> tuple[Any, Any]:
    """The recipe that is named, or one of defaults, with overrides, and its task."""
    from graphs.modules import file_of
    from graphs.recipe import load_recipe, load_task

    overrides = list(request.overrides)
    if request.task is not None:
        task = str(file_of(request.task, Path())) if request.task.endswith(".py") else request.task
        overrides.insert(0, f"task={json.dumps(task)}")
    if request.recipe is not None:
        recipe = load_recipe(request.recipe, overrides)
    else:
        with tempfile.TemporaryDirectory() as folder:
            plain = Path(folder) / "recipe.yaml"
            plain.write_text("name: council\n")
            recipe = load_recipe(plain, overrides)
    return recipe, load_task(recipe.task)


def show_plan(request: Request, out: IO[str], recipe: Any, plan: dict[str, str]) -> None:
    from graphs.recipe import resolved

    if request.as_json:
        write_json({"graph": request.graph, "recipe": recipe.model_dump(mode="json"), "plan": plan}, out)
        return
    # the plan as comments: the output is a recipe
    lines = [f"# {step}: {' '.join(printable(what).split())}" for step, what in plan.items()]
    out.write(resolved(recipe) + f"\n# plan of {request.graph}\n" + "\n".join(lines) + "\n")
