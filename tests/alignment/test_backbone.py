"""Roles on one backbone: isolation, gradients, files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from alignment.adapter_files import load_role, save_role
from alignment.backbone import Backbone
from alignment.config import BackboneConfig, LoraSettings
from alignment.errors import SetupError
from alignment.weights import dequantized

PROMPT = [{"role": "user", "content": "4 7 8 8"}]


def make(path: Path, quantization: str = "none") -> Backbone:
    return Backbone(
        BackboneConfig(model=str(path), quantization=quantization, compute_dtype="float32", lora=LoraSettings(rank=4))
    )


def inputs(backbone: Backbone) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.tensor([backbone.chat.prompt_ids(PROMPT)])
    return ids, torch.ones_like(ids)


def disturb(backbone: Backbone, role: str, seed: int) -> None:
    """Gives the adapter's zero B matrices values, so that the role differs from the base."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in backbone.parameters(role):
        with torch.no_grad():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)


def hidden(backbone: Backbone, role: str) -> torch.Tensor:
    with backbone.role(role), torch.no_grad():
        return backbone.hidden(*inputs(backbone)).last_hidden_state


def test_roles_are_isolated(tiny_model: Path) -> None:
    backbone = make(tiny_model)
    plain = hidden(backbone, "base")
    for i, role in enumerate(("sft", "reward")):
        backbone.add_role(role, seed=i)
        assert torch.equal(hidden(backbone, role), plain)  # B = 0
        disturb(backbone, role, i)
    sft, reward = hidden(backbone, "sft"), hidden(backbone, "reward")
    assert not torch.allclose(sft, plain) and not torch.allclose(sft, reward)
    backbone.add_role("policy", seed=5, copy_of="sft")
    assert torch.equal(hidden(backbone, "policy"), sft)
    disturb(backbone, "policy", 9)
    assert torch.equal(hidden(backbone, "sft"), sft)  # the reference stands still
    assert torch.equal(hidden(backbone, "base"), plain)


def test_only_the_entered_role_trains(tiny_model: Path) -> None:
    backbone = make(tiny_model)
    for role in ("sft", "reward"):
        backbone.add_role(role, seed=0)
    everything = {id(p) for p in backbone.model.parameters()} | {
        id(p) for head in backbone.heads.values() for p in head.parameters()
    }
    with backbone.role("reward", train=True):
        training = {id(p) for p in backbone.model.parameters() if p.requires_grad} | {
            id(p) for p in backbone.heads["reward"].parameters() if p.requires_grad
        }
        assert training == {id(p) for p in backbone.parameters("reward")}
        assert backbone.model.training
    assert not any(p.requires_grad for p in backbone.model.parameters())
    assert not backbone.model.training
    assert {id(p) for p in backbone.parameters("reward")} <= everything


@pytest.mark.parametrize("quantization", ["none", "int8", "nf4"])
def test_gradients_after_sampling_are_those_of_dense_weights(tiny_model: Path, quantization: str) -> None:
    """A forward in eval mode must not change the gradients of a later training step (bitsandbytes repacks 4-bit
    weights on some processors), and quantized gradients are those of the dequantized weights."""
    backbone, dense = make(tiny_model, quantization), make(tiny_model)
    plain = dict(dense.causal_lm.named_modules())
    for name, module in backbone.causal_lm.named_modules():
        if isinstance(module, torch.nn.Linear):
            with torch.no_grad():
                plain[name].weight.copy_(dequantized(module))
    for b in (backbone, dense):
        b.add_role("sft", seed=0)
        disturb(b, "sft", 1)
    hidden(backbone, "sft")  # sampling comes first

    def gradients(b: Backbone) -> list[torch.Tensor]:
        with b.role("sft", train=True):
            states = b.hidden(*inputs(b)).last_hidden_state
            # a fixed random direction: the norm of the states is constant, and would have no gradient
            (states * torch.randn(states.shape, generator=torch.Generator().manual_seed(0))).sum().backward()
        found = [p.grad.clone() for p in b.parameters("sft") if p.grad is not None]
        for parameter in b.parameters("sft"):
            parameter.grad = None
        return found

    got, want = gradients(backbone), gradients(dense)
    assert len(got) == len(want) == len(backbone.parameters("sft"))
    for a, b in zip(got, want, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5 * b.abs().max().item() + 1e-7)


@pytest.mark.parametrize("quantization", ["none", "int8", "nf4"])
def test_sampling_sees_the_model_that_is_trained(tiny_model: Path, quantization: str) -> None:
    """The same hidden states in eval and in training mode: PPO's ratio starts at 1."""
    backbone = make(tiny_model, quantization)
    backbone.add_role("policy", seed=0)
    disturb(backbone, "policy", 2)
    sampled = hidden(backbone, "policy")
    with backbone.role("policy", train=True):
        assert torch.equal(backbone.hidden(*inputs(backbone)).last_hidden_state, sampled)


def test_padding_does_not_move_a_row(tiny_model: Path) -> None:
    backbone = make(tiny_model)
    ids, mask = inputs(backbone)
    pad = torch.full((1, 5), backbone.chat.pad_id)
    with torch.no_grad(), backbone.role("base"):
        alone = backbone.hidden(ids, mask).last_hidden_state
        left = backbone.hidden(torch.cat([pad, ids], 1), torch.cat([torch.zeros_like(pad), mask], 1))
        right = backbone.hidden(torch.cat([ids, pad], 1), torch.cat([mask, torch.zeros_like(pad)], 1))
    assert torch.allclose(left.last_hidden_state[:, 5:], alone, atol=1e-5)
    assert torch.allclose(right.last_hidden_state[:, :-5], alone, atol=1e-5)


def test_files_round_trip_and_refuse_what_is_foreign(tiny_model: Path, other_tiny_model: Path, tmp_path: Path) -> None:
    backbone = make(tiny_model)
    backbone.add_role("reward", seed=0)
    disturb(backbone, "reward", 3)
    backbone.scales["reward"] = (2.0, -1.0)
    digest = save_role(backbone, "reward", tmp_path / "reward")
    again = make(tiny_model)
    load_role(again, "reward", tmp_path / "reward")
    assert again.scales["reward"] == (2.0, -1.0)
    for name, value in backbone.weights("reward").items():
        assert torch.equal(value, again.weights("reward")[name])
    assert save_role(again, "reward", tmp_path / "copy") == digest
    with pytest.raises(SetupError, match="belongs to another base model"):
        load_role(make(other_tiny_model), "reward", tmp_path / "reward")
    path = tmp_path / "reward" / "adapter.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(SetupError, match="damaged"):
        load_role(make(tiny_model), "reward", tmp_path / "reward")


def test_a_missing_model_is_one_sentence() -> None:
    with pytest.raises(SetupError, match="cannot be loaded"):
        Backbone(BackboneConfig(model="/nowhere/at/all", quantization="none"))
