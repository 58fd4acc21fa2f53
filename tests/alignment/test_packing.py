"""Packing: every text once, never over the capacity, and nothing else than the shape of the computation changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alignment.backbone import Backbone
from alignment.batch import pad, token_logprobs, width_of
from alignment.config import BackboneConfig, LoraSettings
from alignment.packing import bins, pack

TEXTS = [list(range(5, 5 + n)) for n in (9, 3, 14, 6, 2, 11)]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=40), st.integers(1, 40))
def test_bins(lengths: list[int], capacity: int) -> None:
    found = bins(lengths, capacity)
    assert sorted(i for group in found for i in group) == list(range(len(lengths)))
    loads = [sum(lengths[i] for i in group) for group in found]
    assert all(load <= capacity or len(group) == 1 for load, group in zip(loads, found, strict=True))
    # first fit: what opened a later bin had no room in an earlier one
    assert all(a + b > capacity for i, a in enumerate(loads) for b in loads[i + 1 :])


def test_bins_by_hand() -> None:
    assert bins([4, 8, 1, 4, 2, 1], 10) == [[1, 4], [0, 3, 2, 5]]
    assert bins([30, 2], 10) == [[0], [1]]


def test_a_packed_batch_by_hand() -> None:
    got = pack([[7, 8, 9], [5, 6], [4, 3, 2]], [[-100, 8, 9], [-100, 6], [4, 3, 2]], 5, 0)
    no = -100  # no loss; the width is the next multiple of 8
    assert got["input_ids"].tolist() == [[7, 8, 9, 5, 6, 0, 0, 0], [4, 3, 2, 0, 0, 0, 0, 0]]
    assert got["labels"].tolist() == [[no, 8, 9, no, 6, no, no, no], [no, 3, 2, no, no, no, no, no]]
    assert got["position_ids"].tolist() == [[0, 1, 2, 0, 1, 0, 1, 2], [0, 1, 2, 0, 1, 2, 3, 4]]
    assert got["attention_mask"].tolist() == [[1, 1, 1, 1, 1, 0, 0, 0], [1, 1, 1, 0, 0, 0, 0, 0]]


def test_widths() -> None:
    assert [width_of(n) for n in (1, 7, 8, 9, 80)] == [8, 8, 8, 16, 80]


def make(path: Path) -> Backbone:
    backbone = Backbone(
        BackboneConfig(model=str(path), quantization="none", compute_dtype="float32", lora=LoraSettings(rank=4))
    )
    backbone.add_role("sft", seed=0)
    generator = torch.Generator().manual_seed(1)
    for parameter in backbone.parameters("sft"):
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    return backbone


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_losses_and_gradients_are_those_of_separate_rows(tiny_model: Path, attention: str) -> None:
    backbone = make(tiny_model)
    backbone.causal_lm.set_attn_implementation(attention)
    labels = [[-100, -100, *text[2:]] for text in TEXTS]

    def losses(inputs: dict[str, torch.Tensor]) -> tuple[list[float], list[torch.Tensor]]:
        wanted = inputs["labels"] != -100
        with backbone.role("sft", train=True):
            logp = token_logprobs(
                backbone, inputs["input_ids"], inputs["attention_mask"], wanted, positions=inputs.get("position_ids")
            )
            (-logp.sum() / wanted.sum()).backward()
        gradients = [p.grad.clone() for p in backbone.parameters("sft") if p.grad is not None]
        for parameter in backbone.parameters("sft"):
            parameter.grad = None
        return sorted(logp[wanted].tolist()), gradients

    ids, mask = pad(TEXTS, backbone.chat.pad_id)
    apart, want = losses({"input_ids": ids, "attention_mask": mask, "labels": pad(labels, -100)[0]})
    packed = pack(TEXTS, labels, 20, backbone.chat.pad_id)
    assert packed["input_ids"].shape[0] == 3
    together, got = losses(packed)
    assert together == pytest.approx(apart, abs=1e-5)
    assert len(got) == len(want) == len(backbone.parameters("sft"))
    for a, b in zip(got, want, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5 * b.abs().max().item())


def test_a_text_does_not_see_its_neighbours(tiny_model: Path) -> None:
    backbone = make(tiny_model)
    other = [*TEXTS[:2], [100 + i for i in TEXTS[2]], *TEXTS[3:]]
    with backbone.role("sft"), torch.no_grad():
        states = []
        for texts in (TEXTS, other):
            packed = pack(texts, texts, 45, backbone.chat.pad_id)
            states.append(backbone.hidden_packed(packed["input_ids"], packed["position_ids"])[0])
    changed = slice(0, 14)  # the longest text comes first
    assert not torch.equal(states[0][changed], states[1][changed])
    assert torch.equal(states[0][14:], states[1][14:])
