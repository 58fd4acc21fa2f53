"""Runs that end after SFT: what can be done with them, and the one sentence about what cannot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from alignment.engine import Engine, Request
from graphs.align import run_align
from graphs.cli.main import main
from graphs.recipe import load_recipe

PROMPT = [{"role": "user", "content": "4 7 8 8"}]


@pytest.fixture(scope="module")
def runs(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs ``prefix`` and ``full``."""
    root = tmp_path_factory.mktemp("tuned")
    for method in ("prefix", "full"):
        content = {
            "name": method,
            "stop_after": "sft",
            "data": {"lines": 16, "pairs": 8, "prompts": 8},
            "backbone": {"model": str(tiny_model), "quantization": "none", "compute_dtype": "float32"},
            "sft": {"method": method, "virtual_tokens": 3, "steps": 2, "batch_size": 4, "learning_rate": 1e-2},
        }
        (root / "recipe.yaml").write_text(yaml.safe_dump(content))
        run_align(load_recipe(root / "recipe.yaml"), root, root / "runs", False, lambda event: None)
    return root / "runs"


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) in (2, 3)
    said = capsys.readouterr()
    assert said.out == "" and said.err.splitlines()[-1].startswith("error: ")
    return said.err.splitlines()[-1]


@pytest.mark.parametrize("method", ["prefix", "full"])
def test_it_writes_and_sits_in_a_council(runs: Path, method: str, capsys: pytest.CaptureFixture[str]) -> None:
    with Engine.open(method, runs_root=runs) as engine:
        assert engine.roles == ("base", "sft")
        tuned, base = (engine.logprobs([PROMPT], [[5, 6, 7]], role)[0] for role in ("sft", "base"))
        # after full tuning the base is the tuned model, and so is sft
        assert (tuned == pytest.approx(base, abs=1e-5)) == (method == "full")
        assert engine.generate([Request(PROMPT, role="sft", max_tokens=3)])[0].tokens
    council = ["run", "council", "--run", str(runs / method), "--question", "4 7 8 8"]
    assert "has no policy (it has base, sft)" in refused(capsys, *council)
    seats = "council.experts=[{name: Ada, role: sft}, {name: Blaise, role: base}]"
    assert main([*council, "--set", seats, "--set", "council.rounds=1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [expert["status"] for expert in result["experts"]].count("crashed") == 0


def test_what_needs_later_stages_is_refused(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run = str(runs / "prefix")
    assert "has no role 'policy'; it has base, sft" in refused(capsys, "run", "evaluate", "--run", run)
    assert not list(Path("runs").glob("evaluations/prefix/*/samples.jsonl"))
    explain = ("explain", "text", "--run", run, "--question", "4 7 8 8", "--response", "x")
    assert "has no reward role" in refused(capsys, *explain)


def test_export(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "cannot be merged into weights" in refused(
        capsys, "export", str(runs / "prefix"), "--to", str(tmp_path / "a")
    )
    run, to = str(runs / "full"), str(tmp_path / "b")
    assert "has no role 'policy' yet; it has sft" in refused(capsys, "export", run, "--to", to, "--role", "policy")
    assert "is policy or sft" in refused(capsys, "export", run, "--to", to, "--role", "reward")
    assert "expected float32 or bfloat16" in refused(capsys, "export", run, "--to", to, "--dtype", "fp8")
    assert main(["export", run, "--to", to, "--json"]) == 0
    written = json.loads(capsys.readouterr().out)
    assert written["role"] == "sft" and written["dtype"] == "float32" and written["folder"] == to
    plain = AutoModelForCausalLM.from_pretrained(to).eval()
    with Engine.open(run) as engine, torch.no_grad():
        ids = torch.tensor([[*engine.backbone.chat.prompt_ids(PROMPT), 5, 6, 7]])
        logp = plain(input_ids=ids).logits[0, -4:-1].log_softmax(-1).gather(1, ids[0, -3:, None])[:, 0]
        assert engine.logprobs([PROMPT], [[5, 6, 7]], "sft")[0] == pytest.approx(logp.tolist(), abs=1e-4)
    assert "is not empty; name a new folder" in refused(capsys, "export", run, "--to", to)
