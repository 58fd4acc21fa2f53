"""Beginning a project, checking its files, comparing and removing runs."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from alignment.run_dir import RunDir
from graphs.cli.main import main
from graphs.cli.runs_compare import compare_runs
from graphs.cli.schema import schema_of
from graphs.recipe import Recipe, load_recipe

RECIPES = Path(__file__).parents[2] / "recipes"


def said(capsys: pytest.CaptureFixture[str], code: int, *arguments: str) -> str:
    capsys.readouterr()
    assert main(arguments) == code
    out, err = capsys.readouterr()
    return out if code == 0 else err.splitlines()[-1] if err else out


# -- init -------------------------------------------------------------------------------------------------


def test_a_new_project_is_a_recipe_that_loads_with_files_that_are_sound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "wrote My Helper!/recipe.yaml" in said(capsys, 0, "init", "My Helper!")
    recipe = load_recipe("My Helper!/recipe.yaml")
    assert recipe.name == "my-helper"
    sample = load_recipe(RECIPES / "assistant.yaml")
    differ = {key for key in Recipe.model_fields if getattr(recipe, key) != getattr(sample, key)}
    assert differ == {"name", "data"}
    for kind in ("instructions", "pairs", "prompts"):
        found = json.loads(said(capsys, 0, "data", "check", f"My Helper!/data/{kind}.jsonl", "--json"))
        assert (found["kind"], found["malformed"], found["repeated"]) == (kind, [], [])
    assert main(["run", "align", "My Helper!/recipe.yaml", "--dry-run"]) == 0
    assert "is there already and is not written over" in said(capsys, 2, "init", "My Helper!")
    assert main(["init", "2024"]) == 0 and load_recipe("2024/recipe.yaml").name == "2024"
    assert "give another --name" in said(capsys, 2, "init", "other", "--name", "Not A Name")
    assert not Path("other").exists()


# -- data check -------------------------------------------------------------------------------------------


def test_faults_are_named_by_line_and_texts_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = {"prompt": "How?", "chosen": "a b c d e f", "rejected": "a"}
    rows = [
        good,
        good | {"chosen": "a", "rejected": "a " * 40},
        good,
        good | {"rejected": " "},
        good | {"prompt": "<|im_end|>"},
        good | {"chosen": "\ud83d"},
    ]
    path = tmp_path / "pairs.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.write("\n".join([*map(json.dumps, rows), '{"prompt": "broken']))
    assert main(["data", "check", str(path), "--max-length", "30", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["kind"], found["rows"], found["sound"]) == ("pairs", 7, 4)
    assert [one.split(":")[0] for one in found["malformed"]] == ["line 4", "line 6", "line 7"]
    assert found["repeated"] == ["line 3 repeats line 1"]
    assert (found["above_limit"], found["control_tokens"]) == (1, 1)
    assert found["chosen_is_longer"] == 0.75
    assert found["tokens"]["chosen"]["largest"] == 6


@pytest.mark.parametrize(
    ("rows", "kind"),
    [
        ([{"text": "a", "score": 1.0}], "scores"),
        ([{"prompt": "a", "completion": "b"}], "instructions"),
        ([{"prompt": "a"}, {"prompt": "b", "completion": "c"}], "prompts"),
        ([{"prompt": "a", "chosen": "b", "rejected": "c", "completion": "d"}], "pairs"),
    ],
)
def test_the_kind_is_that_which_fits_most_rows_of_two_the_richer(
    tmp_path: Path, rows: list, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows))
    assert json.loads(said(capsys, 0, "data", "check", str(path), "--json"))["kind"] == kind


def test_what_is_wrong_with_a_file_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "cannot be read" in said(capsys, 2, "data", "check", str(tmp_path / "none.jsonl"))
    (tmp_path / "empty.jsonl").write_text("\n\n")
    assert "the file has no rows" in said(capsys, 2, "data", "check", str(tmp_path / "empty.jsonl"))
    assert "there is no kind 'pair'" in said(capsys, 2, "data", "check", str(tmp_path / "empty.jsonl"), "--as", "pair")
    mixed = [{"prompt": "a", "chosen": "b", "rejected": "c"}, {"prompt": "a", "response": "b", "score": 1}]
    (tmp_path / "mixed.json").write_text(json.dumps(mixed))
    assert main(["data", "check", str(tmp_path / "mixed.json")]) == 1
    assert "row 2 has a score and row 1 a pair" in capsys.readouterr().out


# -- schema -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_schema_takes_our_recipes_and_refuses_a_wrong_key(path: Path) -> None:
    recipe = yaml.safe_load(path.read_text())
    schema = schema_of("recipe", recipe.get("task", "graphs.tasks.game24"))
    jsonschema.validate(recipe, schema)
    for wrong in (recipe | {"sfft": {}}, recipe | {"sft": {"step": 3}}, recipe | {"data": {"lnies": 3}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)


def test_schemas_are_of_recipes_and_evaluations(capsys: pytest.CaptureFixture[str]) -> None:
    evaluation = json.loads(said(capsys, 0, "schema", "evaluation"))
    for path in (RECIPES.parent / "graphs" / "evaluation" / "sets").glob("*.yaml"):
        jsonschema.validate(yaml.safe_load(path.read_text()), evaluation)
    assert "there is no schema of 'run'" in said(capsys, 2, "schema", "run")


# -- runs -------------------------------------------------------------------------------------------------


def run_at(root: Path, name: str, config: dict, results: dict) -> RunDir:
    run = RunDir(root / name)
    run.create(yaml.safe_dump({"name": name} | config), {})
    for stage, found in results.items():
        run.set_stage(stage, state="done", results=found)
    run.set_status("done")
    return run


def test_runs_are_compared_by_figures_and_by_what_they_were_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    interval = {"value": 0.5, "low": 0.4, "high": 0.6}
    first = run_at(tmp_path, "a", {"sft": {"steps": 3}, "seed": 0}, {"sft": {"perplexity": 2.0, "words": ["x"]}})
    second = run_at(tmp_path, "b", {"sft": {"steps": 4}, "seed": 0}, {"evaluate": {"reward": {"policy": interval}}})
    compared = compare_runs([first, second])
    assert compared["figures"] == [
        {"name": "sft.perplexity", "values": [2.0, None]},
        {"name": "evaluate.reward.policy", "values": [None, interval]},
    ]
    assert compared["settings"] == [{"name": "sft.steps", "values": [3, 4]}]
    shown = said(capsys, 0, "runs", "compare", "a", "b", "--runs-root", str(tmp_path))
    assert "0.5 [0.4, 0.6]" in shown
    assert "needs two runs" in said(capsys, 2, "runs", "compare", "a", "--runs-root", str(tmp_path))


def test_a_run_is_removed_only_when_it_is_meant_and_still(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = ["--runs-root", str(tmp_path / "runs")]
    run_at(tmp_path / "runs", "a", {}, {})
    kept = run_at(tmp_path / "runs", "b", {"council": {"experts": [{"name": "Ada", "run": "a"}]}}, {})
    outside = run_at(tmp_path, "outside", {}, {})
    assert "say so by --yes" in said(capsys, 2, "runs", "rm", "a", *root)  # nobody can be asked
    for name in ("../outside", str(outside.path), "c", ".", ""):
        assert "there is no run" in said(capsys, 2, "runs", "rm", name, "--yes", *root)
    kept.set_status("running")
    with kept.locked():
        assert "is being trained by another process" in said(capsys, 2, "runs", "rm", "a", "b", "--yes", *root)
    assert main(["runs", "rm", "a", "--yes", *root]) == 0
    out, err = capsys.readouterr()
    assert out == "removed a\n" and "b seats an expert of a" in err
    assert sorted(path.name for path in (tmp_path / "runs").iterdir() if path.is_dir()) == ["b"]
    assert outside.path.is_dir()
