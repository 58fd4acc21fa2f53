"""LoRA in the compute dtype: in float32 PEFT's numbers; in bfloat16 rounding of that size, and less that is kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft.tuners.lora.layer import LoraLayer
from torch import Tensor

from alignment.backbone import Backbone
from alignment.config import BackboneConfig, LoraSettings

IDS = torch.tensor([[1, 20, 30, 40, 50, 60, 70, 80], [1, 21, 31, 41, 51, 61, 71, 81]])


def make(path: Path, dtype: str, quantization: str = "none") -> Backbone:
    backbone = Backbone(
        BackboneConfig(model=str(path), quantization=quantization, compute_dtype=dtype, lora=LoraSettings(rank=4))
    )
    backbone.add_role("sft", seed=0)
    generator = torch.Generator().manual_seed(0)
    for parameter in backbone.parameters("sft"):
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    return backbone


def as_peft(backbone: Backbone) -> Backbone:
    for module in backbone.model.modules():
        if isinstance(module, LoraLayer):
            assert module.lora_variant
            module.lora_variant.clear()
            module.cast_input_dtype_enabled = True
    return backbone


def outcome(backbone: Backbone) -> tuple[Tensor, list[Tensor], int]:
    """Hidden states, gradients, and the bytes of activations that the backward pass needs."""
    weights = {p.untyped_storage().data_ptr() for p in backbone.model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with backbone.role("sft", train=True), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        states = backbone.hidden(IDS, torch.ones_like(IDS)).last_hidden_state
        direction = torch.randn(states.shape, generator=torch.Generator().manual_seed(1))
        total = sum(kept.values())
        (states.float() * direction).sum().backward()
    gradients = [p.grad.clone() for p in backbone.parameters("sft") if p.grad is not None]
    return states.detach().float(), gradients, total


def error(got: list[Tensor], want: list[Tensor]) -> float:
    """Relative error of all gradients as one vector."""
    difference = sum(((a - b) ** 2).sum() for a, b in zip(got, want, strict=True))
    return float((difference / sum((b**2).sum() for b in want)) ** 0.5)


@pytest.mark.parametrize("quantization", ["none", "int8", "nf4"])
def test_in_float32_it_is_pefts(tiny_model: Path, quantization: str) -> None:
    states, gradients, _ = outcome(make(tiny_model, "float32", quantization))
    want, wanted, _ = outcome(as_peft(make(tiny_model, "float32", quantization)))
    assert len(gradients) == 28
    assert torch.allclose(states, want, atol=1e-5)
    assert error(gradients, wanted) < 1e-5


def test_in_bfloat16_it_keeps_less_and_rounds_no_more_than_twice_as_much(tiny_model: Path) -> None:
    exact, truth, _ = outcome(make(tiny_model, "float32"))
    states, gradients, kept = outcome(make(tiny_model, "bfloat16"))
    peft_states, peft_gradients, peft_kept = outcome(as_peft(make(tiny_model, "bfloat16")))
    assert {g.dtype for g in gradients} == {torch.float32}
    assert (states - exact).norm() < 2 * (peft_states - exact).norm()
    assert error(gradients, truth) < 2 * error(peft_gradients, truth)
    assert kept < 0.8 * peft_kept
