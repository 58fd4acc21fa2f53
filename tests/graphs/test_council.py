"""The council on a tiny model: who leaves, who comes back, budgets, a crash, going on with a thread."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from agents.config import CouncilConfig, ExpertConfig
from alignment.backbone import Backbone
from alignment.config import BackboneConfig, LoraSettings
from alignment.engine import Engine
from alignment.errors import SetupError
from graphs.recipe import Recipe
from graphs.sitting import seat, sit
from graphs.tasks import game24
from graphs.turns import Context

KEYS = {"question", "answer", "solved", "rounds", "experts", "thoughts", "tokens", "proposals", "seconds", "notes"}


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> Iterator[Engine]:
    backbone = Backbone(
        BackboneConfig(model=str(tiny_model), quantization="none", compute_dtype="float32", lora=LoraSettings(rank=4))
    )
    for i, role in enumerate(("sft", "reward", "policy", "value")):
        backbone.add_role(role, seed=i)
        for parameter in backbone.parameters(role):
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(i))
    with Engine(backbone) as engine:
        yield engine


def seated(engine: Engine, task: Any = game24, **settings: Any) -> Context:
    config = CouncilConfig(**({"rounds": 3, "max_tokens_per_step": 40, "leave_below": None} | settings))
    return seat(engine, task, Recipe(name="t", council=config), "seed")


def council(
    engine: Engine, database: Path, task: Any = game24, thread: str | None = None, **settings: Any
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    events: list[dict[str, Any]] = []
    result = sit(seated(engine, task, **settings), "4 7 8 8", events.append, database / "threads.sqlite", thread)
    return result, events


def lasting(result: dict[str, Any]) -> dict[str, Any]:
    """Without what differs from one time to the next: the clock, and the last digits of log-probabilities, whose sums
    are rounded by the shape of the batch."""
    thoughts = [{k: v for k, v in t.items() if k not in ("logprob", "read")} for t in result["thoughts"]]
    return result | {"thoughts": thoughts, "seconds": None}


def free_task() -> Any:
    """The game with a step that random weights can write: two digits, then more to come or the end."""
    names = {name: getattr(game24, name) for name in ("prompt", "check", "validate_question")}
    return SimpleNamespace(**names, STEP="[0-9]{2}")


EIGHT = [ExpertConfig(name=f"E{i}") for i in range(8)]  # some of them go on, some end, by chance of their streams


def test_result_and_events(engine: Engine, tmp_path: Path) -> None:
    result, events = council(engine, tmp_path, free_task())
    assert set(result) == KEYS and json.loads(json.dumps(result)) == result
    assert [e["name"] for e in result["experts"]] == ["Ada", "Blaise", "Carl"]
    known = {t["id"] for t in result["thoughts"]}
    assert len(known) == len(result["thoughts"]) >= 3
    assert all(t["text"] for t in result["thoughts"])
    for thought in result["thoughts"]:
        assert thought["parent"] is None or thought["parent"] in known
        assert isinstance(thought["score"], float) == (thought["status"] in ("active", "final"))
    told = [(e["expert"], e["round"]) for e in events if e["kind"] == "thought"]
    assert sorted(told) == sorted((t["expert"], t["round"]) for t in result["thoughts"])
    assert result["solved"] is False and result["tokens"] > 0


def test_the_same_council_twice(engine: Engine, tmp_path: Path) -> None:
    first, second = (council(engine, tmp_path, free_task())[0] for _ in range(2))
    assert lasting(first) == lasting(second)


def test_leaving_by_score_and_rejoining_once(engine: Engine, tmp_path: Path) -> None:
    many: dict[str, Any] = {"experts": EIGHT, "seed": 1}
    stay, _ = council(engine, tmp_path, free_task(), **many, rejoin=False, leave_below=-1e9)
    values = sorted({t["value"] for t in stay["thoughts"] if t["round"] == 1 and t["status"] == "active"})
    assert len(values) >= 2
    limit = (values[0] + values[1]) / 2  # an expert of the first round is below
    left, events = council(engine, tmp_path, free_task(), **many, rejoin=False, leave_below=limit)
    leaver = next(t["expert"] for t in left["thoughts"] if t["round"] == 1 and t["value"] == values[0])
    assert [t["round"] for t in left["thoughts"] if t["expert"] == leaver] == [1]
    entry = next(e for e in left["experts"] if e["name"] == leaver)
    assert entry["status"] == "left" and "less than" in entry["reason"]
    assert any(e["kind"] == "left" and e["expert"] == leaver and "less than" in e["reason"] for e in events)
    back, events = council(engine, tmp_path, free_task(), **many, rejoin=True, leave_below=limit)
    second = next(t for t in back["thoughts"] if t["expert"] == leaver and t["round"] == 2)
    peers = [t for t in back["thoughts"] if t["round"] == 1 and t["status"] == "active"]
    assert second["parent"] == max(peers, key=lambda t: t["score"])["id"]  # it forks the best peer's line
    assert any(e["kind"] == "share" and e["expert"] == leaver for e in events)


def test_a_threshold_holds_for_the_scorer_that_it_was_measured_on(engine: Engine) -> None:
    found = {"threshold": 0.25, "scorer": "critic", "reason": "it helps"}
    config = CouncilConfig()
    limits = {
        name: seat(
            engine, game24, Recipe(name="t", council=config.model_copy(update={"leave_scorer": name})), "t", found
        )
        for name in ("auto", "critic", "length")
    }
    assert {name: c.leave_below for name, c in limits.items()} == {"auto": 0.25, "critic": 0.25, "length": None}
    assert "by critic, and not by length" in limits["length"].notes[0]


def test_budgets_end_in_conclude(engine: Engine, tmp_path: Path) -> None:
    result, _ = council(engine, tmp_path, free_task(), max_total_tokens=1)
    assert result["rounds"] == 1
    for nothing in ({"seconds": 1e-6}, {"seconds": 0}, {"max_total_tokens": 0}):
        result, _ = council(engine, tmp_path, free_task(), **nothing)
        assert result["rounds"] == result["tokens"] == 0 and result["answer"] is None
        assert any("budget" in note for note in result["notes"])
    result, _ = council(engine, tmp_path, free_task(), max_tokens_per_step=1, rounds=2)
    assert result["answer"] is None and all(e["status"] == "left" for e in result["experts"])


def test_a_crashed_expert_leaves_and_the_others_go_on(engine: Engine, tmp_path: Path) -> None:
    task = free_task()
    task.prompt = lambda question, board=(), persona="": (
        game24.prompt(question, board) if persona != "break" else [{"role": "user"}]
    )
    experts = [ExpertConfig(name="Ada"), ExpertConfig(name="Bea", persona="break"), ExpertConfig(name="Carl")]
    result, events = council(engine, tmp_path, task, experts=experts)
    entry = next(e for e in result["experts"] if e["name"] == "Bea")
    assert entry["status"] == "crashed" and "KeyError" in entry["reason"]
    assert {t["expert"] for t in result["thoughts"]} == {"Ada", "Carl"}  # and nobody else is disturbed
    assert any(e["kind"] == "left" and e["expert"] == "Bea" for e in events)


def test_when_all_crash_at_once_the_council_concludes(engine: Engine, tmp_path: Path) -> None:
    task = free_task()
    calls: list[int] = []

    def prompt(question: str, board: Any = (), persona: str = "") -> Any:
        calls.append(1)
        return game24.prompt(question, board) if len(calls) <= 3 else [{"role": "user"}]

    task.prompt = prompt  # the first round is written, in the second every expert fails
    result, events = council(engine, tmp_path, task, scorer="random")
    going_on = {t["expert"] for t in result["thoughts"] if t["status"] == "active"}
    crashed = {e["name"] for e in result["experts"] if e["status"] == "crashed"}
    assert crashed == going_on and crashed
    assert {e["expert"] for e in events if e["kind"] == "left" and "crashed" in e["reason"]} == crashed
    assert result["answer"] or any("crashed" in note or "rounds" in note for note in result["notes"])


def test_one_expert_alone(engine: Engine, tmp_path: Path) -> None:
    result, _ = council(engine, tmp_path, free_task(), experts=EIGHT[:1])
    assert [t["expert"] for t in result["thoughts"]] == ["E0"] * len(result["thoughts"])


def test_the_grammar_holds(engine: Engine, tmp_path: Path) -> None:
    result, _ = council(engine, tmp_path, max_tokens_per_step=60)
    import re

    from agents.thought import step_grammar

    done = [t for t in result["thoughts"] if t["status"] != "pruned"]
    assert all(re.fullmatch(step_grammar(game24.STEP), t["text"]) for t in done)


def test_an_interrupted_thread_goes_on(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    want, _ = council(engine, tmp_path / "a", free_task(), thread="t", experts=EIGHT)
    assert want["rounds"] >= 2

    def stop(event: dict[str, Any]) -> None:
        if event["kind"] == "thought" and event["round"] == 1:
            raise KeyboardInterrupt

    context = seated(engine, free_task(), experts=EIGHT)
    with pytest.raises(KeyboardInterrupt):
        sit(context, "4 7 8 8", stop, tmp_path / "b" / "threads.sqlite", "t")
    got = sit(context, "4 7 8 8", lambda event: None, tmp_path / "b" / "threads.sqlite", "t")
    assert lasting(got) == lasting(want)


@pytest.mark.parametrize("search", ["beam", "best_first", "dfs", "mcts"])
def test_a_searched_tree(engine: Engine, tmp_path: Path, search: str) -> None:
    settings = {"search": search, "width": 2, "proposals": 5, "rounds": 4, "depth": 3, "max_proposals": 17}
    result, events = council(engine, tmp_path, free_task(), scorer="reward", **settings)
    thoughts = {t["id"]: t for t in result["thoughts"]}
    assert result["proposals"] <= 17 and {"Ada", "Blaise", "Carl"} <= {t["expert"] for t in thoughts.values()}
    assert result["proposals"] >= len(thoughts)  # those that repeated another one were written anew
    searched = [(t["parent"], t["text"]) for t in thoughts.values() if t["status"] in ("active", "final")]
    assert len(searched) == len(set(searched))
    for thought in thoughts.values():
        assert thought["parent"] is None or thoughts[thought["parent"]]["round"] < thought["round"]
        assert (thought["status"] in ("left", "pruned")) == bool(thought["reason"]) or thought["status"] == "active"
    ids = {e["id"] for e in events if e["kind"] == "token"}
    assert set(thoughts) <= ids
    again, _ = council(engine, tmp_path, free_task(), scorer="reward", **settings)
    assert lasting(again) == lasting(result)


def test_a_refuted_step_leaves(engine: Engine, tmp_path: Path) -> None:
    task = free_task()
    task.refute = lambda question, steps, finished: f"{steps[-1]} is odd" if int(steps[-1]) % 2 else None
    result, _ = council(engine, tmp_path, task, experts=EIGHT, leave_refuted=True, rejoin=False, scorer="checker")
    done = [t for t in result["thoughts"] if t["status"] != "pruned" and t["text"].isdigit()]
    assert {t["status"] == "left" for t in done} == {True, False}
    for thought in done:
        assert (int(thought["text"]) % 2 == 1) == (thought["reason"] == f"the checker: {thought['text']} is odd")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"leave_refuted": True}, "needs a function refute"),
        ({"scorer": "oracle"}, "needs a function reachable"),
        ({"experts": [ExpertConfig(name="A", role="nobody")]}, "no nobody"),
    ],
)
def test_what_the_council_lacks(engine: Engine, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(SetupError, match=said):
        seated(engine, free_task(), **settings)
