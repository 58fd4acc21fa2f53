"""A graph from a file of somebody's own, over a run: `junto run my_graph.py --run RUN --question "..."`.

The file has a module-level ``graph``: a LangGraph ``StateGraph`` that is not compiled yet, whose state has a
``question`` and whose context is ``graphs.turns.Context`` (engine, task, council settings, scorers). It is run as the
council is, with a checkpoint after every step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from time import time_ns
from typing import Any

from langgraph.graph import StateGraph

from alignment.engine import Engine
from alignment.errors import UsageError
from alignment.run_dir import RunDir
from graphs.modules import file_of, module_from_file
from graphs.recipe import load_recipe, load_task
from graphs.sitting import calibration_of, seat
from graphs.threads import run_thread


def run_foreign(
    file: str, run: Path, question: str, overrides: Sequence[str], on_event: Callable[[Any], None], thread: str | None
) -> dict[str, Any]:
    """The state in which the graph in ``file`` ends. ``file`` may end in ``:name``, for a graph that is called
    otherwise. Raises UsageError."""
    path, colon, name = file.partition(".py:")
    path, name = (f"{path}.py", name) if colon else (file, "graph")
    what = f"graph {file!r}"
    found = getattr(module_from_file(path, Path(), what), name, None)
    if not isinstance(found, StateGraph):
        has = f"it is a {type(found).__name__}" if found is not None else "there is none"
        raise UsageError(f"{what}: {name!r} must be a StateGraph that is not compiled; {has}")
    recipe = load_recipe(run / "config.yaml", overrides)
    with Engine.open(run) as engine:
        context = seat(engine, load_task(recipe.task, run), recipe, thread or question, calibration_of(RunDir(run)))
        where = file_of(path, Path())
        # another file's graph of the same thread is another conversation
        named = f"{where.stem}/{thread}" if thread else f"{where.stem}/{question}/{time_ns()}"
        threads = len(recipe.council.experts) + 1
        return run_thread(
            found, where.stem, run / "threads.sqlite", named, {"question": question}, context, on_event, threads
        )
