"""Adapters that are exported to come with a project: the folder, and using it elsewhere without training."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

import alignment.shipped
from alignment.adapter_files import save_role
from alignment.engine import Engine, Request
from alignment.errors import SetupError
from alignment.run_dir import RunDir
from graphs.align import run_align
from graphs.cli.main import main
from graphs.model_card import model_card
from graphs.recipe import load_recipe

PROMPT = [{"role": "user", "content": "4 7 8 8"}]
COUNCIL = ["run", "council", "--run", "tiny", "--question", "4 7 8 8"]
ROLES = ("sft", "reward", "policy", "value")


def write_recipe(folder: Path, **overrides: Any) -> Path:
    content = {
        "name": "tiny",
        "data": {"lines": 24, "pairs": 16, "prompts": 24, "held_out": ["4 7 8 8"]},
        # bfloat16 as in the recipes; the model by a path that is right in every folder of these tests
        "backbone": {"model": "model", "quantization": "none", "compute_dtype": "bfloat16", "lora": {"rank": 4}},
        "sft": {"steps": 3, "batch_size": 4},
        "reward": {"steps": 3, "batch_size": 2},
        "ppo": {"iterations": 1, "batch_size": 4, "max_tokens": 6},
        "evaluate": {"n": 20, "max_tokens": 6, "ability": False},
        "council": {"rounds": 2, "max_tokens_per_step": 6},
    } | overrides
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def change_weights(run: Path, change: Callable[[str, torch.Tensor], torch.Tensor]) -> None:
    with Engine.open(run, "bfloat16") as engine:  # as it was trained, whatever this processor has
        for role in ROLES:
            weights = engine.backbone.weights(role)
            engine.backbone.set_weights(role, {name: change(name, value) for name, value in weights.items()})
            save_role(engine.backbone, role, run / "adapters" / role)


@pytest.fixture(scope="module")
def origin(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the run ``tiny`` was trained: ``model``, ``runs/tiny``, ``adapters/tiny`` with all its roles, and
    ``rounded``, the run with its adapters rounded by hand."""
    root = tmp_path_factory.mktemp("origin")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        shutil.copytree(tiny_model, "model")
        run_align(load_recipe(write_recipe(root)), root, Path("runs"), False, lambda event: None)
        # three steps change little; this much shows what rounding does
        generator = torch.Generator().manual_seed(0)
        change_weights(Path("runs/tiny"), lambda _, v: v + 0.1 * torch.randn(v.shape, generator=generator))
        assert main(["export", "tiny", "--adapters", "--to", "adapters/tiny"]) == 0
        shutil.copytree("runs/tiny", "rounded")
        change_weights(Path("rounded"), lambda name, v: v if name.startswith("head.") else v.bfloat16().float())
        yield root


@pytest.fixture(autouse=True)
def elsewhere(origin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another root, without runs: a clone with ``adapters/tiny`` beside the packages, and a working folder with the
    model."""
    shutil.copytree(origin / "adapters", tmp_path / "clone" / "adapters")
    shutil.copytree(origin / "model", tmp_path / "work" / "model")
    monkeypatch.setattr(alignment.shipped, "__file__", str(tmp_path / "clone" / "alignment" / "shipped.py"))
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "clone" / "adapters" / "tiny"


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert main(arguments) in (2, 3)
    said = capsys.readouterr()
    assert said.out == "" and said.err.splitlines()[-1].startswith("error: ")
    return said.err.splitlines()[-1]


def logits(run: Path, role: str, compute_dtype: str) -> torch.Tensor:
    with Engine.open(run, compute_dtype) as engine, engine.backbone.role(role), torch.no_grad():
        ids = torch.tensor([engine.backbone.chat.prompt_ids(PROMPT)])
        return engine.backbone.logits(engine.backbone.hidden(ids, torch.ones_like(ids)).last_hidden_state)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_in_the_folder(origin: Path) -> None:
    folder, run = origin / "adapters" / "tiny", RunDir(origin / "runs" / "tiny")
    assert {p.name for p in folder.iterdir()} == {"config.yaml", "status.json", "README.md", "adapters"}
    assert not [name for name, text in contents(folder).items() if str(origin).encode() in text]
    for role in ROLES:
        before, after = (load_file(f / "adapters" / role / "adapter.safetensors") for f in (run.path, folder))
        assert before.keys() == after.keys()
        for name, value in after.items():
            assert value.dtype == (torch.float32 if name.startswith("head.") else torch.bfloat16)
            assert torch.equal(value.float(), before[name] if name.startswith("head.") else before[name].bfloat16())
        meta = json.loads((folder / "adapters" / role / "adapter.json").read_text())
        assert (meta["quantization"], meta["compute_dtype"]) == ("none", "bfloat16")
    assert load_recipe(folder / "config.yaml") == load_recipe(run.path / "config.yaml")
    stages = RunDir(folder).status()["stages"]
    assert {s: e["results"] for s, e in stages.items()} == {s: e["results"] for s, e in run.status()["stages"].items()}
    _, front, card = (folder / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front)["tags"] == ["junto", "lora", "game24"]
    accuracy = run.results("reward")["pair_accuracy"]
    assert f"| Held-out pair accuracy | {100 * accuracy['value']:.1f}% | {100 * accuracy['low']:.1f}% to " in card
    assert "lora, 3 steps of 4 rows, learning rate 0.0005 |" in card and "135M" not in card
    embedded = load_recipe(run.path / "config.yaml", ["backbone.model=embedded"])
    _, front, card = model_card("tiny", embedded, run, folder / "adapters").split("---\n", 2)
    assert yaml.safe_load(front)["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert yaml.safe_load(front)["license"] == "apache-2.0" and "a model of 135M parameters" in card


def test_the_same_text_in_a_fresh_process(origin: Path, elsewhere: Path) -> None:
    program = """
import json, sys
from alignment.engine import Engine, Request
with Engine.open("tiny", "bfloat16") as engine:
    prompt = [{"role": "user", "content": "4 7 8 8"}]
    done = engine.generate([Request(prompt, role=r, max_tokens=24, temperature=0.0) for r in sys.argv[1:]])
    print(json.dumps([[list(one.ids) for one in done], engine.score([prompt], ["8 - 7 = 1"])]))
"""
    shutil.copytree(elsewhere.parent, "adapters")  # the other place that it is looked for in
    roles = ("sft", "policy")
    done = subprocess.run([sys.executable, "-c", program, *roles], capture_output=True, text=True, check=True)
    assert "tiny comes with the project, trained: copied adapters/tiny to runs/tiny" in done.stderr
    texts, scores = json.loads(done.stdout)
    with Engine.open(origin / "rounded", "bfloat16") as engine:
        asked = [Request(PROMPT, role=role, max_tokens=24, temperature=0.0) for role in roles]
        assert texts == [list(one.ids) for one in engine.generate(asked)] and texts[0] != texts[1]
    with Engine.open(origin / "runs" / "tiny", "bfloat16") as engine:
        # beside the weights adapters are cast to bfloat16 anyway
        assert scores == engine.score([PROMPT], ["8 - 7 = 1"])


def test_logits_are_within_the_rounding(origin: Path, elsewhere: Path) -> None:
    run = origin / "runs" / "tiny"
    for role in ("sft", "policy"):
        found, plain = logits(elsewhere, role, "float32"), logits(run, role, "float32")
        assert torch.equal(found, logits(origin / "rounded", role, "float32"))
        effect = (plain - logits(run, "base", "float32")).abs().max()
        # each of the two factors of an adapter has a relative error of 2**-9 at most
        assert 0 < (found - plain).abs().max() < 8 * 2**-8 * effect
        assert torch.equal(logits(elsewhere, role, "bfloat16"), logits(run, role, "bfloat16"))


def test_a_council_without_training(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(elsewhere)
    assert main(["runs", "ls"]) == 0
    assert "tiny shipped" in " ".join(capsys.readouterr().out.split())
    assert main(["runs", "ls", "--json"]) == 0
    listing = json.loads(capsys.readouterr().out)
    assert listing["runs"] == [] and [run["name"] for run in listing["shipped"]] == ["tiny"]
    assert main([*COUNCIL, "--json"]) == 0
    said = capsys.readouterr()
    assert [e["name"] for e in json.loads(said.out)["experts"]] == ["Ada", "Blaise", "Carl"]
    assert f"copied {elsewhere} to runs/tiny" in said.err
    assert Path("runs/tiny/trees/4-7-8-8.html").is_file() and Path("runs/tiny/threads.sqlite").is_file()
    assert "trained elsewhere" in Path("runs/tiny/report.html").read_text()
    again = [*COUNCIL, "--json"]
    again[3] = str(elsewhere)  # by its path it is the same run
    assert main(again) == 0
    assert "copied" not in capsys.readouterr().err
    assert contents(elsewhere) == before
    assert main(["runs", "ls", "--json"]) == 0
    listing = json.loads(capsys.readouterr().out)
    assert listing["shipped"] == [] and [run["name"] for run in listing["runs"]] == ["tiny"]
    assert main(["explain", "text", "--run", "tiny", "--question", "4 7 8 8", "--response", "8 - 7 = 1"]) == 0
    assert main(["run", "evaluate", "--run", "tiny", "--json"]) == 0


def test_what_is_in_runs_comes_first_and_a_copy_is_whole(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (elsewhere / "gone").symlink_to("nowhere")  # cannot be copied
    assert main(COUNCIL) == 1
    assert list(Path("runs").glob("*")) == []
    (elsewhere / "gone").unlink()
    Path("runs/tiny").mkdir()
    Path("runs/tiny/notes.txt").write_text("mine")
    assert "runs/tiny, which is there and no run; remove it" in refused(capsys, *COUNCIL)
    assert "trained ones come with the project: tiny" in refused(capsys, "runs", "show", "tyni")
    shutil.rmtree("runs/tiny")
    shutil.copytree(elsewhere, "runs/tiny")
    assert RunDir.open("tiny").path == Path("runs/tiny") and capsys.readouterr().err == ""
    shutil.rmtree("runs")
    shutil.rmtree(elsewhere)
    assert "lie in adapters/ of a clone of the project" in refused(capsys, *COUNCIL)


def test_what_does_not_belong_together_is_refused(
    elsewhere: Path, other_tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree("model")
    shutil.copytree(other_tiny_model, "model")
    assert "belongs to another base model" in refused(capsys, *COUNCIL)


@pytest.mark.parametrize("what", ["altered", "cut short", "absent", "adapter.json"])
def test_a_damaged_file_is_refused(elsewhere: Path, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = elsewhere / "adapters" / "sft"
    path = folder / "adapter.safetensors"
    content = path.read_bytes()
    path.write_bytes(
        {"altered": content[:-1] + bytes([content[-1] ^ 1]), "cut short": content[:-100]}.get(what, content)
    )
    if what == "absent":
        path.unlink()
    if what == "adapter.json":
        (folder / what).write_text((folder / what).read_text()[:-9])
    says = "adapter.json cannot be read" if what == "adapter.json" else "adapter.safetensors is damaged"
    assert says in refused(capsys, *COUNCIL)


def test_other_storage_and_coarser_arithmetic_are_refused() -> None:
    run = RunDir.open("tiny").path
    config, meta = run / "config.yaml", run / "adapters" / "policy" / "adapter.json"
    before = config.read_text()
    config.write_text(before.replace("quantization: none", "quantization: nf4"))
    for dtype in (None, "float32"):
        with pytest.raises(SetupError, match="was trained with quantization none, and here it is nf4; set backbone.q"):
            Engine.open(run, dtype)
    config.write_text(before)
    meta.write_text(meta.read_text().replace('"compute_dtype": "bfloat16"', '"compute_dtype": "float32"'))
    with pytest.raises(SetupError, match="was trained with compute_dtype float32, and here it is bfloat16"):
        Engine.open(run, "bfloat16")
    Engine.open(run, "float32").close()


def test_align_on_top_keeps_what_came(origin: Path, capsys: pytest.CaptureFixture[str]) -> None:
    RunDir.open("tiny")
    recipe, weights = write_recipe(Path()), contents(Path("runs/tiny/adapters"))
    assert main(["run", "align", str(recipe)]) == 0
    said = capsys.readouterr().err
    assert said.count("trained elsewhere, adapters rounded to bfloat16") == 6
    assert contents(Path("runs/tiny/adapters")) == weights
    assert "another recipe (changed: sft.steps)" in refused(capsys, "run", "align", str(recipe), "--set", "sft.steps=4")


def test_a_run_goes_on_where_what_came_ends(origin: Path, elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two roles were shipped: PPO and what comes after it are of here, and the roles before it as they came."""
    shutil.rmtree(elsewhere)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(origin)
        export = ["export", "tiny", "--adapters", "--to", str(elsewhere), "--role", "reward", "--role", "sft"]
        assert "seats policy, and the exported roles are sft, reward" in refused(capsys, *export)
        assert not elsewhere.exists()
        seated = origin / "runs" / "tiny" / "config.yaml"
        before = seated.read_text()
        seated.write_text(before.replace("role: policy", "role: sft"))
        try:
            assert main(export) == 0
        finally:
            seated.write_text(before)
    assert list(RunDir(elsewhere).status()["stages"]) == ["data", "sft", "reward"]
    run = RunDir.open("tiny")
    assert main([*COUNCIL, "--json"]) == 0
    assert "has no policy and no reward" not in capsys.readouterr().err
    weights = contents(run.path / "adapters")
    config = (run.path / "config.yaml").read_text()
    assert "compute_dtype: bfloat16" in config  # here; where it was trained there was another arithmetic
    (run.path / "config.yaml").write_text(config.replace("compute_dtype: bfloat16", "compute_dtype: float32"))
    assert main(["run", "align", str(write_recipe(Path()))]) == 0
    assert capsys.readouterr().err.count("trained elsewhere") == 3
    other = ["run", "align", str(write_recipe(Path())), "--set", "backbone.compute_dtype=float32"]
    assert "another recipe (changed: backbone.compute_dtype)" in refused(capsys, *other)
    now = contents(run.path / "adapters")
    assert len(now) == 2 * len(weights) and weights.items() <= now.items()
    assert run.status()["state"] == "done" and "origin" not in run.status()["stages"]["ppo"]


def test_a_council_of_the_sft_model_alone(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for role in ("reward", "policy", "value"):
        shutil.rmtree(elsewhere / "adapters" / role)
    assert "has no policy (it has base, sft); run its recipe without stop_after, or seat" in refused(capsys, *COUNCIL)
    assert main([*COUNCIL, "--json", "--set", "council.experts=[{name: Ada, role: sft}]"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["experts"][0]["status"] != "crashed" and any("no reward model" in note for note in result["notes"])


def test_an_export_is_refused(
    origin: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(origin / "runs" / "tiny", "runs/tiny")
    Path("there").mkdir()

    def says(*arguments: str) -> str:
        to = [] if "--to" in arguments else ["--to", "new"]
        sentence = refused(capsys, "export", "tiny", *to, *arguments)
        assert not Path("new").exists() and not list(tmp_path.glob(".new*"))
        return sentence

    assert "there is there already; name a new folder" in says("--adapters", "--to", "there")
    assert "more than --limit-mb 0.01; name fewer by --role" in says("--adapters", "--limit-mb", "0.01")
    assert "--role is 'critic'; adapters are sft, reward, policy, value" in says("--adapters", "--role", "critic")
    assert "--dtype is of merged weights" in says("--adapters", "--dtype", "bfloat16")
    assert "--limit-mb goes with --adapters" in says("--limit-mb", "64")
    assert "one role is merged at a time" in says("--role", "sft", "--role", "policy")
    run = RunDir(Path("runs/tiny"))
    run.set_stage("ppo", state="running")
    assert "has no finished role 'policy'" in says("--adapters", "--role", "sft", "--role", "policy")
    run.set_status("failed", "ppo")
    assert "is failed, not done" in says("--adapters")
    config = run.path / "config.yaml"
    config.write_text(config.read_text().replace("model: model", f"model: {tiny_model}"))
    assert f"backbone.model of this run is {tiny_model}, which is on this machine only" in says(
        "--adapters", "--role", "sft"
    )
