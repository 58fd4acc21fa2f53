"""A recipe's own Python function as the reward: how it is named, what it may return, and the whole road with it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from alignment.config import RewardConfig
from alignment.errors import UsageError
from alignment.run_dir import RunDir, read_rows
from alignment.scoring import function_scorer
from graphs.align import run_align
from graphs.cli.explain import How, explain_pair, explain_text
from graphs.evaluation.run import Asked, run_evaluations
from graphs.modules import load_function
from graphs.recipe import Recipe, load_recipe
from graphs.rewards import function_results
from graphs.sitting import run_council

PROMPT = [{"role": "user", "content": "4 7 8 8"}]
SOURCE = """
def length(prompt, response):
    return -len(response) / 10

def broken(prompt, response):
    return 1 / 0

def undefined(prompt, response):
    return float("nan")

NUMBER = 3
"""


TINY_PPO = {"iterations": 2, "batch_size": 4, "max_tokens": 6, "missing_eos_penalty": 0.0}


def recipe_of(folder: Path, model: Path, function: str | None, **overrides) -> Recipe:
    (folder / "my_rewards.py").write_text(SOURCE)
    content = {
        "name": "tiny",
        "data": {"lines": 24, "pairs": 16, "prompts": 24},
        "backbone": {"model": str(model), "quantization": "none", "compute_dtype": "float32", "lora": {"rank": 4}},
        "sft": {"steps": 2, "batch_size": 4},
        "reward": {"function": function},
        "ppo": TINY_PPO,
        "evaluate": {"n": 4, "max_tokens": 6, "ability": False},
        "council": {"rounds": 1, "max_tokens_per_step": 80},
    } | overrides
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content))
    return load_recipe(folder / "recipe.yaml")


def align(recipe: Recipe, root: Path) -> RunDir:
    return RunDir(run_align(recipe, root, root / "runs", False, lambda event: None))


def test_the_whole_road_with_a_function(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = recipe_of(tmp_path, tiny_model, "my_rewards.py:length")
    run = align(recipe, tmp_path)
    stage = run.status()["stages"]["reward"]
    assert stage["state"] == "done" and stage["notes"] == [
        f"{tmp_path}/my_rewards.py:length is the reward; nothing is trained"
    ]
    assert 0 <= stage["results"]["pair_accuracy"]["value"] <= 1 and stage["results"]["brier"]["n"] == 2
    assert not [row for row in run.metrics() if row["stage"] == "reward"]
    assert {p.name for p in (run.path / "adapters").iterdir()} == {"sft", "policy", "value"}
    for row in run.samples():  # of PPO and of the evaluation
        assert row["reward"] == -len(row["text"]) / 10
    # the critic begins with a head that says 0: the first values explain nothing
    first = next(row for row in run.metrics() if row["stage"] == "ppo")
    assert first["val/explained_variance"] == pytest.approx(0, abs=1e-6)
    [tree] = [json.loads(p.read_text()) for p in run.path.glob("trees/*.json")][:1]
    scored = [t for t in tree["thoughts"] if t["parent"] is None and t["status"] in ("active", "final")]
    assert scored and all(t["score"] == -len(t["text"]) / 10 for t in scored)
    assert "my_rewards.py:length" in (run.path / "report.html").read_text()

    monkeypatch.chdir("/")  # the run knows the function by its whole path
    [done] = run_evaluations([str(run.path)], [f"{run.path}:policy"], Asked(tmp_path / "runs"), lambda event: None)
    scores = {row["id"]: row["reward"] for row in read_rows(done.path / "scores.jsonl")}
    assert scores and all(scores[row["id"]] == -len(row["text"]) / 10 for row in done.samples())
    sat = run_council(run.path, "4 7 8 8", [], lambda event: None, None)
    assert all(t["score"] == -len(t["text"]) / 10 for t in sat["thoughts"] if t["status"] in ("active", "final"))

    monkeypatch.setenv("JUNTO_CACHE", str(tmp_path / "cache"))
    pair = explain_pair(run, "4 7 8 8", "8 - 7 = 1\n4 - 1 = 3", "4 + 8 = 12", "auto", "float32")
    assert pair["margin"] == pytest.approx(-0.9) and pair["preferred"] == "rejected"  # 19 characters against 10

    how = How(method="shapley", perturbation="infill", png=tmp_path / "why.png")
    text = explain_text(run, "4 7 8 8", "8 - 7 = 1\n4 - 1 = 3", "auto", "float32", how)
    assert text["perturbation"] == "infill" and text["lime"]["reward"] == pytest.approx(-1.9)
    assert (tmp_path / "why.png").read_bytes().startswith(b"\x89PNG")
    of_prompt = explain_text(run, "4 7 8 8", "4 + 8 = 12", "auto", "float32", How(on="prompt", method="lime"))
    assert of_prompt["response"] == "4 + 8 = 12" and of_prompt["lime"]["r2"] is None  # a length of the answer alone

    (tmp_path / "my_rewards.py").write_text(SOURCE.replace("/ 10", "/ 20"))
    with pytest.raises(UsageError, match="my_rewards.py:length has changed since this run began; put it back"):
        align(recipe, tmp_path)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("broken", r"broken, given the response '.*', raised ZeroDivisionError: division by zero \(line 6 of .*my_rew"),
        ("undefined", r"undefined, given the response '.*', returned nan; it must return a finite number"),
    ],
)
def test_a_function_that_fails_costs_one_sentence(tiny_model: Path, tmp_path: Path, name: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        align(recipe_of(tmp_path, tiny_model, f"my_rewards.py:{name}"), tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("my_rewards.py", "write it as my_rewards.py:name or package.module:name"),
        ("my_rewards.py:", "write it as"),
        ("other.py:length", "there is no file .*other.py; the path is relative to the recipe's folder"),
        ("my_rewards.py:longth", "has no function 'longth'; it has broken, length, undefined"),
        ("my_rewards.py:NUMBER", "has no function 'NUMBER'"),
        ("no.such.module:length", "the module 'no.such.module' cannot be imported"),
    ],
)
def test_a_function_that_is_not_there_is_found_when_the_recipe_is_read(
    tiny_model: Path, tmp_path: Path, given: str, says: str
) -> None:
    with pytest.raises(UsageError, match=rf"recipe.yaml:\d+: reward function .*{says}") as caught:
        recipe_of(tmp_path, tiny_model, given)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_run(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("x = 1\ny = = 2\n")
    with pytest.raises(UsageError, match=r"bad.py:2: invalid syntax"):
        load_function("bad.py:f", tmp_path)
    (tmp_path / "worse.py").write_text("undefined_name\n")
    with pytest.raises(UsageError, match="raised NameError while it was read, name 'undefined_name'"):
        load_function("worse.py:f", tmp_path)


def test_a_function_of_a_package() -> None:
    found = load_function("graphs.tasks.game24:check")
    assert found.name == "graphs.tasks.game24:check"
    assert load_function("math:hypot").sha256  # whether it has a file or is built in


@pytest.mark.parametrize("value", [1, 0.5, True, np.float32(0.5), np.float64(2), np.int64(3)])
def test_what_counts_as_a_number(value: object) -> None:
    scores = function_scorer(lambda prompt, response: value, "f")([PROMPT], ["a"])  # type: ignore[arg-type,return-value]
    assert scores == [float(value)] and type(scores[0]) is float  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [None, "1", math.inf, -math.inf, [1.0], 1j, torch.tensor(1.0)])
def test_what_does_not(value: object) -> None:
    with pytest.raises(UsageError, match="must return a finite number"):
        function_scorer(lambda prompt, response: value, "f")([PROMPT], ["a"])  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize("many", [True, False])
def test_a_function_is_held_against_scores(tmp_path: Path, many: bool) -> None:
    (tmp_path / "my_rewards.py").write_text(SOURCE)
    texts, scores = ["a", "bbb", "cc"], [-1.0, -3.0, -2.0]
    rows = [{"prompt": PROMPT, "response": text, "score": score} for text, score in zip(texts, scores, strict=True)]
    if many:
        rows = [{"prompt": PROMPT, "responses": texts, "scores": scores}]
    config = RewardConfig(loss="regression", function=f"{tmp_path}/my_rewards.py:length")
    chat = SimpleNamespace(text_ids=lambda text: list(text))
    found = function_results(config, rows, chat)
    assert found["pearson"]["value"] == pytest.approx(1) and found["pearson"]["n"] == 3


def test_pairs_are_not_needed(tiny_model: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"question {i}", "completion": "So."} for i in range(20)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"instructions": "rows.jsonl", "prompts": "rows.jsonl", "validation": 0.5}
    settings = {"task": "graphs.tasks.jsonl", "data": data}
    run = align(recipe_of(tmp_path, tiny_model, "my_rewards.py:length", **settings), tmp_path)
    assert set(run.results("reward")) == {"function", "function_sha256"}
    with pytest.raises(UsageError, match="no rows to learn from; give data.pairs, or a reward.function"):
        align(recipe_of(tmp_path, tiny_model, None, name="trained", **settings), tmp_path)
    assert not (tmp_path / "runs" / "trained").exists()


def test_a_gold_score_is_recorded_and_changes_nothing_else(tiny_model: Path, tmp_path: Path) -> None:
    runs = []
    for gold in (None, "gold.py:vowels"):
        folder = tmp_path / str(gold)
        folder.mkdir()
        (folder / "gold.py").write_text(
            "def vowels(prompt, response):\n    return sum(c in 'aeiou' for c in response)\n"
        )
        settings = {"ppo": TINY_PPO | {"gold": gold}, "stop_after": "ppo"}
        runs.append(align(recipe_of(folder, tiny_model, "my_rewards.py:length", **settings), folder))
    plain, measured = runs

    def adapters(run: RunDir) -> dict[str, str]:
        return {role: run.results("ppo")[f"{role}_sha256"] for role in ("policy", "value")}

    assert adapters(plain) == adapters(measured)
    rows = [row for row in measured.metrics() if row["stage"] == "ppo"]
    for row in rows:
        texts = [s for s in measured.samples() if s["stage"] == "ppo" and s["step"] == row["step"]]
        assert len(texts) == TINY_PPO["batch_size"]  # every rollout of so small a batch is kept as a sample
        assert [s["gold"] for s in texts] == [sum(c in "aeiou" for c in s["text"]) for s in texts]
        assert row["objective/gold"] == pytest.approx(sum(s["gold"] for s in texts) / len(texts))
    assert any(row["objective/gold"] for row in rows)
    assert measured.results("ppo")["objective/gold"] == rows[-1]["objective/gold"]
    assert "Gold score" in (measured.path / "report.html").read_text()
    assert not any("gold" in row or "objective/gold" in row for row in plain.metrics() + plain.samples())
    assert "Gold score" not in (plain.path / "report.html").read_text()


def test_a_gold_function_that_fails_is_mended_and_one_that_changes_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "gold.py").write_text("def gold(prompt, response):\n    return None\n")
    settings = {"ppo": TINY_PPO | {"gold": "gold.py:gold"}, "stop_after": "ppo"}
    recipe = recipe_of(tmp_path, tiny_model, "my_rewards.py:length", **settings)
    with pytest.raises(
        UsageError, match=r"the gold function .*gold.py:gold, .* returned None; it must return a finite"
    ):
        align(recipe, tmp_path)
    (tmp_path / "gold.py").write_text("def gold(prompt, response):\n    return 1\n")
    run = align(recipe, tmp_path)
    assert [row["objective/gold"] for row in run.metrics() if row["stage"] == "ppo"] == [1, 1]
    (tmp_path / "gold.py").write_text("def gold(prompt, response):\n    return 2\n")
    with pytest.raises(UsageError, match="gold.py:gold has changed since this run began; put it back"):
        align(recipe, tmp_path)


def test_a_gold_function_that_is_not_there_is_found_when_the_recipe_is_read(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"recipe.yaml:\d+: gold function 'my_rewards.py:longth': .* has no function"):
        recipe_of(tmp_path, tiny_model, "my_rewards.py:length", ppo=TINY_PPO | {"gold": "my_rewards.py:longth"})
