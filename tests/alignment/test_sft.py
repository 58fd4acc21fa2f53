"""Supervised tuning: TRL's loss curve, and what the settings that only save memory must not change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from trl import SFTTrainer

from alignment.backbone import Backbone
from alignment.batch import encode_rows
from alignment.config import BackboneConfig, LoraSettings, SFTConfig
from alignment.errors import SetupError, UsageError
from alignment.run_dir import RunDir
from alignment.sft import train_sft
from alignment.sft_trainer import rows_in_order, trl_settings

WORDS = ["4 7 8 8", "the quick brown fox", "10 - 4 = 6 (left: 5 6 6)", "Make 24.", "LEAVE: 2 9", "12"]
ROWS = [{"prompt": [{"role": "user", "content": a}], "completion": f"{b} {a}"} for a in WORDS for b in WORDS if a != b]
SMALL = {"steps": 4, "batch_size": 4, "learning_rate": 1e-3, "warmup_steps": 1}


def make(path: Path, method: str, quantization: str = "none") -> Backbone:
    config = BackboneConfig(
        model=str(path), quantization=quantization, compute_dtype="float32", lora=LoraSettings(rank=4)
    )
    return Backbone(config, master_weights=method == "full")


def curve(path: Path, folder: Path, quantization: str = "none", **settings: Any) -> list[float]:
    """Loss of every step."""
    config = SFTConfig(**(SMALL | settings))
    run = RunDir(folder)
    run.create("", {})
    train_sft(make(path, config.method, quantization), config, ROWS[:24], ROWS[24:], run, 0, lambda event: None)
    assert run.results("sft")["method"] == config.method
    return [row["loss"] for row in run.metrics()]


@pytest.mark.parametrize("method", ["lora", "full", "prefix", "prompt"])
def test_the_loss_curve_is_that_of_trls_trainer(tiny_model: Path, tmp_path: Path, method: str) -> None:
    """TRL's own SFTTrainer, with nothing overridden, on the same batches."""
    config = SFTConfig(**SMALL, method=method, virtual_tokens=3)
    backbone = make(tiny_model, method)
    encoded = encode_rows(backbone.chat, ROWS[:24], config.max_length)
    role = "base" if method == "full" else "sft"
    if role == "sft":
        backbone.add_role("sft", seed=0, tokens=config.virtual, text=encoded[0]["input_ids"])
    with backbone.role(role, train=True):
        trainer = SFTTrainer(
            model=backbone.model,
            args=trl_settings(config, 0, tmp_path / "trl", use_cpu=True),
            train_dataset=rows_in_order(encoded, config, 0),
            processing_class=backbone.tokenizer,
        )
        trainer.train()
    want = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    got = curve(tiny_model, tmp_path / "run", method=method, virtual_tokens=3)
    assert len(got) == 4 and len(set(got)) == 4
    assert got == pytest.approx(want, rel=2e-6)


def test_a_training_may_start_from_another_runs_adapter(tiny_model: Path, tmp_path: Path) -> None:
    plain = curve(tiny_model, tmp_path / "first")
    again = curve(tiny_model, tmp_path / "second", start="first", learning_rate=1e-9)
    first, second = (RunDir(tmp_path / name).results("sft")["validation_loss"] for name in ("first", "second"))
    assert second == pytest.approx(first, rel=1e-5) and again[0] < plain[0]
    assert (
        RunDir(tmp_path / "second").results("sft")["start_sha256"]
        == json.loads((tmp_path / "first" / "adapters" / "sft" / "adapter.json").read_text())["sha256"]
    )
    with pytest.raises(UsageError, match="no run 'third'"):
        curve(tiny_model, tmp_path / "fourth", start="third")
    (tmp_path / "first" / "adapters" / "sft" / "adapter.json").unlink()
    with pytest.raises(SetupError, match="first has no adapter sft; finish its recipe first"):
        curve(tiny_model, tmp_path / "fifth", start="first")


def test_a_start_of_another_alpha_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    """Its tensors would fit, and it would be another model."""
    curve(tiny_model, tmp_path / "first", steps=1)
    meta = tmp_path / "first" / "adapters" / "sft" / "adapter.json"
    content = json.loads(meta.read_text())
    meta.write_text(json.dumps(content | {"lora": content["lora"] | {"alpha": 2 * content["lora"]["alpha"]}}))
    with pytest.raises(UsageError, match="sft.start: .* alpha .*; set backbone.lora to the same"):
        curve(tiny_model, tmp_path / "second", start="first")


def test_what_saves_memory_changes_no_loss(tiny_model: Path, tmp_path: Path) -> None:
    plain = curve(tiny_model, tmp_path / "plain")
    for name, settings in {
        "checkpointing": {"gradient_checkpointing": True},
        "accumulation": {"gradient_accumulation": 2},
        "packing": {"packing": True, "max_length": 120},
        "all": {"gradient_checkpointing": True, "gradient_accumulation": 2, "packing": True},
    }.items():
        assert curve(tiny_model, tmp_path / name, **settings) == pytest.approx(plain, rel=1e-5), name


def test_checkpointing_computes_layers_again_and_ends_with_the_stage(tiny_model: Path, tmp_path: Path) -> None:
    calls = {}
    for again in (False, True):
        backbone = make(tiny_model, "lora")
        run = RunDir(tmp_path / str(again))
        run.create("", {})
        config = SFTConfig(**SMALL, gradient_checkpointing=again)
        counted: list[bool] = []
        layer = backbone.causal_lm.get_decoder().layers[0].mlp
        layer.register_forward_pre_hook(lambda module, *_, counted=counted: counted.append(module.training))
        train_sft(backbone, config, ROWS[:24], ROWS[24:], run, 0, lambda event: None)
        calls[again] = sum(counted)
        assert not backbone.causal_lm.is_activation_checkpointing
        assert not backbone.causal_lm.get_input_embeddings()(torch.tensor([[5, 6]])).requires_grad
    assert calls == {False: config.steps, True: 2 * config.steps}


@pytest.mark.parametrize("optimizer", ["adamw_8bit", "paged_adamw_8bit"])
def test_moments_in_eight_bits(tiny_model: Path, tmp_path: Path, optimizer: str) -> None:
    """The embedding's moments are large enough to be stored in 8 bits: near AdamW's curve, and not the same."""
    plain = curve(tiny_model, tmp_path / "plain", method="full")
    got = curve(tiny_model, tmp_path / "eight", method="full", optimizer=optimizer)
    assert got == pytest.approx(plain, rel=2e-3) and got != plain
    notes = RunDir(tmp_path / "eight").results("sft")["notes"]
    assert ["paging is inactive on a CPU" in note for note in notes] == [True] * optimizer.startswith("paged")


@pytest.mark.parametrize("quantization", ["int8", "nf4"])
@pytest.mark.parametrize("method", ["lora", "prefix", "prompt"])
def test_quantized_weights_take_every_adapter(tiny_model: Path, tmp_path: Path, method: str, quantization: str) -> None:
    """Near the curve on the weights as they came: quantization is a small change."""
    plain = curve(tiny_model, tmp_path / "plain", method=method, learning_rate=1e-2)
    got = curve(tiny_model, tmp_path / "quantized", quantization, method=method, learning_rate=1e-2)
    assert got == pytest.approx(plain, rel=0.1) and got != plain


def test_full_tuning_leaves_a_base_and_an_adapter_that_changes_nothing(tiny_model: Path, tmp_path: Path) -> None:
    backbone = make(tiny_model, "full")
    before = backbone.sha256
    run = RunDir(tmp_path)
    run.create("backbone: {model: elsewhere, quantization: none}\n", {})
    config = SFTConfig(**SMALL, method="full")
    assert run.backbone()["model"] == "elsewhere"
    train_sft(backbone, config, ROWS[:24], ROWS[24:], run, 0, lambda event: None)
    assert run.backbone()["model"] == str(tmp_path / "base")
    assert backbone.roles == ("base", "sft") and backbone.sha256 != before
    tuned = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32).eval()
    ids = torch.tensor([backbone.chat.prompt_ids(ROWS[0]["prompt"])])
    with torch.no_grad():
        want = tuned(input_ids=ids).logits[0]
        for role in ("base", "sft"):
            with backbone.role(role):
                states = backbone.hidden(ids, torch.ones_like(ids)).last_hidden_state[0]
                assert torch.allclose(backbone.logits(states), want, atol=1e-5)
    first = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    with torch.no_grad():
        assert not torch.allclose(first(input_ids=ids).logits[0], want, atol=1e-2)
