"""Gates of the align graph: what they read, when they send back, what stays, and where they end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from alignment.errors import JuntoError, UsageError
from alignment.run_dir import RunDir
from graphs.align import run_align
from graphs.asking import OnAsk, Waiting, answer, request_of
from graphs.cli.main import main
from graphs.gate import GateConfig, bound, missed
from graphs.gate_person import WaitingRun
from graphs.recipe import load_recipe
from graphs.report.page import render

RESULTS = {
    "reward": {"sft": {"value": 1.0}, "policy": {"value": 0.9}, "difference": {"value": -0.1}},
    "solved": None,
    "kl": {"value": 2.0},
    "ability": {"plain-text": {"sft": {"value": 50.0}, "policy": {"value": 56.0}}},
}


@pytest.mark.parametrize(
    ("name", "text", "is_met"),
    [
        ("validation.reward", ">= sft", False),
        ("validation.reward", ">= 0.9 * sft", True),
        ("validation.reward", ">= 0.9", True),
        ("validation.reward", "> 0.9", False),
        ("validation.kl", "<= 1.5e0", False),
        ("validation.plain-text", "<= 1.1*sft", False),
        ("validation.plain-text", "<= 1.12 * sft", True),
    ],
)
def test_what_a_gate_reads(name: str, text: str, is_met: bool) -> None:
    assert bool(missed(GateConfig(require={name: text}), "evaluate", RESULTS)) != is_met
    assert not missed(GateConfig(require={name: text}), "ppo", RESULTS)


def test_a_figure_that_is_not_there_is_named() -> None:
    for name in ("validation.solved", "validation.nothing"):
        with pytest.raises(KeyError, match=name):
            missed(GateConfig(require={name: "> 0"}), "evaluate", RESULTS)


def test_bounds_are_written_as_they_are_read() -> None:
    for text in (">= 0.5", "< -0.001", ">= sft", "<= 1.1 * sft"):
        assert bound(str(bound(text))) == bound(text)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"require": {"validation.reward": "better"}}, "is no bound; write it as"),
        ({"require": {"validation.reward": ">= 1 sft"}}, "is no bound"),
        ({"require": {"test.reward": ">= 1"}}, "is no figure; it begins with"),
        ({"require": {"sft.perplexity": "<= sft"}}, "only the figures of validation"),
        ({"change": {"ppo.iterations": 2}}, "is no setting that can be multiplied"),
        ({"change": {"data.lines": 2}}, "is no setting that can be multiplied"),
        ({"retries": 6}, "less than or equal to 5"),
    ],
)
def test_mistakes_are_one_sentence(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        GateConfig(**settings)


def aligned(
    folder: Path, model: Path, report: Any = lambda event: None, on_ask: OnAsk | None = None, **gate: Any
) -> RunDir:
    content = {
        "name": "tiny",
        "data": {"lines": 24, "pairs": 16, "prompts": 24},
        "backbone": {"model": str(model), "quantization": "none", "compute_dtype": "float32", "lora": {"rank": 4}},
        "sft": {"steps": 4, "batch_size": 4, "warmup_steps": 0},
        "reward": {"steps": 2, "batch_size": 2},
        "ppo": {"iterations": 2, "batch_size": 4, "max_tokens": 6, "learning_rate": 0.001, "kl_coef": 0.1},
        "evaluate": {"n": 4, "max_tokens": 6, "ability": False},
        "council": {"rounds": 1, "max_tokens_per_step": 4},
        "gate": gate,
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content))
    return RunDir(run_align(load_recipe(folder / "recipe.yaml"), folder, folder / "runs", False, report, on_ask))


def test_ppo_is_trained_again_with_other_settings_and_the_run_ends_with_a_reason(
    tmp_path: Path, tiny_model: Path
) -> None:
    gate = {
        "require": {"validation.kl": "< -1000"},
        "retries": 2,
        "change": {"ppo.learning_rate": 0.5, "ppo.kl_coef": 3.0},
    }
    told: list[str] = []
    with pytest.raises(JuntoError, match=r"the gate is shut after 3 attempts: validation.kl is .*requires < -1000"):
        aligned(tmp_path, tiny_model, lambda event: told.append(event.get("message", "")), **gate)
    run = RunDir(tmp_path / "runs" / "tiny")
    status = run.status()
    assert status["attempts"] == {"ppo": 2}
    assert status["changed"]["ppo"] == pytest.approx({"ppo.learning_rate": 0.00025, "ppo.kl_coef": 0.9})
    assert any("attempt 2, with ppo.kl_coef 0.3, ppo.learning_rate 0.0005, since validation.kl" in one for one in told)
    # SFT and reward model were trained once
    assert [row["step"] for row in run.metrics() if row["stage"] == "sft"] == [1, 2, 3, 4]
    kl = [json.loads((run.path / "attempts" / f"ppo-{i}" / "metrics.jsonl").read_text().split("\n")[0]) for i in (1, 2)]
    assert kl[0]["objective/kl"] == kl[1]["objective/kl"]  # the same first rollouts, other updates
    assert status["state"] == "failed"
    # relaxed, the same command goes on with the last policy
    finished = aligned(tmp_path, tiny_model, **gate | {"require": {"validation.kl": "> -1000"}})
    assert finished.status()["state"] == "done"
    page = render(finished.path)
    assert "attempt 3, with ppo.kl_coef 0.9, ppo.learning_rate 0.00025" in page


def test_a_change_that_the_recipe_refuses_ends_the_run_before_anything_is_undone(
    tmp_path: Path, tiny_model: Path
) -> None:
    gate = {"require": {"validation.kl": "< -1000"}, "retries": 2, "change": {"ppo.gamma": 1.5}}
    with pytest.raises(UsageError, match=r"ppo.gamma would be 1.5 in the next attempt, .*less than or equal to 1"):
        aligned(tmp_path, tiny_model, **gate)
    run = RunDir(tmp_path / "runs" / "tiny")
    assert run.done("ppo") and "attempts" not in run.status()
    assert aligned(tmp_path, tiny_model, require={"validation.kl": "> -1000"}).status()["state"] == "done"


def test_a_gate_that_is_shut_after_the_end_undoes_all_that_came_of_it(tmp_path: Path, tiny_model: Path) -> None:
    run = aligned(tmp_path, tiny_model)
    ended = {name: run.path / "adapters" / name / "adapter.json" for name in ("sft", "reward", "policy")}
    before = {name: json.loads(path.read_text())["sha256"] for name, path in ended.items()}
    perplexity = run.results("sft")["perplexity"]
    shut = {"require": {"sft.perplexity": f"< {perplexity}"}, "retries": 1, "change": {"sft.learning_rate": 2.0}}
    aligned(tmp_path, tiny_model, **shut)
    after = {name: json.loads(path.read_text())["sha256"] for name, path in ended.items()}
    assert run.status()["state"] == "done"
    # the reward model begins with the base model, so it is the same again
    assert [before[name] == after[name] for name in ("sft", "reward", "policy")] == [False, True, False]
    answered = [row for row in run.samples() if row["stage"] == "evaluate"]
    assert len(answered) == 2 * run.results("evaluate")["n"]
    assert [row["step"] for row in run.metrics() if row["stage"] == "ppo"] == [1, 2]


def test_a_gate_that_is_met_changes_nothing(tmp_path: Path, tiny_model: Path) -> None:
    require = {"validation.kl": "> -1000", "sft.perplexity": "> 0", "reward.pair_accuracy": ">= 0"}
    run = aligned(tmp_path, tiny_model, require=require, retries=1, change={"ppo.learning_rate": 0.5})
    assert "attempts" not in run.status() and not (run.path / "attempts").exists()


def test_sft_is_sent_back_before_the_reward_model_begins_and_a_kill_loses_nothing(
    tmp_path: Path, tiny_model: Path
) -> None:
    gate = {"require": {"sft.perplexity": "< 1"}, "retries": 1, "change": {"sft.learning_rate": 2.0}}

    def kill(event: dict[str, Any]) -> None:
        if "attempt 2" in event.get("message", ""):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        aligned(tmp_path, tiny_model, kill, **gate)
    run = RunDir(tmp_path / "runs" / "tiny")
    assert run.status()["attempts"] == {"sft": 1} and not run.done("sft")
    with pytest.raises(JuntoError, match="the gate is shut after 2 attempts: sft.perplexity"):
        aligned(tmp_path, tiny_model, **gate)
    assert "reward" not in run.status()["stages"]
    first = [json.loads(line) for line in (run.path / "attempts/sft-1/metrics.jsonl").read_text().splitlines()]
    second = [row for row in run.metrics() if row["stage"] == "sft"]
    assert second[0]["loss"] == pytest.approx(first[0]["loss"])
    assert second[-1]["loss"] != pytest.approx(first[-1]["loss"], abs=1e-9)


def test_a_figure_that_the_run_does_not_measure_ends_it_with_a_sentence(tmp_path: Path, tiny_model: Path) -> None:
    with pytest.raises(UsageError, match="gate.require: reward.accuracy is not measured in this run; there are .*auc"):
        aligned(tmp_path, tiny_model, require={"reward.accuracy": "> 0"})


def test_a_person_decides_before_a_stage_at_once_or_later(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gate: dict[str, Any] = {"ask_before": ["reward", "ppo"]}
    with pytest.raises(WaitingRun, match="'tiny' waits for a decision before reward; junto runs decide tiny approve"):
        aligned(tmp_path, tiny_model, **gate)
    run = RunDir(tmp_path / "runs" / "tiny")
    assert run.state() == "waiting" and "reward" not in run.status()["stages"]
    decide = ["runs", "decide", "tiny", "--runs-root", str(tmp_path / "runs")]
    assert main([*decide, "maybe"]) == 2 and "'maybe' is no decision" in capsys.readouterr().err
    assert main([*decide, "approve"]) == 0
    with pytest.raises(WaitingRun, match="before ppo"):  # what was approved is not asked again
        aligned(tmp_path, tiny_model, **gate)
    assert run.done("reward")
    assert main([*decide, "reject", "--message", "it rewards length"]) == 0
    aligned(tmp_path, tiny_model, **gate)
    assert run.state() == "done" and run.status()["message"] == "a person ended it before ppo: it rewards length"
    assert not run.done("ppo") and (run.path / "report.html").is_file()
    assert main([*decide, "approve"]) == 2 and "waits for no decision; it is done" in capsys.readouterr().err
    asked: list[Any] = []

    def on_ask(waiting: Waiting) -> dict[str, Any]:
        asked.extend(waiting.asked.values())
        return {name: answer("approve") for name in waiting.asked}

    aligned(tmp_path, tiny_model, on_ask=on_ask, **gate)  # whoever starts it again is asked again
    assert [request_of(one)["args"]["stage"] for one in asked] == ["ppo"]
    figures = request_of(asked[0])["args"]["figures"]
    assert figures["pair_accuracy"] == run.results("reward")["pair_accuracy"]["value"]
    assert run.done("evaluate") and run.state() == "done"
