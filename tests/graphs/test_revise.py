"""Revision on a tiny model: when it ends, what it keeps, what the next prompt has in it, going on after a kill."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agents.config import ReviseConfig
from alignment.adapter_files import save_role
from alignment.backbone import Backbone
from alignment.config import BackboneConfig, LoraSettings
from alignment.engine import Engine, Request
from alignment.errors import UsageError
from alignment.run_dir import RunDir
from graphs.cli.main import main
from graphs.recipe import load_recipe, resolved
from graphs.revise import Context, remark, run_revise, sit
from graphs.tasks import game24

KEYS = {"question", "answer", "accepted", "solved", "turns", "tokens", "seconds", "notes"}
TURN = {"text", "score", "value", "remark", "accepted"}


@pytest.fixture(scope="module")
def backbone(tiny_model: Path) -> Backbone:
    backbone = Backbone(
        BackboneConfig(model=str(tiny_model), quantization="none", compute_dtype="float32", lora=LoraSettings(rank=4))
    )
    for i, role in enumerate(("reward", "policy", "value")):
        backbone.add_role(role, seed=i)
        for parameter in backbone.parameters(role):
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(i))
    return backbone


@pytest.fixture(scope="module")
def engine(backbone: Backbone) -> Iterator[Engine]:
    with Engine(backbone) as engine:
        yield engine


def revise(
    engine: Engine, folder: Path, thread: str | None = None, score: Any = None, **settings: Any
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    events: list[dict[str, Any]] = []
    config = ReviseConfig(**({"turns": 3, "max_tokens": 24} | settings))
    context = Context(engine, game24, config, "seed", score=score)
    return sit(context, "4 7 8 8", events.append, folder / "threads.sqlite", thread), events


def same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return {k: v for k, v in first.items() if k != "seconds"} == {k: v for k, v in second.items() if k != "seconds"}


def test_a_low_threshold_accepts_at_once(engine: Engine, tmp_path: Path) -> None:
    result, events = revise(engine, tmp_path, accept_above=-1e9)
    assert set(result) == KEYS and json.loads(json.dumps(result)) == result
    [turn] = result["turns"]
    assert set(turn) == TURN and turn["accepted"] and turn["remark"] == ""
    assert result["accepted"] and result["answer"] == turn["text"] and result["notes"] == []
    assert "".join(e["text"] for e in events if e["kind"] == "token").strip() == turn["text"]


def test_an_impossible_threshold_takes_every_turn_and_the_best_is_the_answer(engine: Engine, tmp_path: Path) -> None:
    result, _ = revise(engine, tmp_path, accept_above=1e9, turns=4)
    turns = result["turns"]
    assert len(turns) == 4 and len({t["text"] for t in turns}) > 1 and not any(t["accepted"] for t in turns)
    prompt = game24.prompt("4 7 8 8")
    for role, key in (("reward", "score"), ("value", "value")):
        together = engine.score([prompt] * 4, [t["text"] for t in turns], role)
        assert together == pytest.approx([t[key] for t in turns], abs=1e-5)  # float32, in another batch
    best = max(turns, key=lambda t: t["score"])
    assert result["answer"] == best["text"] and not result["accepted"]
    [note] = result["notes"]
    assert "4 of 4 turns" in note and f"turn {turns.index(best) + 1}," in note


def test_the_remark_is_in_the_next_prompt(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Request] = []
    streams = engine.streams

    def recorded(requests: Sequence[Request]) -> Any:
        asked.extend(requests)
        return streams(requests)

    monkeypatch.setattr(engine, "streams", recorded)
    result, _ = revise(engine, tmp_path, accept_above=1e9)
    first = game24.prompt("4 7 8 8")
    assert [request.prompt[: len(first)] for request in asked] == [first] * 3
    for before, request in zip([None, *result["turns"]], asked, strict=False):
        said = [] if before is None else [("assistant", before["text"]), ("user", before["remark"])]
        assert [(m["role"], m["content"]) for m in request.prompt[len(first) :]] == said
        assert before is None or f"{before['score']:+.2f}" in before["remark"]


def test_the_checker_does_not_accept(engine: Engine, tmp_path: Path) -> None:
    right = SimpleNamespace(prompt=game24.prompt, check=lambda question, response: True)
    config = ReviseConfig(turns=2, max_tokens=8, accept_above=1e9)
    result = sit(Context(engine, right, config), "4 7 8 8", lambda event: None, tmp_path / "t.sqlite", None)
    assert result["solved"] is True and result["accepted"] is False and len(result["turns"]) == 2


def test_a_function_can_be_the_judge(engine: Engine, tmp_path: Path) -> None:
    score = lambda prompts, texts: [-float(len(text)) for text in texts]  # noqa: E731
    result, _ = revise(engine, tmp_path, score=score, accept_above=0.0)
    assert [turn["score"] for turn in result["turns"]] == [-len(turn["text"]) for turn in result["turns"]]
    assert len(result["answer"]) == min(len(turn["text"]) for turn in result["turns"])


def test_budgets_end_it_and_say_so(engine: Engine, tmp_path: Path) -> None:
    nothing, events = revise(engine, tmp_path, max_total_tokens=0)
    assert nothing["turns"] == [] and nothing["answer"] is None and nothing["tokens"] == 0 and events == []
    assert nothing["notes"] == ["no answer was written: 0 of 0 tokens are used"] and nothing["solved"] is False
    late, _ = revise(engine, tmp_path, seconds=0)
    assert late["turns"] == [] and late["notes"] == ["no answer was written: 0 seconds are over"]
    short, _ = revise(engine, tmp_path, accept_above=1e9, max_total_tokens=1)
    assert len(short["turns"]) == 1 and short["answer"] == short["turns"][0]["text"]
    assert "of 1 tokens are used" in short["notes"][0]


@pytest.mark.parametrize("kind", ["token", "thought"])
@pytest.mark.parametrize("turn", ["turn 1", "turn 2"])
def test_a_thread_that_was_killed_goes_on(engine: Engine, tmp_path: Path, kind: str, turn: str) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    want, _ = revise(engine, tmp_path / "a", "t", accept_above=1e9)

    def stop(event: dict[str, Any]) -> None:
        if event["kind"] == kind and event["expert"] == turn:
            raise KeyboardInterrupt

    context = Context(engine, game24, ReviseConfig(turns=3, max_tokens=24, accept_above=1e9), "seed")
    with pytest.raises(KeyboardInterrupt):
        sit(context, "4 7 8 8", stop, tmp_path / "b" / "threads.sqlite", "t")
    got, events = revise(engine, tmp_path / "b", "t", accept_above=1e9)
    assert same(got, want)
    assert turn == "turn 1" or "turn 1" not in {e.get("expert") for e in events}  # nothing is written twice
    again, events = revise(engine, tmp_path / "b", "t", accept_above=1e9)
    assert same(again, want) and events == []  # a finished thread is not run again
    with pytest.raises(UsageError, match="is about '4 7 8 8'"):
        sit(context, "1 2 3 4", stop, tmp_path / "b" / "threads.sqlite", "t")


def test_the_remark_names_the_step_at_which_the_judge_falls_most() -> None:
    steps = ["8 / 8 = 1", "7 - 4 = 3", "3 - 1 = 2"]
    said = remark(-0.5, 1.0, steps, [0.9, 0.8, -0.3])
    assert said == (
        "The judge gives this answer -0.50; it must be above +1.00. "
        "After step 3 the judge falls from +0.80 to -0.30: 3 - 1 = 2\nWrite a better answer."
    )
    assert "step" not in remark(-0.5, 1.0, steps, [0.1, 0.2, 0.2]) and "step" not in remark(-0.5, 1.0, [], [])


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=8))
def test_the_named_fall_is_the_greatest(values: list[float]) -> None:
    steps = [f"step-{i}" for i in range(len(values))]
    falls = {steps[i]: values[i - 1] - values[i] for i in range(1, len(values))}
    named = [step for step in steps if f": {step}\n" in remark(0.0, 1.0, steps, values)]
    assert len(named) == (max(falls.values()) > 0)
    assert all(falls[step] == max(falls.values()) for step in named)


@pytest.fixture
def run(backbone: Backbone, tiny_model: Path, tmp_path: Path) -> RunDir:
    """A run that has a policy and a reward model, and no critic."""
    recipe = tmp_path / "recipe.yaml"
    base = {"model": str(tiny_model), "quantization": "none", "compute_dtype": "float32", "lora": {"rank": 4}}
    recipe.write_text(json.dumps({"name": "kept", "backbone": base, "revise": {"max_tokens": 12, "accept_above": 1e9}}))
    run = RunDir(tmp_path / "runs" / "kept")
    run.create(resolved(load_recipe(recipe)), {"junto": "0.1.0"})
    for role in ("reward", "policy"):
        save_role(backbone, role, run.path / "adapters" / role)
    return run


def test_a_process_that_was_killed_goes_on(run: RunDir, tmp_path: Path) -> None:
    shutil.copytree(run.path, tmp_path / "straight")
    want = run_revise(tmp_path / "straight", "4 7 8 8", [], lambda event: None, "t")
    program = (
        "import os, sys, pathlib; from graphs.revise import run_revise; "
        "die = lambda event: os._exit(9) if (event['kind'], event.get('expert')) == ('thought', 'turn 2') else None; "
        "run_revise(pathlib.Path(sys.argv[1]), '4 7 8 8', [], die, 't')"
    )
    done = subprocess.run([sys.executable, "-c", program, str(run.path)], capture_output=True, text=True)
    assert done.returncode == 9, done.stderr
    told: list[dict[str, Any]] = []
    assert same(run_revise(run.path, "4 7 8 8", [], told.append, "t"), want)
    assert "turn 1" not in {event.get("expert") for event in told}


def test_the_command_keeps_its_result(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["run", "revise", "--run", str(run.path), "--question", "8 8 7 4"]
    assert main([*asked, "--json"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert result["question"] == "4 7 8 8" and len(result["turns"]) == 3 and "turn 3: " in err
    assert all(turn["value"] is None for turn in result["turns"])  # the run has no critic
    assert json.loads((run.path / "revisions" / "4-7-8-8.json").read_text()) == result
    assert main([*asked, "--set", "revise.accept_above=-1e9"]) == 0
    assert "accepted" in capsys.readouterr().out
    assert main([*asked, "--dry-run"]) == 0
    assert "# turns: up to 3 by policy" in capsys.readouterr().out
    shutil.rmtree(run.path / "adapters" / "reward")
    assert main(asked) == 3
    assert "has nothing that scores an answer" in capsys.readouterr().err
    assert main(asked[:-2]) == 2 and "run revise needs a question" in capsys.readouterr().err
