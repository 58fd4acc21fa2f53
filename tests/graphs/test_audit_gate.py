"""The audit between reward model and PPO: told, refused, resumed; and the policy's answers beside the SFT model's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from alignment.errors import JuntoError, UsageError
from alignment.run_dir import RunDir
from explain.audit_result import from_json
from explain.exploited import from_json as shifts_of
from graphs.align import run_align
from graphs.audit import examples_of
from graphs.cli.main import main
from graphs.recipe import AuditConfig, Recipe, load_recipe

GATE = {"pairs": 40, "probes": 20}


def recipe_of(folder: Path, model: Path, audit: Any, **overrides: Any) -> Recipe:
    (folder / "rewards.py").write_text(
        "def longer(prompt, response):\n    return float(sum(map(str.isalnum, response)))\n"
    )
    content = {
        "name": "tiny",
        "data": {"lines": 24, "pairs": 400, "prompts": 200},
        "backbone": {"model": str(model), "quantization": "none", "compute_dtype": "float32", "lora": {"rank": 4}},
        "sft": {"steps": 2, "batch_size": 4},
        "reward": {"steps": 2, "batch_size": 2},
        "ppo": {"iterations": 1, "batch_size": 4, "max_tokens": 6},
        "evaluate": {"n": 24, "max_tokens": 6, "ability": False},
        "council": {"rounds": 1, "max_tokens_per_step": 6},
        "audit": audit,
    } | overrides
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content))
    return load_recipe(folder / "recipe.yaml")


def align(recipe: Recipe, root: Path, report: Callable[[dict], None] = lambda event: None) -> RunDir:
    return RunDir(run_align(recipe, root, root / "runs", False, report))


def gate_of(run: RunDir) -> dict[str, Any]:
    return json.loads((run.path / "audits" / "gate.json").read_text())


class Killed(BaseException):
    """Stands for a kill."""


def killing(events: int) -> Callable[[dict], None]:
    """A report that is killed at the so-manieth event of the audit."""
    left = events

    def report(event: dict) -> None:
        nonlocal left
        left -= event["stage"] == "audit"
        if left < 0:
            raise Killed

    return report


@pytest.fixture(scope="module")
def warned(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDir, list[dict]]:
    folder = tmp_path_factory.mktemp("warned")
    events: list[dict] = []
    recipe = recipe_of(folder, tiny_model, GATE | {"on_alarm": "warn"}, stop_after="ppo")
    return align(recipe, folder, events.append), events


def test_what_the_gate_leaves(warned: tuple[RunDir, list[dict]]) -> None:
    run, events = warned
    stages = run.status()["stages"]
    assert list(stages) == ["data", "sft", "reward", "audit", "ppo"] and stages["audit"]["state"] == "done"
    found = from_json(gate_of(run))
    assert (found.rows, found.labelled, found.probed) == (40, 40, 20)
    assert stages["audit"]["results"] == {"alarms": ", ".join(f.feature for f in found.alarms), "audited": 40}
    assert stages["audit"]["notes"][0].split(" over 40 pairs")[0] in ("ALARM", "No evidence", "Too little data")
    assert not (run.path / "checkpoints" / "audit").exists()
    page = (run.path / "report.html").read_text()
    assert "Audit of the reward model" in page and "The reward model, before PPO" in page and "<script" not in page
    assert any(e["stage"] == "audit" and e.get("done") for e in events)


@pytest.mark.parametrize("at", [1, 20])
def test_killed_in_the_gate_it_ends_the_same_and_scores_nothing_twice(
    warned: tuple[RunDir, list[dict]], tiny_model: Path, tmp_path: Path, at: int
) -> None:
    recipe = recipe_of(tmp_path, tiny_model, GATE | {"on_alarm": "warn"}, stop_after="ppo")
    with pytest.raises(Killed):
        align(recipe, tmp_path, killing(at))
    run = RunDir(tmp_path / "runs" / "tiny")
    assert run.status()["stages"]["audit"]["state"] == "running" and not run.done("audit")
    events: list[dict] = []
    again = align(recipe, tmp_path, events.append)
    assert gate_of(again) == gate_of(warned[0])
    whole = next(e["total"] for e in warned[1] if e["stage"] == "audit")
    left = next(e["total"] for e in events if e["stage"] == "audit")
    assert left < whole
    assert [e["message"] for e in events if e["stage"] == "reward"] == ["already done"]
    events.clear()
    align(recipe, tmp_path, events.append)
    assert [e["message"] for e in events if e["stage"] == "audit"] == []  # PPO is done: there is nothing to gate


def test_an_alarm_stops_until_the_recipe_says_warn(tiny_model: Path, tmp_path: Path) -> None:
    """A reward of length alone is found out by its probes, and the policy never begins."""
    reward = {"function": "rewards.py:longer"}
    recipe = recipe_of(tmp_path, tiny_model, GATE | {"on_alarm": "stop"}, reward=reward)
    for _ in range(2):  # the second time without another audit
        events: list[dict] = []
        with pytest.raises(JuntoError, match="alarm .*goes by length.*report.html.*--set audit=warn"):
            align(recipe, tmp_path, events.append)
    assert [e["message"] for e in events if e["stage"] == "audit"] == ["already done"]
    run = RunDir(tmp_path / "runs" / "tiny")
    assert run.status()["state"] == "failed" and "ppo" not in run.status()["stages"]
    assert "goes by length" in (run.path / "report.html").read_text()

    warn = load_recipe(tmp_path / "recipe.yaml", ["audit=warn"])
    run = align(warn, tmp_path)
    assert run.status()["state"] == "done" and run.done("council")
    data = json.loads((run.path / "audits" / "policy.json").read_text())
    shifts = {shift.feature: shift for shift in shifts_of(data)}
    assert data["rows"] == 24 and shifts["length"].rewarded is not None and shifts["length"].rewarded > 0
    rows = {(r["arm"], r["id"]): r["text"] for r in run.samples() if r["stage"] == "evaluate"}
    before = [text for (arm, _), text in rows.items() if arm == "sft"]
    assert len(before) == 24 and shifts["digits"].before >= 0
    assert "The policy beside the SFT model" in (run.path / "report.html").read_text()


def test_without_an_audit_the_policy_is_compared_all_the_same(tiny_model: Path, tmp_path: Path) -> None:
    run = align(recipe_of(tmp_path, tiny_model, "off"), tmp_path)
    assert "audit" not in run.status()["stages"] and [p.name for p in (run.path / "audits").iterdir()] == [
        "policy.json"
    ]
    shifts = shifts_of(json.loads((run.path / "audits" / "policy.json").read_text()))
    assert {shift.rewarded for shift in shifts} == {None}


def test_the_verb_on_the_reward_model_of_a_run(
    warned: tuple[RunDir, list[dict]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Through the engine, on a copy of the run; a second time every reward comes from the cache."""
    monkeypatch.setenv("JUNTO_CACHE", str(tmp_path / "cache"))
    run = RunDir(tmp_path / "tiny")
    shutil.copytree(warned[0].path, run.path)
    rows = [{"prompt": f"question {i}", "chosen": f"4 + {i} = 7", "rejected": "LEAVE: <b>no</b>"} for i in range(24)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["explain", "audit", str(run.path), str(tmp_path / "pairs.jsonl"), "--probes", "20", "--json"]) == 0
    found = from_json(json.loads(capsys.readouterr().out))
    assert (found.rows, found.probed) == (24, 20) and found.sd > 0
    assert any(p.name.startswith("pairs-") for p in (run.path / "audits").iterdir())
    files = list((tmp_path / "cache" / "rewards").iterdir())
    before = [f.stat().st_size for f in files]
    assert main(["explain", "audit", str(run.path), str(tmp_path / "pairs.jsonl"), "--probes", "20", "--json"]) == 0
    assert [f.stat().st_size for f in files] == before  # nothing was scored again


@pytest.mark.parametrize(
    ("written", "choice"),
    [
        ("audit: off", "off"),
        ("audit: stop", "stop"),
        ("audit: {on_alarm: off}", "off"),
        ("audit: {pairs: 3}", "off"),
        ("", "off"),
    ],
)
def test_how_the_recipe_says_it(tmp_path: Path, written: str, choice: str) -> None:
    (tmp_path / "r.yaml").write_text(f"name: a\n{written}\n")
    assert load_recipe(tmp_path / "r.yaml").audit.on_alarm == choice
    assert load_recipe(tmp_path / "r.yaml", ["audit=warn"]).audit == AuditConfig(on_alarm="warn")


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("audit: loud", r"r.yaml:2: \"audit.on_alarm\" is 'loud'; expected 'off', 'warn' or 'stop'"),
        ("audit: {pairs: 0}", "audit.pairs.* at least 1"),
        ("audit: {pair: 9}", 'did you mean "audit.pairs"'),
    ],
)
def test_a_wrong_section_is_one_sentence(tmp_path: Path, written: str, says: str) -> None:
    (tmp_path / "r.yaml").write_text(f"name: a\n{written}\n")
    with pytest.raises(UsageError, match=says):
        load_recipe(tmp_path / "r.yaml")


def test_a_task_without_pairs_is_not_audited(tiny_model: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"question {i}", "completion": "So."} for i in range(20)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = recipe_of(
        tmp_path,
        tiny_model,
        "stop",
        task="graphs.tasks.jsonl",
        data={"instructions": "rows.jsonl", "prompts": "rows.jsonl", "validation": 0.3},
        reward={"function": "rewards.py:longer"},
        stop_after="ppo",
    )
    run = align(recipe, tmp_path)
    assert run.status()["stages"]["audit"]["notes"] == ["There are no held-out pairs, so the reward was not audited."]
    assert examples_of([]) == []
