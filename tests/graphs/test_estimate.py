"""``junto estimate``: what it says of a recipe, and what to change where a recipe does not fit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from alignment.machine import free_memory
from graphs.cli.estimate import size
from graphs.cli.main import main
from graphs.estimate import _advice, memory_of, read_lengths
from graphs.recipe import Recipe, load_recipe


def recipe_file(folder: Path, model: Path, **sections: Any) -> Path:
    content = {
        "name": "tiny",
        "data": {"lines": 24, "pairs": 16, "prompts": 16},
        "backbone": {"model": str(model), "quantization": "none", "compute_dtype": "float32"},
        "sft": {"steps": 4, "batch_size": 8},
        "reward": {"steps": 3, "batch_size": 8},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content | sections))
    return path


def peak(recipe: Recipe, folder: Path) -> int:
    return max(m.total for m in memory_of(recipe, read_lengths(recipe, folder), "cpu").values())


def test_the_command(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(recipe_file(tmp_path, tiny_model))
    assert main(["estimate", path, "--set", "stop_after=sft", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [stage["stage"] for stage in found["stages"]] == ["sft"] and found["not_estimated"] == []
    assert found["fits"] and found["advice"] is None and found["storage"] == "float32"
    assert found["peak_bytes"] == found["stages"][0]["memory"]["total"] < found["free_bytes"]
    assert found["stages"][0]["seconds"] > 0 and "timed on this machine" in found["time_basis"]
    assert main(["estimate", path, "--set", "sft.method=full", "--set", "backbone.quantization=nf4"]) == 2
    assert "set backbone.quantization: none" in capsys.readouterr().err
    assert main(["estimate", path]) == 0
    text = capsys.readouterr().out
    assert text.startswith("tiny: fits: ") and "not estimated yet: evaluate, council" in text
    first = [line.split()[0] for line in text.splitlines() if line.strip()]  # lines are as long as the folder's name
    assert [word for word in first if word in ("sft", "reward", "ppo")] == ["sft", "reward", "ppo"]


def test_stages_that_train_nothing_are_not_foretold(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "rewards.py").write_text("def length(prompt, response):\n    return len(response)\n")
    trained = load_recipe(recipe_file(tmp_path, tiny_model))
    written = load_recipe(recipe_file(tmp_path, tiny_model, reward={"function": "rewards.py:length"}))
    for recipe, stages in ((trained, {"sft", "reward", "ppo"}), (written, {"sft", "ppo"})):
        assert memory_of(recipe, read_lengths(recipe, tmp_path), "cpu").keys() == stages


def test_a_missing_model_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", str(recipe_file(tmp_path, tmp_path / "nowhere"))]) == 3
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_no_weights_are_read(tiny_model: Path, tmp_path: Path) -> None:
    """The memory of a model whose weight files are gone."""
    lean = tmp_path / "lean"
    lean.mkdir()
    for file in tiny_model.iterdir():
        if file.suffix != ".safetensors":
            (lean / file.name).write_bytes(file.read_bytes())
    with_weights, without = (load_recipe(recipe_file(tmp_path, model)) for model in (tiny_model, lean))
    assert peak(without, tmp_path) == peak(with_weights, tmp_path)


def test_advice_is_the_first_change_that_suffices(tiny_model: Path, tmp_path: Path) -> None:
    recipe = load_recipe(recipe_file(tmp_path, tiny_model, stop_after="sft"))
    lengths = read_lengths(recipe, tmp_path)

    def with_changes(**changes: Any) -> int:
        return peak(recipe.model_copy(update={"sft": recipe.sft.model_copy(update=changes)}), tmp_path)

    one_row = with_changes(gradient_accumulation=8)
    both = with_changes(gradient_accumulation=8, gradient_checkpointing=True)
    assert both < one_row < with_changes() and with_changes(gradient_checkpointing=True) > both
    assert _advice(recipe, lengths, "cpu", one_row) == "set sft.gradient_accumulation: 8"
    assert _advice(recipe, lengths, "cpu", both) == (
        "set sft.gradient_accumulation: 8, sft.gradient_checkpointing: true"
    )
    assert "does not fit even with" in _advice(recipe, lengths, "cpu", 1000)


def test_free_memory_is_less_than_all_of_it() -> None:
    lines = Path("/proc/meminfo").read_text().splitlines() if Path("/proc/meminfo").exists() else []
    total = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemTotal:")), 2**50)
    assert 0 < free_memory() <= total


def test_sizes() -> None:
    assert [size(n) for n in (0, 450_000, 19_520_000, 3_456_000_000)] == ["0", "0.45 MB", "19.5 MB", "3.46 GB"]


def test_help_stays_light() -> None:
    code = "import sys; from graphs.cli.main import main; main(['--help']); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "estimate" in done.stdout and "export" in done.stdout
