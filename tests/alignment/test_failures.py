"""What stops a training says so in one sentence, and leaves the last checkpoint as it was. Real limits, real errors."""

from __future__ import annotations

import errno
import hashlib
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from alignment import checkpoint
from alignment.backbone import Backbone
from alignment.config import BackboneConfig, RewardConfig, SFTConfig
from alignment.errors import JuntoError, SetupError
from alignment.failures import explained, refuse_nan
from alignment.reward import train_reward
from alignment.run_dir import RunDir, write_atomic
from alignment.sft import train_sft

Row = dict[str, Any]
PAIRS: list[Row] = [
    {"prompt": [{"role": "user", "content": str(i)}], "chosen": "the fox", "rejected": "the dog"} for i in range(8)
]


def new_run(folder: Path) -> RunDir:
    run = RunDir(folder / "run")
    run.create("name: tiny\n", {})
    run.set_status("running")
    return run


def backbone_of(model: Path) -> Backbone:
    return Backbone(BackboneConfig(model=str(model), quantization="none", compute_dtype="float32", lora={"rank": 4}))


def train(model: Path, run: RunDir, report: Any = lambda event: None, **settings: Any) -> None:
    config = RewardConfig(**({"steps": 6, "batch_size": 2, "checkpoint_every": 2} | settings))
    with explained("reward", run):
        train_reward(backbone_of(model), config, PAIRS, PAIRS, run, 0, report)


def tune(model: Path, run: RunDir, report: Any = lambda event: None, **settings: Any) -> None:
    config = SFTConfig(**({"steps": 6, "batch_size": 2, "checkpoint_every": 2} | settings))
    rows = [{"prompt": row["prompt"], "completion": "the fox"} for row in PAIRS]
    with explained("sft", run):
        train_sft(backbone_of(model), config, rows, rows, run, 0, report)


def digest(folder: Path, stage: str) -> dict[str, str]:
    """Every file of the last checkpoint."""
    last = checkpoint.latest(folder / "checkpoints" / stage)
    assert last is not None
    files = [p for p in sorted(last.rglob("*")) if p.is_file()]
    return {str(p.relative_to(last)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@contextmanager
def limited(what: int, size: int) -> Iterator[None]:
    """This process under a limit of the operating system."""
    soft, hard = resource.getrlimit(what)
    resource.setrlimit(what, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(what, (soft, hard))


def test_a_loss_that_is_no_number(tiny_model: Path, tmp_path: Path) -> None:
    run = new_run(tmp_path)
    with pytest.raises(JuntoError) as caught:
        train(tiny_model, run, learning_rate=1e37, warmup_steps=0, checkpoint_every=1)
    said = str(caught.value)
    assert said.startswith("reward step ") and "\n" not in said
    for setting in ("reward.learning_rate", "reward.warmup_steps", "backbone.compute_dtype"):
        assert setting in said
    # the step that failed left no trace in the last checkpoint
    last = checkpoint.latest(run.path / "checkpoints" / "reward")
    assert last is not None and f"step-{len(run.metrics()):06d}" == last.name
    tensors, _ = checkpoint.load(last, {})
    assert all(torch.isfinite(value).all() for value in tensors.values())


def test_supervised_tuning_stops_too(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(JuntoError, match=r"sft step \d: .*lower sft.learning_rate or raise sft.warmup_steps"):
        tune(tiny_model, new_run(tmp_path), learning_rate=1e37, warmup_steps=0, checkpoint_every=1)


def test_ppo_names_its_own_settings() -> None:
    with pytest.raises(JuntoError, match="ppo iteration 3: .*lower ppo.learning_rate or raise ppo.kl_coef"):
        refuse_nan("ppo", 3, 1.0, float("inf"))
    refuse_nan("ppo", 3, 1.0, 2.0)


@pytest.mark.parametrize(
    ("stage", "share"),
    [("reward", 0.5), ("sft", 0.5), ("sft", 1.5)],
    ids=["reward", "the adapter of sft", "the moments of sft"],
)
def test_a_full_disk(tiny_model: Path, tmp_path: Path, stage: str, share: float) -> None:
    """Files may grow no larger than a share of the adapter: the second checkpoint cannot be written."""
    work = {"reward": train, "sft": tune}[stage]
    straight, run = new_run(tmp_path / "straight"), new_run(tmp_path / "full")
    work(tiny_model, straight)
    adapter = (straight.path / "adapters" / stage / "adapter.safetensors").stat().st_size
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    before: dict[str, str] = {}

    def fill(event: Row) -> None:
        if event["step"] == 3 and not before:
            before.update(digest(run.path, stage))
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(share * adapter), hard))

    with (
        limited(resource.RLIMIT_FSIZE, resource.getrlimit(resource.RLIMIT_FSIZE)[0]),
        pytest.raises(SetupError) as caught,
    ):
        work(tiny_model, run, fill)
    said = str(caught.value)
    assert said.startswith(f"{stage}: no space left for {run.path}; free some") and "\n" not in said
    for setting in ("--runs-root", "JUNTO_RUNS", "backbone.lora.rank"):
        assert setting in said
    assert said.endswith("the checkpoint of step 2 is intact")
    assert digest(run.path, stage) == before and not (run.path / "checkpoints/reward/.writing").exists()
    work(tiny_model, run)  # there is room again
    assert run.results(stage) == straight.results(stage)


def test_a_status_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    write_atomic(path, "old")
    with limited(resource.RLIMIT_FSIZE, 1000), pytest.raises(OSError):
        write_atomic(path, "x" * 5000)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_out_of_memory(tiny_model: Path, tmp_path: Path) -> None:
    run = new_run(tmp_path)
    train(tiny_model, run, steps=3)  # leaves no checkpoint: it is done
    with pytest.raises(SetupError) as caught, explained("reward", run):
        torch.empty(2**50)  # a real refusal of the allocator
    said = str(caught.value)
    assert said.startswith("reward: out of memory; lower reward.batch_size or reward.max_length")
    assert "backbone.quantization" in said and "\n" not in said and said.endswith("no checkpoint yet")
    with pytest.raises(SetupError, match="sft: out of memory"), explained("sft", run):
        bytearray(2**60)


def test_other_errors_pass() -> None:
    for error in (RuntimeError("shape mismatch"), OSError(errno.ENOENT, "no such file"), KeyError("x")):
        with pytest.raises(type(error)) as caught, explained("reward", RunDir(Path("nowhere"))):
            raise error
        assert caught.value is error
