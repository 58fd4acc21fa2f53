"""The council as a graph of a conversation: the last question, one sitting, its answer as a message.

The sitting is a graph within this one. Its checkpoints are this graph's, so that one that was killed goes on, and the
next question begins with an empty tree.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, cast

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langgraph.graph import START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.runtime import Runtime
from typing_extensions import TypedDict  # pydantic makes no schema of typing's before Python 3.12

from agents.thought import Tree
from alignment.errors import UsageError
from graphs import council
from graphs.turns import Context, Seat, workers

KEPT = ("question", "tree", "seats", "round", "tokens", "proposals", "answer", "notes")


class Asked(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]


class State(Asked, total=False):
    """Beside the messages: the last sitting, as in ``graphs.turns.State``."""

    question: str
    tree: Tree
    seats: dict[str, Seat]
    round: int
    tokens: int
    proposals: int
    answer: str | None
    notes: list[str]


def sit(state: State, runtime: Runtime[Context]) -> State:
    """Raises UsageError where the last message is no question of the task."""
    asked = state["messages"][-1] if state["messages"] else None
    if not isinstance(asked, HumanMessage):
        raise UsageError("the last message is not the user's; send a question")
    # the thread is a part of every seed: the same after a kill, another one for another message
    context = replace(runtime.context, thread=f"thread/{asked.id}")
    start = {"question": context.task.validate_question(asked.text), "tokens": 0, "proposals": 0}
    config: Any = {"max_concurrency": workers(context)}
    found: dict[str, Any] = {}
    for mode, part in council.graph.stream(start, config, context=context, stream_mode=["custom", "values"]):
        if mode == "custom":
            runtime.stream_writer(part)
        else:
            found = part
    kept = {key: found[key] for key in KEPT if key in found}
    answer = found["answer"] or f"No answer: {found['notes'][-1]}"
    usage: Any = {"input_tokens": 0, "output_tokens": found["tokens"], "total_tokens": found["tokens"]}
    return cast(State, kept | {"messages": [AIMessage(answer, usage_metadata=usage)]})


def build() -> StateGraph:
    builder = StateGraph(State, context_schema=Context, input_schema=Asked)
    builder.add_node("sit", sit)
    builder.add_edge(START, "sit")
    return builder
