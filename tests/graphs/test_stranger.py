"""What somebody adds without touching the project: a task, a scorer and a graph in a folder of their own, by path."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from graphs.cli.main import main

STRANGER = Path(__file__).with_name("stranger")


@pytest.fixture(scope="module")
def folder(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Outside the repository: the three files, a recipe, and the run that it made."""
    root = tmp_path_factory.mktemp("stranger")
    for file in STRANGER.glob("*.py"):
        shutil.copy(file, root)
    recipe = {
        "name": "parity",
        "task": "parity.py",
        "backbone": {"model": str(tiny_model), "quantization": "none", "compute_dtype": "float32", "lora": {"rank": 4}},
        "sft": {"steps": 2, "batch_size": 4},
        "reward": {"steps": 2, "batch_size": 4},
        "ppo": {"iterations": 1, "batch_size": 4, "max_tokens": 8},
        "evaluate": {"n": 4, "max_tokens": 8, "ability": False},
        "council": {"rounds": 2, "max_tokens_per_step": 48, "scorer": "scorers.py:small", "leave_scorer": "critic"},
    }
    (root / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["run", "align", str(root / "recipe.yaml"), "--runs-root", str(root / "runs")]) == 0
    return root


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main([*arguments, "--question", "3 and 4 and 5", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_task_and_a_scorer(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.chdir(folder)
    result = told(capsys, "run", "council", "--run", "parity")
    assert result["question"] == "3 4 5" and result["solved"] in (True, False)
    scored = [t for t in result["thoughts"] if t["score"] is not None]
    assert scored
    for thought in scored:
        line, at = [], thought
        while at:
            line.append(at["text"])
            at = next((t for t in result["thoughts"] if t["id"] == at["parent"]), None)
        assert thought["score"] == -sum(int(w) for step in line for w in step.split() if w.isdecimal())


def test_a_graph(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.chdir(folder)
    result = told(capsys, "run", "twice.py", "--run", "parity")
    assert result["question"] == "3 4 5" and len(result["drafts"]) == 2 and result["answer"] in result["drafts"]
    assert told(capsys, "run", "twice.py:graph", "--run", "parity", "--thread", "t")["drafts"] == result["drafts"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "nowhere.py"], "there is no file"),
        (["run", "twice.py:choose"], "'choose' must be a StateGraph that is not compiled; it is a function"),
        (["run", "twice.py:nothing"], "there is none"),
        (["run", "council", "--set", "council.scorer=scorers.py:smal"], "no function 'smal'; it has small"),
        (["run", "council", "--set", "council.scorer=checker"], "needs a function refute"),
    ],
)
def test_mistakes_are_one_sentence(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(folder)
    capsys.readouterr()
    assert main([*arguments, "--run", "parity", "--question", "1 2 3"]) in (2, 3)
    error = capsys.readouterr().err.strip().splitlines()
    assert error[-1].startswith("error: ") and said in error[-1], error
