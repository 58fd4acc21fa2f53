"""The ``align`` graph: data, sft, reward, ppo, evaluate, council, report: one run directory, resumable anywhere.

The run directory is the only record of what is done: a node whose stage is finished loads its adapter and goes on.
"""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from itertools import zip_longest
from pathlib import Path
from types import ModuleType
from typing import Any, TypedDict

import torch
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

from alignment.backbone import Backbone
from alignment.engine import Engine
from alignment.errors import UsageError
from alignment.ppo import train_ppo
from alignment.reward import train_reward
from alignment.run_dir import Report, RunDir
from alignment.sft import train_sft
from graphs import council as council_graph
from graphs import evaluate as evaluate_graph
from graphs.recipe import Recipe, load_recipe, load_task, resolved
from graphs.report import write_report
from graphs.tasks import TaskData

# sections that decide what is trained and measured: a run goes on only with the same ones
FIXED = ("seed", "task", "data", "backbone", "sft", "reward", "ppo", "evaluate")
SITTINGS = 4
PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "trl", "langgraph", "langchain-core", "lime", "alibi")


class State(TypedDict, total=False):
    done: list[str]  # stages, in order


@dataclass
class Context:
    """What the nodes share. The backbone is loaded once, when a stage first needs it."""

    recipe: Recipe
    task: ModuleType
    data: TaskData
    run: RunDir
    report: Report
    base: Path  # what the recipe's relative paths are relative to
    _engines: list[Engine] = field(default_factory=list)

    @cached_property
    def backbone(self) -> Backbone:
        self.report({"stage": "load", "step": 0, "total": 1, "metrics": {}, "message": self.recipe.backbone.model})
        return Backbone(self.recipe.backbone)

    @cached_property
    def engine(self) -> Engine:
        self._engines.append(Engine(self.backbone))
        return self._engines[0]

    def close(self) -> None:
        for engine in self._engines:
            engine.close()

    def finished(self, stage: str, *roles: str) -> bool:
        """Whether ``stage`` is done; then its roles are loaded for the stages after it."""
        if not self.run.done(stage):
            return False
        self.report({"stage": stage, "step": 1, "total": 1, "metrics": {}, "done": True, "message": "already done"})
        if not self.run.done("council"):
            for role in roles:
                self.backbone.load_role(role, self.run.path / "adapters" / role)
        return True


def data(state: State, runtime: Runtime[Context]) -> State:
    c = runtime.context
    if not c.finished("data"):
        counts = {
            name: {split: len(rows) for split, rows in getattr(c.data, name).items()}
            for name in ("sft", "pairs", "prompts")
        }
        c.run.set_stage("data", state="done", step=1, total=1, results={"counts": counts, "notes": c.data.notes})
        c.report(
            {"stage": "data", "step": 1, "total": 1, "metrics": {}, "done": True, "message": "; ".join(c.data.notes)}
        )
    return {"done": ["data"]}


def sft(state: State, runtime: Runtime[Context]) -> State:
    c = runtime.context
    if not c.finished("sft", "sft"):
        train_sft(
            c.backbone, c.recipe.sft, c.data.sft["train"], c.data.sft["validation"], c.run, c.recipe.seed, c.report
        )
    return {"done": [*state["done"], "sft"]}


def reward(state: State, runtime: Runtime[Context]) -> State:
    c = runtime.context
    if not c.finished("reward", "reward"):
        train_reward(
            c.backbone,
            c.recipe.reward,
            c.data.pairs["train"],
            c.data.pairs["validation"],
            c.run,
            c.recipe.seed,
            c.report,
        )
    return {"done": [*state["done"], "reward"]}


def ppo(state: State, runtime: Runtime[Context]) -> State:
    c = runtime.context
    config = c.recipe.ppo
    if not c.finished("ppo", "policy", *(("value",) if config.has_value_model else ())):
        prompts = c.data.prompts["train"]
        train_ppo(
            c.engine, config, prompts, c.task.check, c.run, c.recipe.seed, c.report, corpus=_corpus(c.recipe, c.base)
        )
    return {"done": [*state["done"], "ppo"]}


def evaluate(state: State, runtime: Runtime[Context]) -> State:
    c = runtime.context
    if not c.finished("evaluate"):
        config = c.recipe.evaluate
        began = time.monotonic()
        c.run.set_stage("evaluate", state="running")
        context = evaluate_graph.Context(
            c.engine, c.data.prompts["validation"][: config.n], c.task.check, config, c.run, c.report
        )
        results = evaluate_graph.graph.invoke({}, context=context)["results"]
        done = {"step": results["n"], "total": results["n"], "seconds": round(time.monotonic() - began, 1)}
        c.run.set_stage("evaluate", state="done", results=results, **done)
        c.report(
            {
                "stage": "evaluate",
                "step": 1,
                "total": 1,
                "metrics": {},
                "done": True,
                "message": " ".join(results["words"]),
            }
        )
    return {"done": [*state["done"], "evaluate"]}


def council(state: State, runtime: Runtime[Context]) -> State:
    """Sits the council on held-out puzzles, for the report: until one is solved and one is not, at most four times.

    Puzzles are taken in turn from those that a single sample of the policy solved and those that it did not, so
    these sittings illustrate; they are no measurement.
    """
    c = runtime.context
    if not c.finished("council"):
        began = time.monotonic()
        c.run.set_stage("council", state="running")
        verdicts: list[bool | None] = []
        for step, question in enumerate(_illustrations(c.run), 1):
            sitting = council_graph.Context(
                c.engine, c.task, c.recipe.council, question, c.recipe.data.get("system", "")
            )
            result = council_graph.sit(sitting, question, lambda event: None, c.run.path / "threads.sqlite", None)
            council_graph.keep(c.run, result)
            verdicts.append(result["solved"])
            c.report(
                {
                    "stage": "council",
                    "step": step,
                    "total": SITTINGS,
                    "metrics": {},
                    "message": f"{question}: {'solved' if result['solved'] else 'not solved'}",
                }
            )
            if {True, False} <= set(verdicts) or (verdicts[-1] is None and step == 2):
                break
        results = {"sittings": len(verdicts), "sittings_solved": verdicts.count(True)}
        done = {"step": len(verdicts), "total": len(verdicts), "seconds": round(time.monotonic() - began, 1)}
        c.run.set_stage("council", state="done", results=results, **done)
    return {"done": [*state["done"], "council"]}


def report(state: State, runtime: Runtime[Context]) -> State:
    c = runtime.context
    c.run.set_status("done", "report")
    write_report(c.run.path)
    return {"done": [*state["done"], "report"]}


def build() -> StateGraph:
    builder = StateGraph(State, context_schema=Context)
    nodes = (data, sft, reward, ppo, evaluate, council, report)
    for node in nodes:
        builder.add_node(node.__name__, node)
    names = [START, *(node.__name__ for node in nodes), END]
    for before, after in zip(names, names[1:], strict=False):
        builder.add_edge(before, after)
    return builder


graph = build().compile(name="align")


def run_align(recipe: Recipe, base: Path, runs_root: Path, fresh: bool, report: Report) -> Path:
    """Runs the recipe, or goes on where it was left; returns the run directory."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1))
    task = load_task(recipe.task, base)
    rows = task.load(task.Options(**recipe.data), recipe.seed, base)
    run = RunDir(runs_root / recipe.name)
    with run.locked():
        if fresh and run.path.exists():
            shutil.rmtree(run.path)
        if (run.path / "config.yaml").exists():
            _refuse_another_recipe(run, recipe)
        context = Context(recipe, task, rows, run, report, base)
        _corpus(recipe, base)  # a missing file is said before anything is trained
        run.create(resolved(recipe), environment(recipe) | {"base": str(base.resolve())})
        run.set_status("running")
        try:
            graph.invoke({"done": []}, context=context)
        except BaseException as error:
            interrupted = isinstance(error, KeyboardInterrupt)
            run.set_status("interrupted" if interrupted else "failed", message="" if interrupted else str(error)[:500])
            raise
        finally:
            context.close()
    return run.path


def _corpus(recipe: Recipe, base: Path) -> str:
    """The plain text of the pretraining loss; empty where the recipe names none."""
    if recipe.ppo.ptx_corpus is None:
        return ""
    path = base / Path(os.path.expandvars(recipe.ppo.ptx_corpus)).expanduser()
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"ppo.ptx_corpus: {path} cannot be read as UTF-8 text ({error}); the path is relative to the recipe"
        ) from None


def environment(recipe: Recipe) -> dict[str, Any]:
    """What the run's numbers depend on besides the recipe."""
    return {
        "junto": metadata.version("junto"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "packages": {name: metadata.version(name) for name in PACKAGES if _installed(name)},
        "backbone": recipe.backbone.model_dump(mode="json"),
    }


def _illustrations(run: RunDir) -> list[str]:
    """Held-out questions, in turn from those that the policy's sample solved and those that it did not."""
    rows = [r for r in run.samples() if r["stage"] == "evaluate" and r["arm"] == "policy"]
    solved, unsolved = ([r["question"] for r in rows if bool(r["solved"]) == kind] for kind in (True, False))
    in_turn = [question for pair in zip_longest(unsolved, solved) for question in pair if question is not None]
    return list(dict.fromkeys(in_turn))[:SITTINGS]


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), platform.processor())


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _refuse_another_recipe(run: RunDir, recipe: Recipe) -> None:
    # read as a recipe, so that a setting that is new since then has its default
    before, now = load_recipe(run.path / "config.yaml").model_dump(mode="json"), recipe.model_dump(mode="json")
    changed = [key for section in FIXED for key in _differences(before.get(section), now[section], section)]
    if changed:
        raise UsageError(
            f"{run.path} was made with another recipe (changed: {', '.join(changed[:3])}); "
            "add --fresh to start over, or --set name=… for a run of its own"
        )


def _differences(before: Any, now: Any, key: str) -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        for name in now.keys() | before.keys():
            yield from _differences(before.get(name), now.get(name), f"{key}.{name}")
    elif before != now:
        yield key
