"""The whole road on a tiny model: the stages, what they leave, and going on after a kill at any event."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from alignment.errors import JuntoError, SetupError, UsageError
from alignment.run_dir import TIME_COLUMNS, RunDir
from graphs.align import run_align
from graphs.recipe import Recipe, load_recipe
from graphs.tasks import game24

STAGES = ("data", "sft", "reward", "ppo", "evaluate", "council")


def recipe_of(folder: Path, model: Path, **overrides: Any) -> Recipe:
    content = {
        "name": "tiny",
        "data": {"lines": 24, "pairs": 16, "prompts": 24, "held_out": ["4 7 8 8"]},
        "backbone": {"model": str(model), "quantization": "none", "compute_dtype": "float32", "lora": {"rank": 4}},
        "sft": {"steps": 5, "batch_size": 4, "checkpoint_every": 2},
        "reward": {"steps": 5, "batch_size": 2, "checkpoint_every": 2},
        "ppo": {"iterations": 3, "batch_size": 4, "max_tokens": 6},
        "evaluate": {"n": 20, "max_tokens": 6, "ability": False},
        "council": {"rounds": 2, "max_tokens_per_step": 6},
    } | overrides
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return load_recipe(path)


def align(
    recipe: Recipe, root: Path, report: Callable[[dict], None] = lambda event: None, fresh: bool = False
) -> RunDir:
    return RunDir(run_align(recipe, root, root / "runs", fresh, report))


def outcome(run: RunDir) -> dict[str, Any]:
    """Everything that must not depend on whether the run was interrupted."""
    adapters = {p.parent.name: json.loads(p.read_text())["sha256"] for p in run.path.glob("adapters/*/adapter.json")}
    metrics = [{k: v for k, v in row.items() if k not in TIME_COLUMNS} for row in run.metrics()]
    results = {name: entry.get("results") for name, entry in run.status()["stages"].items()}
    trees = {p.name: json.loads(p.read_text()) for p in run.path.glob("trees/*.json")}
    for tree in trees.values():
        del tree["seconds"]
        for thought in tree["thoughts"]:  # what the cache spared, and digits that the batch's shape rounds
            del thought["read"], thought["logprob"]
    return {"adapters": adapters, "metrics": metrics, "results": results, "samples": run.samples(), "trees": trees}


@pytest.fixture(scope="module")
def straight(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDir, list[dict]]:
    folder = tmp_path_factory.mktemp("straight")
    events: list[dict] = []
    return align(recipe_of(folder, tiny_model), folder, events.append), events


def test_what_a_run_leaves(straight: tuple[RunDir, list[dict]]) -> None:
    run, events = straight
    status = run.status()
    assert status["state"] == "done"
    assert all(status["stages"][stage]["state"] == "done" for stage in STAGES)
    assert {p.name for p in (run.path / "adapters").iterdir()} == {"sft", "reward", "policy", "value"}
    assert not list((run.path / "checkpoints").glob("*/step-*"))
    assert [r["step"] for r in run.metrics() if r["stage"] == "sft"] == [1, 2, 3, 4, 5]
    assert [r["step"] for r in run.metrics() if r["stage"] == "ppo"] == [1, 2, 3]
    evaluate = run.results("evaluate")
    assert evaluate["n"] == 20 and set(evaluate["reward"]) == {"sft", "policy", "difference"}
    difference = evaluate["reward"]["policy"]["value"] - evaluate["reward"]["sft"]["value"]
    assert evaluate["reward"]["difference"]["value"] == pytest.approx(difference, abs=1e-9)
    assert any("interval" in sentence for sentence in evaluate["words"])
    assert list((run.path / "trees").glob("*.json")) and (run.path / "report.html").stat().st_size > 5000
    assert {"sft", "reward", "ppo", "evaluate"} <= {event["stage"] for event in events}
    assert all("eta_seconds" in e for e in events if e["stage"] in ("sft", "ppo") and e["step"] and not e.get("done"))


def test_again_reuses_what_is_finished(straight: tuple[RunDir, list[dict]], tiny_model: Path) -> None:
    run, _ = straight
    before = outcome(run)
    events: list[dict] = []
    align(recipe_of(run.path.parents[1], tiny_model), run.path.parents[1], events.append)
    assert outcome(run) == before
    assert not [e for e in events if e["stage"] == "load"]  # no model was loaded


class Killed(BaseException):
    """Stands for a kill: nothing in the code under test catches it on purpose."""


# every third event here, the others by `make soak`
@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.soak) for part in (1, 2))])
def test_killed_at_any_event_it_ends_the_same(
    straight: tuple[RunDir, list[dict]], tiny_model: Path, tmp_path: Path, part: int
) -> None:
    run, events = straight
    want = outcome(run)
    for number in range(part, len(events), 3):
        root = tmp_path / str(number)
        root.mkdir()
        recipe = recipe_of(root, tiny_model)
        seen = 0

        def kill(event: dict, number: int = number) -> None:
            nonlocal seen
            seen += 1
            if seen > number:
                raise Killed

        with pytest.raises(Killed):
            align(recipe, root, kill)
        again = align(recipe, root)
        assert outcome(again) == want, f"killed at event {number}: {events[number]['stage']} {events[number]['step']}"
        shutil.rmtree(root)


SHORT = {"reward": {"steps": 1, "batch_size": 2}, "stop_after": "reward"}
METHODS = {
    # the tiny model's embedding is large enough for moments in 8 bits
    "full": SHORT | {"sft": {"steps": 3, "batch_size": 4, "method": "full", "optimizer": "adamw_8bit"}},
    "prefix": {"sft": {"steps": 3, "batch_size": 4, "method": "prefix", "virtual_tokens": 3}, "stop_after": "sft"},
    "prompt": {"sft": {"steps": 3, "batch_size": 4, "method": "prompt"}, "stop_after": "sft"},
    "packed": {
        "sft": {"steps": 3, "batch_size": 4, "packing": True, "gradient_accumulation": 2},
        "stop_after": "sft",
    },
}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_ends_the_same_after_a_kill(tiny_model: Path, tmp_path: Path, method: str) -> None:
    """Killed after the checkpoint of step 2, and full tuning also when its base stands and its stage is not done."""

    def recipe(root: Path) -> Recipe:
        settings = METHODS[method]
        root.mkdir()
        return recipe_of(root, tiny_model, **(settings | {"sft": settings["sft"] | {"checkpoint_every": 2}}))

    events: list[dict] = []
    want = outcome(align(recipe(tmp_path / "straight"), tmp_path / "straight", events.append))
    assert len(want["metrics"]) == 3 + (method == "full")
    points = [i for i, e in enumerate(events) if e["stage"] == "sft" and e["step"] == 3 and not e.get("done")]
    assert len(points) == 1 + (method == "full")
    for number in points:
        root = tmp_path / str(number)
        settings, seen = recipe(root), 0

        def kill(event: dict, number: int = number) -> None:
            nonlocal seen
            seen += 1
            if seen > number:
                raise Killed

        with pytest.raises(Killed):
            align(settings, root, kill)
        assert (root / "runs" / "tiny" / "base").exists() == (number > points[0])
        assert outcome(align(settings, root)) == want, events[number]


def test_a_run_ends_where_it_is_told_and_goes_on_later(
    straight: tuple[RunDir, list[dict]], tiny_model: Path, tmp_path: Path
) -> None:
    for stop, stages in (("sft", STAGES[:2]), ("reward", STAGES[:3]), ("ppo", STAGES[:4])):
        run = align(recipe_of(tmp_path, tiny_model, stop_after=stop), tmp_path)
        status = run.status()
        assert status["state"] == "done" and tuple(status["stages"]) == stages
        page = (run.path / "report.html").read_text()
        titles = ("Supervised fine-tuning", "Reward model", "Proximal policy")
        assert [title in page for title in titles] == [stage in stages for stage in STAGES[1:4]]
    assert outcome(align(recipe_of(tmp_path, tiny_model), tmp_path)) == outcome(straight[0])


def test_a_run_of_an_earlier_version_goes_on(straight: tuple[RunDir, list[dict]], tiny_model: Path) -> None:
    """Keys that its recipe did not have yet count as their defaults."""
    run, _ = straight
    path = run.path / "config.yaml"
    config = yaml.safe_load(path.read_text())
    del config["sft"]["method"], config["stop_after"], config["data"]["results"]
    path.write_text(yaml.safe_dump(config))
    before = outcome(run)
    assert outcome(align(recipe_of(run.path.parents[1], tiny_model), run.path.parents[1])) == before


def test_another_recipe_is_refused(straight: tuple[RunDir, list[dict]], tiny_model: Path) -> None:
    run, _ = straight
    folder = run.path.parents[1]
    other = recipe_of(folder, tiny_model, sft={"steps": 7, "batch_size": 4})
    events: list[dict] = []
    with pytest.raises(UsageError, match=r"another recipe \(changed: sft\..*--fresh"):
        align(other, folder, events.append)
    assert not events  # not even the rows are made for it, which may take minutes


def test_another_base_model_is_refused(
    straight: tuple[RunDir, list[dict]], other_tiny_model: Path, tmp_path: Path
) -> None:
    """The folder that the recipe names now holds other weights."""
    from alignment.engine import Engine

    run, _ = straight
    copy = tmp_path / "run"
    shutil.copytree(run.path, copy)
    config = yaml.safe_load((copy / "config.yaml").read_text())
    config["backbone"]["model"] = str(other_tiny_model)
    (copy / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(SetupError, match="belongs to another base model"):
        Engine.open(copy)


def test_one_process_at_a_time(tiny_model: Path, tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, tiny_model)

    def second(event: dict) -> None:
        if not (tmp_path / "runs" / "tiny").exists():  # rows are made before the run is begun
            return
        with pytest.raises(UsageError, match="another process is working on the run 'tiny'"):
            align(recipe, tmp_path)
        raise Killed

    with pytest.raises(Killed):
        align(recipe, tmp_path, second)


def test_fresh_starts_over(straight: tuple[RunDir, list[dict]], tiny_model: Path, tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, tiny_model)
    run = align(recipe, tmp_path)
    (run.path / "left-over").write_text("x")
    assert outcome(align(recipe, tmp_path, fresh=True)) == outcome(straight[0])
    assert not (run.path / "left-over").exists()


def test_rewards_of_the_sft_models_own_samples_are_standardized_and_a_kill_changes_nothing(
    tiny_model: Path, tmp_path: Path
) -> None:
    """``normalize: reference``: mean 0 and standard deviation 1 on what PPO starts from."""
    from alignment.engine import Engine
    from alignment.rollout import reference_samples
    from graphs.recipe import load_task

    settings = {"steps": 4, "batch_size": 2, "checkpoint_every": 2, "loss": "bradley_terry"}
    settings |= {"normalize": "reference", "reference_samples": 12}
    events: list[dict] = []
    run = align(recipe_of(tmp_path, tiny_model, reward=settings), tmp_path, events.append)
    recipe = load_recipe(run.path / "config.yaml")
    task = load_task(recipe.task)
    prompts = task.load(task.Options(**recipe.data), recipe.seed).prompts["train"]
    with Engine.open(run.path) as engine:
        texts = reference_samples(engine, prompts, recipe.ppo, 12, recipe.seed)
        assert len(set(texts[1])) > 6
        scores = torch.tensor(engine.score(*texts))
    assert scores.mean().item() == pytest.approx(0, abs=1e-4) and scores.std().item() == pytest.approx(1, abs=1e-4)
    assert run.results("reward")["reference_samples"] == 12

    last_step = next(i for i, e in enumerate(events) if e["stage"] == "reward" and e["step"] == 4)
    for number in (last_step - 1, last_step + 1):  # before the last step, and after the stage is closed
        root = tmp_path / str(number)
        root.mkdir()
        left = number

        def kill(event: dict) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed

        recipe = recipe_of(root, tiny_model, reward=settings)
        with pytest.raises(Killed):
            align(recipe, root, kill)
        assert outcome(align(recipe, root)) == outcome(run)


def test_a_stage_that_failed_is_mended_by_its_own_settings(
    straight: tuple[RunDir, list[dict]], tiny_model: Path, tmp_path: Path
) -> None:
    """The SFT stage is kept; the reward stage begins again, and the end is that of a run without the failure."""
    good = {"steps": 5, "batch_size": 2, "checkpoint_every": 2}
    bad = good | {"learning_rate": 1e37, "warmup_steps": 0, "checkpoint_every": 1}
    with pytest.raises(JuntoError, match="reward step .* run the same command again"):
        align(recipe_of(tmp_path, tiny_model, reward=bad), tmp_path)
    run = RunDir(tmp_path / "runs" / "tiny")
    assert run.status()["state"] == "failed" and run.done("sft")
    with pytest.raises(UsageError, match=r"another recipe \(changed: sft"):
        align(recipe_of(tmp_path, tiny_model, sft={"steps": 4}, reward=bad), tmp_path)
    events: list[dict] = []
    assert outcome(align(recipe_of(tmp_path, tiny_model, reward=good), tmp_path, events.append)) == outcome(straight[0])
    assert [e["message"] for e in events if e["stage"] == "sft"] == ["already done"]


def test_a_stage_that_has_not_begun_may_have_other_settings(
    straight: tuple[RunDir, list[dict]], tiny_model: Path, tmp_path: Path
) -> None:
    """Settings of the reward model are changed after the SFT stage; the end is that of a run with the last ones."""
    good = {"steps": 5, "batch_size": 2, "checkpoint_every": 2}
    first = recipe_of(tmp_path, tiny_model, reward=good | {"steps": 3})
    align(first.model_copy(update={"stop_after": "sft"}), tmp_path)
    assert outcome(align(recipe_of(tmp_path, tiny_model, reward=good), tmp_path)) == outcome(straight[0])
    with pytest.raises(UsageError, match=r"another recipe \(changed: reward.steps"):
        align(first, tmp_path)


def test_the_test_split_is_asked_once_and_nothing_is_trained_after_it(
    straight: tuple[RunDir, list[dict]], tiny_model: Path, tmp_path: Path
) -> None:
    before = outcome(straight[0])
    roots = [tmp_path / name for name in ("killed", "unbroken")]
    recipes = []
    for root in roots:  # a run that was at its end before it was asked for
        shutil.copytree(straight[0].path, root / "runs" / "tiny")
        recipes.append(recipe_of(root, tiny_model, test={"n": 20}))

    def kill(event: dict) -> None:
        if event["stage"] == "test" and event["step"] == 2:
            raise Killed

    with pytest.raises(Killed):
        align(recipes[0], roots[0], kill)
    runs = [align(recipe, root) for recipe, root in zip(recipes, roots, strict=True)]
    found = [outcome(run) for run in runs]
    assert found[0] == found[1]
    asked = [row for row in runs[0].samples() if row["stage"] == "test"]
    assert [row["arm"] for row in asked] == ["sft"] * 20 + ["policy"] * 20
    assert len({row["id"] for row in asked}) == 20 and {row["id"] for row in asked} <= set(game24.test_puzzles())
    test = found[0]["results"].pop("test")
    assert (test["split"], test["n"]) == ("test", 20) and "over 20 test prompts" in test["words"][0]
    assert found[0]["results"] == before["results"] and found[0]["adapters"] == before["adapters"]
    page = (runs[0].path / "report.html").read_text()
    assert "Test results" in page and "Asked once, after every gate." in page and test["words"][0] in page
    events: list[dict] = []
    align(recipes[0], roots[0], events.append)
    assert not [event for event in events if event["stage"] == "load"]
    with pytest.raises(UsageError, match=r"another recipe \(changed: test.n\)"):
        align(recipe_of(roots[0], tiny_model, test={"n": 21}), roots[0])
    shut = {"require": {"validation.kl": "< -1000"}, "retries": 1, "change": {"ppo.learning_rate": 0.5}}
    with pytest.raises(JuntoError, match="The test split has been asked, so nothing is trained after it"):
        align(recipe_of(roots[0], tiny_model, test={"n": 20}, gate=shut), roots[0])
    assert outcome(runs[0])["adapters"] == before["adapters"]


def test_a_test_split_that_the_data_have_not_is_refused_before_anything_is_trained(
    tiny_model: Path, tmp_path: Path
) -> None:
    recipe = recipe_of(
        tmp_path, tiny_model, task="graphs.tasks.countdown", data={"lines": 8, "pairs": 8}, test={"n": 5}
    )
    with pytest.raises(UsageError, match="test.n asks for a test split and the data have none; set data.test"):
        align(recipe, tmp_path)
    assert not (tmp_path / "runs" / "tiny").exists()


def test_what_rewards_were_scaled_on_stays(tiny_model: Path, tmp_path: Path) -> None:
    reward = {"steps": 1, "batch_size": 2, "normalize": "reference", "reference_samples": 4}
    first = recipe_of(tmp_path, tiny_model, reward=reward, stop_after="reward")
    align(first, tmp_path)
    other = first.ppo.model_copy(update={"max_tokens": 7})
    with pytest.raises(UsageError, match=r"another recipe \(changed: ppo.max_tokens\)"):
        align(first.model_copy(update={"ppo": other}), tmp_path)
    align(first.model_copy(update={"ppo": first.ppo.model_copy(update={"learning_rate": 1e-3})}), tmp_path)


@pytest.mark.parametrize("choice", ["refuse", "skip", "cut"])
def test_long_rows_of_supervised_tuning(tiny_model: Path, tmp_path: Path, choice: str) -> None:
    rows = [{"prompt": f"question {i}", "completion": "So."} for i in range(20)]
    rows[6] = {"prompt": "question 6", "completion": "4 " * 50_000}
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": row["prompt"]}) + "\n" for row in rows))
    (tmp_path / "r.py").write_text("def length(prompt, response):\n    return len(response)\n")
    data = {"instructions": "rows.jsonl", "prompts": "prompts.jsonl", "validation": 0.4}
    recipe = recipe_of(
        tmp_path,
        tiny_model,
        task="graphs.tasks.jsonl",
        data=data,
        sft={"steps": 2, "batch_size": 2, "max_length": 64, "long_rows": choice},
        reward={"function": "r.py:length"},
    )
    said = r"1 of \d+ (training|held-out) rows have more than sft.max_length \(64\) tokens"
    if choice == "refuse":
        with pytest.raises(UsageError, match=rf"{said} \(rows.jsonl, line 7: 100,0\d\d tokens\); shorten them, raise"):
            align(recipe, tmp_path)
        return
    run = align(recipe, tmp_path)
    [note] = run.status()["stages"]["sft"]["notes"]
    words = {"skip": "left out", "cut": "cut"}[choice]
    assert re.fullmatch(rf"{said} and were {words} \(rows.jsonl, line 7: 100,0\d\d tokens\)", note)
    assert "rows.jsonl, line 7" in (run.path / "report.html").read_text()
