"""A council's state comes back from a checkpoint as it went in, under LangGraph's strict msgpack."""

from __future__ import annotations

import json
import math
import sqlite3
from contextlib import closing
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langgraph.checkpoint.serde import _msgpack
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.types import Send

from agents.thought import Thought
from graphs.council import build
from graphs.turns import Part, Seat, State, Turn
from graphs.writing import storable

texts = st.text(max_size=20)
real = st.floats(allow_nan=False, allow_infinity=False)
counts = st.integers(0, 2**31)
parents = st.none() | texts
leaves = st.none() | st.booleans() | st.integers() | st.floats() | texts
values = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3))
written = st.lists(  # what a model can write into a call, integers of any size and infinities among it
    st.fixed_dictionaries(
        {
            "tool": texts,
            "arguments": st.dictionaries(texts, values, max_size=3),
            "result": texts,
            "failed": st.booleans(),
        }
    ),
    max_size=3,
)
thoughts = st.builds(
    Thought,
    id=texts,
    parent=parents,
    expert=texts,
    round=counts,
    text=texts,
    score=st.none() | real,
    value=st.none() | real,
    status=st.sampled_from(["active", "left", "final", "pruned"]),
    reason=texts,
    tokens=counts,
    read=counts,
    logprob=st.none() | real,
    calls=written.map(storable),
    call_tokens=counts,
)
seats = st.builds(
    Seat,
    name=texts,
    status=st.sampled_from(["active", "left", "finished", "crashed"]),
    reason=texts,
    at=parents,
    rejoined=st.booleans(),
)
states = st.fixed_dictionaries(
    {
        "question": texts,
        "tree": st.lists(thoughts, max_size=4).map(lambda found: {t.id: t for t in found}),
        "seats": st.lists(seats, max_size=4).map(lambda found: {s.name: s for s in found}),
        "round": counts,
        "tokens": counts,
        "proposals": counts,
        "board": st.dictionaries(texts, texts, max_size=3),
        "plan": st.lists(st.tuples(parents, counts).map(list), max_size=3),
        "started": real,
        "answer": parents,
        "notes": st.lists(texts, max_size=3),
    }
)
places = st.builds(Part, parent=parents, steps=st.lists(texts), said=st.lists(texts), count=counts)
turns = st.builds(
    Turn,
    expert=texts,
    question=texts,
    parts=st.lists(places, max_size=3),
    board=st.lists(texts),
    round=counts,
    spare=counts,
    tokens=counts,
    until=real | st.just(math.inf),
)


@pytest.fixture(scope="module")
def serde() -> Any:
    """That of the council's own checkpoints."""
    assert _msgpack.STRICT_MSGPACK_ENABLED
    with closing(sqlite3.connect(":memory:")) as connection:
        saver: Any = build().compile(checkpointer=SqliteSaver(connection)).checkpointer
        yield saver.serde


@given(state=states, sent=turns)
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_the_state_comes_back(serde: Any, state: State, sent: Turn) -> None:
    assert state.keys() == State.__annotations__.keys()  # a new part of the state has to be tried here, too
    for value in (*state.values(), Send("think", sent)):
        assert serde.loads_typed(serde.dumps_typed(value)) == value


@given(written)
def test_calls_are_kept_as_json(calls: list[dict[str, Any]]) -> None:
    kept = storable(calls)
    assert json.loads(json.dumps(kept, allow_nan=False)) == kept == storable(kept)
    assert [(c["tool"], c["result"], c["failed"]) for c in kept] == [
        (c["tool"], c["result"], c["failed"]) for c in calls
    ]
    assert [list(c["arguments"]) for c in kept] == [list(c["arguments"]) for c in calls]
