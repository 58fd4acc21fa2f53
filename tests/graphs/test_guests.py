"""Experts of several runs at one table: each writes what its own run would, whatever the size of its adapter."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from agents.config import CouncilConfig, ExpertConfig
from alignment.adapter_files import save_role
from alignment.backbone import Backbone
from alignment.config import BackboneConfig, LoraSettings
from alignment.engine import Engine
from alignment.errors import SetupError
from graphs.recipe import Recipe
from graphs.sitting import seat, sit
from graphs.tasks import game24

TASK: Any = SimpleNamespace(prompt=game24.prompt, check=game24.check, STEP="[0-9]{2}")


def backbone_of(model: Path, rank: int, seed: int) -> Backbone:
    backbone = Backbone(
        BackboneConfig(
            model=str(model), quantization="none", compute_dtype="float32", lora=LoraSettings(rank=rank, alpha=3 * rank)
        )
    )
    backbone.add_role("sft", seed=seed)
    for parameter in backbone.parameters("sft"):
        torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(seed))
    return backbone


@pytest.fixture(scope="module")
def runs(tiny_model: Path, other_tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for name, model, rank in (("own", tiny_model, 4), ("other", tiny_model, 2), ("foreign", other_tiny_model, 2)):
        save_role(backbone_of(model, rank, rank), "sft", folder / name / "adapters" / "sft")
        backbone = f"model: {model}, quantization: none, compute_dtype: float32, lora: {{rank: {rank}}}"
        (folder / name / "config.yaml").write_text(f"name: {name}\nbackbone: {{{backbone}}}\n")
    return folder


def steps(run: Path, *experts: ExpertConfig) -> dict[str, list[str]]:
    council = CouncilConfig(experts=list(experts), rounds=3, share=False, scorer="length", leave_below=None)
    with Engine.open(run) as engine:
        context = seat(engine, TASK, Recipe(name="t", council=council), "t")
        result = sit(context, "4 7 8 8", lambda event: None, run / "threads.sqlite", None)
    return {e.name: [t["text"] for t in result["thoughts"] if t["expert"] == e.name] for e in experts}


def test_each_writes_as_in_its_own_run(runs: Path) -> None:
    here = [ExpertConfig(name=name, role="sft") for name in ("Ada", "Blaise", "Carl")]
    guest = here[1].model_copy(update={"run": str(runs / "other")})
    together = steps(runs / "own", here[0], guest, here[2])
    own, other = steps(runs / "own", *here), steps(runs / "other", *here)
    assert together == own | {"Blaise": other["Blaise"]}
    assert own["Blaise"] != other["Blaise"]


@pytest.mark.parametrize(
    ("run", "role", "says"),
    [("foreign", "sft", "belongs to another base model"), ("other", "policy", "has no adapter policy")],
)
def test_a_guest_that_cannot_come(runs: Path, run: str, role: str, says: str) -> None:
    with pytest.raises(SetupError, match=says):
        steps(runs / "own", ExpertConfig(name="Ada", role=role, run=str(runs / run)))
