"""``junto calibrate`` on a tiny run: it is measured once, goes on where it was cut off, and its verdict is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from alignment.engine import Engine
from alignment.errors import UsageError
from alignment.run_dir import RunDir
from graphs.align import run_align
from graphs.calibrate import run_calibrate
from graphs.recipe import load_recipe, load_task
from graphs.sitting import calibration_of, seat

COUNT, LINES = 20, 4


@pytest.fixture(scope="module")
def run(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibrate")
    content = {
        "name": "tiny",
        "stop_after": "reward",
        "data": {"lines": 24, "pairs": 16, "prompts": 40},
        "backbone": {"model": str(tiny_model), "quantization": "none", "compute_dtype": "float32", "lora": {"rank": 4}},
        "sft": {"steps": 2, "batch_size": 4},
        "reward": {"steps": 2, "batch_size": 2},
        "council": {
            "rounds": 3,
            "max_tokens_per_step": 12,
            "experts": [{"name": name, "role": "sft"} for name in ("Ada", "Blaise", "Carl")],
        },
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content))
    return run_align(load_recipe(folder / "recipe.yaml"), folder, folder / "runs", False, lambda event: None)


def test_it_measures_once_and_goes_on_after_a_kill(run: Path) -> None:
    steps: list[int] = []
    found = run_calibrate(run, [], COUNT, LINES, lambda event: steps.append(event["step"]))
    kept = (run / "calibration.jsonl").read_bytes()
    rows = [json.loads(line) for line in kept.splitlines()]
    assert len(rows) == COUNT * LINES and steps == list(range(4, COUNT + 1, 4))
    assert found["steps"] > 0 and found["reason"] and json.loads((run / "calibration.json").read_text()) == found
    assert all(len(row["values"]) == len(row["steps"]) == len(row["tokens"]) for row in rows)

    steps.clear()
    assert run_calibrate(run, [], COUNT, LINES, lambda event: steps.append(event["step"])) == found
    assert steps == []

    # cut off in the third question's lines, in the middle of a row
    (run / "calibration.jsonl").write_bytes(b"".join(kept.splitlines(keepends=True)[: 2 * LINES + 1]) + b'{"quest')
    again = run_calibrate(run, [], COUNT, LINES, lambda event: steps.append(event["step"]))
    assert again == found and steps == [6, 10, 14, 18, 20]
    written = {(r["question"], r["k"]): r["steps"] for r in map(json.loads, (run / "calibration.jsonl").open())}
    assert written == {(row["question"], row["k"]): row["steps"] for row in rows}


def test_the_council_reads_the_verdict(run: Path) -> None:
    recipe = load_recipe(run / "config.yaml")
    task = load_task(recipe.task, run)
    with Engine.open(run) as engine:
        found = run_calibrate(run, [], COUNT, LINES, lambda event: None)
        for threshold in (None, -0.25):
            (run / "calibration.json").write_text(json.dumps(found | {"threshold": threshold}))
            seated = seat(engine, task, recipe, "t", calibration_of(RunDir(run)))
            assert seated.leave_below == threshold and f"is {'off' if threshold is None else 'on'}" in seated.notes[0]
        other = recipe.model_copy(update={"council": recipe.council.model_copy(update={"leave_scorer": "length"})})
        seated = seat(engine, task, other, "t", calibration_of(RunDir(run)))
        assert seated.leave_below is None and "and not by length" in seated.notes[0]


def test_too_few_questions_are_refused_in_a_sentence(run: Path) -> None:
    with pytest.raises(UsageError, match="threshold on one half"):
        run_calibrate(run, [], 3, LINES, lambda event: None)
