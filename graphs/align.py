"""The ``align`` graph: data, sft, reward, audit, ppo, evaluate, test, council, report: one run directory, resumable
anywhere.

A recipe's ``stop_after`` leads from that stage to the report; without it the same run goes on later.

The run directory is the only record of what is done: a node whose stage is finished loads its adapter and goes on.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import zip_longest
from pathlib import Path
from types import ModuleType
from typing import Any, TypedDict

import torch
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Command

from alignment.adapter_files import load_role
from alignment.backbone import Backbone
from alignment.batch import encode_completion
from alignment.config import BackboneConfig
from alignment.engine import Engine
from alignment.errors import JuntoError, UsageError
from alignment.failures import explained
from alignment.ppo import train_ppo
from alignment.reward import train_reward
from alignment.rollout import reference_samples
from alignment.rows import fit_lengths, refuse_other_kind
from alignment.run_dir import Report, RunDir
from alignment.scoring import Scorer
from alignment.sft import train_sft
from explain.score import EngineScorer
from graphs import audit as audits
from graphs import before_after, rewards
from graphs.asking import OnAsk, of_shown
from graphs.database import forget
from graphs.environment import environment
from graphs.gate import TRAINED
from graphs.gate_person import WaitingRun, stage_of, stopped
from graphs.modules import plain_text
from graphs.recipe import EvaluateConfig, Recipe, load_task, resolved
from graphs.report import write_report
from graphs.results import keep
from graphs.resume import prepare_resume, refuse_changes
from graphs.send_back import send_back, with_changes
from graphs.sitting import seat, sit
from graphs.tasks import Row, TaskData

STOPS = ("sft", "reward", "ppo")  # where a recipe may end
SITTINGS = 4
STEPS = 200  # of the graph: nine nodes, which a gate may send back to the first up to fifteen times
VERDICTS = {True: "solved", False: "not solved", None: "no checker to say whether it is solved"}


class State(TypedDict, total=False):
    done: list[str]  # stages, in order
    back: bool  # a gate was shut: what is not finished any more is trained again
    stop: str  # why it ends early: a person said so


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
        config = BackboneConfig(**{**self.recipe.backbone.model_dump(), "model": self.run.backbone()["model"]})
        tunes_it = self.recipe.sft.method == "full" and not self.run.done("sft")
        return Backbone(config, master_weights=tunes_it)

    @cached_property
    def engine(self) -> Engine:
        self._engines.append(Engine(self.backbone))
        return self._engines[-1]

    @cached_property
    def score(self) -> Scorer:
        """The recipe's reward function, or the engine's reward model."""
        return rewards.scorer(self.recipe.reward, self.engine)

    def sent_back(self, stage: str) -> bool:
        """Whether the recipe's gate sends the run back after ``stage``; the model is then loaded anew."""
        said = send_back(self.recipe, self.run, stage)
        if said:
            self.report({"stage": stage, "step": 1, "total": 1, "metrics": {}, "message": said})
            if int(os.environ.get("WORLD_SIZE", 1)) > 1:  # the others have ended with PPO
                raise JuntoError(f"{said}; run the same command again to train it")
            self.close()
            for part in ("backbone", "engine", "score"):
                self.__dict__.pop(part, None)
            self.recipe = with_changes(self.recipe, self.run)
        return bool(said)

    def close(self) -> None:
        while self._engines:
            self._engines.pop().close()

    def say(self, stage: str, notes: list[str]) -> None:
        """Keeps what a person should know of a stage's rows, and tells it."""
        self.run.set_stage(stage, notes=notes)
        for note in notes:
            self.report({"stage": stage, "step": 0, "total": 1, "metrics": {}, "message": note})

    def finished(self, stage: str, *roles: str) -> bool:
        """Whether ``stage`` is done; then its roles are loaded for the stages after it."""
        if not self.run.done(stage):
            return False
        said = self.run.status()["stages"][stage].get("origin", "already done")
        self.report({"stage": stage, "step": 1, "total": 1, "metrics": {}, "done": True, "message": said})
        if not self.run.done("council") or (self.recipe.test.n and not self.run.done("test")):
            for role in roles:
                load_role(self.backbone, role, self.run.path / "adapters" / role)
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
        config, rows = c.recipe.sft, {}
        notes: list[str] = []
        for split, kind in (("train", "training"), ("validation", "held-out")):
            given = c.data.sft[split]
            tokens = [len(encode_completion(c.backbone.chat, row)[0]) for row in given]
            rows[split], said = fit_lengths(given, tokens, config.max_length, config.long_rows, "sft", kind)
            notes += said
        c.say("sft", notes)
        with explained("sft", c.run):
            train_sft(c.backbone, config, rows["train"], rows["validation"], c.run, c.recipe.seed, c.report)
    return {"done": [*state["done"], "sft"], "back": c.sent_back("sft")}


def reward(state: State, runtime: Runtime[Context]) -> State:
    """Trains the reward model; where a function is the reward, there is nothing to train, and it is measured only."""
    c = runtime.context
    config, recipe = c.recipe.reward, c.recipe
    if why := stopped(recipe.gate, c.run, "reward"):
        return {"stop": why}
    if config.function is not None:
        rewards.refuse_changed_function(config, c.run)
        if not c.finished("reward"):
            c.say("reward", [f"{config.function} is the reward; nothing is trained"])
            results = rewards.function_results(config, c.data.pairs["validation"], c.backbone.chat)
            c.run.set_stage("reward", state="done", step=1, total=1, results=results)
            c.report({"stage": "reward", "step": 1, "total": 1, "metrics": results, "done": True})
    elif not c.finished("reward", "reward"):
        pairs, prompts = c.data.pairs, c.data.prompts["train"]
        reference = None
        if config.normalize == "reference":
            reference = partial(reference_samples, c.engine, prompts, recipe.ppo, config.reference_samples, recipe.seed)
        with explained("reward", c.run):
            train_reward(
                c.backbone, config, pairs["train"], pairs["validation"], c.run, recipe.seed, c.report, reference
            )
    return {"done": [*state["done"], "reward"], "back": c.sent_back("reward")}


def audit(state: State, runtime: Runtime[Context]) -> State:
    """The gate before PPO: which surface features the reward goes by, where the recipe asks for it."""
    c = runtime.context
    config = c.recipe.audit
    if config.on_alarm == "off" or c.run.done("ppo"):
        return {}
    if not c.finished("audit"):
        reward = c.recipe.reward.function
        scorer = EngineScorer(c.engine) if reward is None else rewards.FunctionScorer(reward)
        audits.gate(scorer, c.data.pairs["validation"], config, c.recipe.seed, c.run, c.report)
    if config.on_alarm == "stop":
        audits.refuse_alarms(c.run)
    return {"done": [*state["done"], "audit"]}


def ppo(state: State, runtime: Runtime[Context]) -> State:
    c = runtime.context
    recipe = c.recipe
    if why := stopped(recipe.gate, c.run, "ppo"):
        return {"stop": why}
    # a run that came trained may have left its value model behind, which nothing after PPO has to have
    if not c.finished("ppo", "policy", *(("value",) if (c.run.path / "adapters" / "value").is_dir() else ())):
        prompts, corpus = c.data.prompts["train"], plain_text(recipe.ppo.ptx_corpus, c.base)
        gold = rewards.gold_scorer(recipe.ppo)
        with explained("ppo", c.run), c.engine.for_training():
            train_ppo(c.engine, recipe.ppo, prompts, c.task.check, c.run, recipe.seed, c.report, c.score, corpus, gold)
    return {"done": [*state["done"], "ppo"]}


def evaluate(state: State, runtime: Runtime[Context]) -> State:
    c = runtime.context
    if why := stopped(c.recipe.gate, c.run, "evaluate"):
        return {"stop": why}
    if not c.finished("evaluate"):
        _measure(c, "evaluate", c.data.prompts["validation"][: c.recipe.evaluate.n], c.recipe.evaluate)
    return {"done": [*state["done"], "evaluate"], "back": c.sent_back("evaluate")}


def test(state: State, runtime: Runtime[Context]) -> State:
    """The figures of the test split, where the recipe asks for them. Every gate is behind, and none reads them."""
    c = runtime.context
    if not c.recipe.test.n:
        return {}
    if not c.finished("test"):
        # general ability has been measured, on the same texts
        config = c.recipe.evaluate.model_copy(update={"ability": False})
        _measure(c, "test", c.data.prompts["test"][: c.recipe.test.n], config)
    return {"done": [*state["done"], "test"]}


def _measure(c: Context, stage: str, prompts: list[Row], config: EvaluateConfig) -> None:
    """The SFT model and the policy on the same prompts."""
    began = time.monotonic()
    c.run.set_stage(stage, state="running")
    context = before_after.Context(c.engine, prompts, c.task.check, config, c.run, c.report, c.score, stage)
    results = before_after.graph.invoke({}, context=context)["results"]
    if stage == "evaluate":
        audits.compare_policy(c.run)
    done = {"step": results["n"], "total": results["n"], "seconds": round(time.monotonic() - began, 1)}
    c.run.set_stage(stage, state="done", results=results, **done)
    message = " ".join(results["words"])
    c.report({"stage": stage, "step": 1, "total": 1, "metrics": {}, "done": True, "message": message})


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
            sitting = seat(c.engine, c.task, c.recipe, question)
            result = sit(sitting, question, lambda event: None, c.run.path / "threads.sqlite", None)
            keep(c.run.path, "trees", result)
            verdicts.append(result["solved"])
            c.report(
                {
                    "stage": "council",
                    "step": step,
                    "total": SITTINGS,
                    "metrics": {},
                    "message": f"{question}: {VERDICTS[result['solved']]}",
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
    c.run.set_status("done", "report", state.get("stop", ""))
    write_report(c.run.path)
    return {"done": [*state["done"], "report"]}


def build() -> StateGraph:
    builder = StateGraph(State, context_schema=Context)
    nodes = (data, sft, reward, audit, ppo, evaluate, test, council, report)
    for node in nodes:
        builder.add_node(node.__name__, node)
    names = [START, *(node.__name__ for node in nodes), END]
    for before, after in zip(names, names[1:], strict=False):
        if before in STOPS or before in TRAINED:
            builder.add_conditional_edges(before, _next(before, after), [after, "report", "data"])
        else:
            builder.add_edge(before, after)
    return builder


def _next(stage: str, after: str) -> Callable[[State, Runtime[Context]], str]:
    def following(state: State, runtime: Runtime[Context]) -> str:
        if state.get("back"):  # what is finished is loaded again on the way
            return "data"
        return "report" if state.get("stop") or runtime.context.recipe.stop_after == stage else after

    return following


graph = build().compile(name="align")


def run_align(
    recipe: Recipe, base: Path, runs_root: Path, fresh: bool, report: Report, on_ask: OnAsk | None = None
) -> Path:
    """Runs the recipe, or goes on where it was left; returns the run directory. Where it asks a person, ``on_ask``
    answers; without it the run waits, and WaitingRun is raised."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1))
    task = load_task(recipe.task, base)
    run = RunDir(runs_root / recipe.name)
    if not fresh and (run.path / "config.yaml").exists():
        refuse_changes(run, recipe)  # before the minutes that making rows may take
    making = "reading or making the rows"  # which may take minutes
    report({"stage": "data", "step": 0, "total": 1, "metrics": {}, "message": making})
    rows = task.load(task.Options(**recipe.data), recipe.seed, base)
    if recipe.reward.function is None:
        refuse_other_kind(recipe.reward, rows.pairs["train"] + rows.pairs["validation"])
    if recipe.test.n and not rows.prompts.get("test"):
        raise UsageError("test.n asks for a test split and the data have none; set data.test to its share of the rows")
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        if not run.done("reward"):
            raise UsageError(
                "several processes share PPO alone; first train up to the reward model in one process: "
                "junto run align RECIPE --set stop_after=reward"
            )
        if recipe.gate.ask_before:
            raise UsageError("several processes cannot ask a person; add --set gate.ask_before=[]")
        if int(os.environ["RANK"]):
            _join(Context(with_changes(recipe, run), task, rows, run, lambda event: None, base))
            return run.path
    with run.locked():
        if fresh and run.path.exists():
            forget(run.path / "threads.sqlite")
            shutil.rmtree(run.path)
        if (run.path / "config.yaml").exists():
            prepare_resume(run, recipe)
        # what is missing is said before anything is trained
        plain_text(recipe.ppo.ptx_corpus, base)
        if recipe.sft.start is not None and not run.done("sft"):
            RunDir.open(recipe.sft.start, runs_root).adapter("sft")
        context = Context(with_changes(recipe, run), task, rows, run, report, base)
        run.create(resolved(recipe), environment(recipe) | {"base": str(base.resolve())})
        run.set_status("running")
        try:
            _invoke(context, on_ask)
        except WaitingRun as waiting:
            run.update_status(state="waiting", waiting=stage_of(waiting.asked), message=str(waiting))
            raise
        except BaseException as error:
            interrupted = isinstance(error, KeyboardInterrupt)
            with suppress(OSError):  # a full disk takes no status either; the error itself is what matters
                state = "interrupted" if interrupted else "failed"
                run.set_status(state, message="" if interrupted else str(error)[:500])
            raise
        finally:
            context.close()
    return run.path


def _invoke(context: Context, on_ask: OnAsk | None) -> None:
    """Runs the graph to its end. Its checkpoints are for a person's answer alone, and are not kept: what is done, and
    what was decided, is in the run."""
    config: RunnableConfig = {"recursion_limit": STEPS, "configurable": {"thread_id": context.run.path.name}}
    asking = build().compile(name="align", checkpointer=InMemorySaver())
    given: Any = {"done": []}
    while True:
        asked = {one.id: one.value for one in asking.invoke(given, config, context=context).get("__interrupt__", [])}
        if not asked:
            return
        if on_ask is None:
            raise WaitingRun(context.run, asked)
        given = Command(resume=of_shown(on_ask(WaitingRun(context.run, asked)), asked))


def _join(context: Context) -> None:
    """Under ``accelerate launch``, what the processes beside the first do: their share of PPO. They write nothing."""
    context.finished("sft", "sft")
    context.finished("reward", *(() if context.recipe.reward.function else ("reward",)))
    try:
        ppo({"done": []}, Runtime(context=context))
    finally:
        context.close()


def _illustrations(run: RunDir) -> list[str]:
    """Held-out questions, in turn from those that the policy's sample solved and those that it did not."""
    rows = [r for r in run.samples() if r["stage"] == "evaluate" and r["arm"] == "policy"]
    solved, unsolved = ([r["question"] for r in rows if bool(r["solved"]) == kind] for kind in (True, False))
    in_turn = [question for pair in zip_longest(unsolved, solved) for question in pair if question is not None]
    return list(dict.fromkeys(in_turn))[:SITTINGS]
