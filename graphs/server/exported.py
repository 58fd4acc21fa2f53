"""The graphs for ``langgraph dev`` (``langgraph.json``): without a checkpointer, over the model that the environment
variable ``JUNTO_MODEL`` names (a run, a folder, a hub id, or ``embedded``, which it is otherwise)."""

from __future__ import annotations

import os
from functools import cache

from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.runtime import Runtime

from alignment.engine import Engine
from alignment.run_dir import RunDir
from graphs import chat as chats
from graphs.recipe import Recipe, load_recipe, load_task
from graphs.seating import seats
from graphs.server import council_thread
from graphs.server.models import Model
from graphs.sitting import calibration_of, seat
from graphs.tools import tools_of
from graphs.turns import Context as Council


def chat(config: RunnableConfig) -> CompiledStateGraph:
    """A conversation with the model."""
    model = Model("", _engine()).chat_model()
    context = chats.Context(model, model.window)

    def respond(state: chats.State, runtime: Runtime) -> chats.State:
        return chats.respond(state, runtime.override(context=context))

    builder = StateGraph(chats.State)
    builder.add_node("respond", respond)
    builder.add_edge(START, "respond")
    return builder.compile(name="chat")


def council(config: RunnableConfig) -> CompiledStateGraph:
    """The council of the run, or of the Game of 24 where the model is no run, as a conversation."""
    context = _council()

    def sit(state: council_thread.State, runtime: Runtime) -> council_thread.State:
        return council_thread.sit(state, runtime.override(context=context))

    builder = StateGraph(council_thread.State, input_schema=council_thread.Asked)
    builder.add_node("sit", sit)
    builder.add_edge(START, "sit")
    return builder.compile(name="council")


def _name() -> str:
    return os.environ.get("JUNTO_MODEL", "embedded")


@cache
def _engine() -> Engine:
    run = RunDir.find(_name(), os.environ.get("JUNTO_RUNS", "runs"))
    return Engine.open(run.path if run else _name())


@cache
def _council() -> Council:
    engine, run = _engine(), RunDir.find(_name(), os.environ.get("JUNTO_RUNS", "runs"))
    if run is not None:
        recipe = load_recipe(run.path / "config.yaml")
        task, tools = load_task(recipe.task, run.path), tools_of(recipe.council, False)
        return seat(engine, task, recipe, "thread", calibration_of(run), tools)
    recipe = Recipe(name="council")
    task = load_task(recipe.task)
    experts = seats(recipe.council, Model("", engine).roles[0], recipe.data.get("system", ""), task.STEP)
    return seat(engine, task, recipe.model_copy(update={"council": experts}), "thread")
