"""A stranger's graph: two drafts, and the one that the council's scorer prefers."""

from typing import TypedDict

from langgraph.graph import END, START, StateGraph

from agents.scorers import Line
from alignment.engine import Request
from graphs.turns import Context


class State(TypedDict, total=False):
    question: str
    drafts: list[str]
    answer: str


def draft(state, runtime):
    c = runtime.context
    prompt = c.task.prompt(state["question"])
    requests = [Request(prompt, role="policy", max_tokens=24, seed=f"draft {i}") for i in range(2)]
    return {"drafts": [done.text for done in c.engine.generate(requests)]}


def choose(state, runtime):
    lines = [Line((text,), 0.0, len(text)) for text in state["drafts"]]
    scores = runtime.context.score(state["question"], lines)
    return {"answer": max(zip(scores, state["drafts"], strict=True))[1]}


graph = StateGraph(State, context_schema=Context)
graph.add_node("draft", draft)
graph.add_node("choose", choose)
graph.add_edge(START, "draft")
graph.add_edge("draft", "choose")
graph.add_edge("choose", END)
