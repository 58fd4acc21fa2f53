"""The graphs that ``langgraph.json`` names, as ``langgraph dev`` would load and run them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.memory import InMemorySaver

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("graph", ["chat", "council"])
@pytest.mark.parametrize("kind", ["run", "model"])
def test_exported_graphs(graph: str, kind: str, tiny_run: Path, wide_model: Path, monkeypatch: Any) -> None:
    place, _, name = json.loads((ROOT / "langgraph.json").read_text())["graphs"][graph].rpartition(":")
    spec = importlib.util.spec_from_file_location("exported_for_studio", ROOT / place)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setenv("JUNTO_MODEL", str(tiny_run if kind == "run" else wide_model))
    monkeypatch.setattr("graphs.server.models.REPLY_TOKENS", 8)
    made = getattr(module, name)({})
    assert made.checkpointer is None and made.name == graph
    made.checkpointer = InMemorySaver()  # which the server would put there
    config: Any = {"configurable": {"thread_id": "1"}}
    found = made.invoke({"messages": [HumanMessage("4 7 8 8")]}, config)
    assert [message.type for message in found["messages"]] == ["human", "ai"]
    assert graph == "chat" or found["question"] == "4 7 8 8" and found["tree"]
    module._engine().close()
