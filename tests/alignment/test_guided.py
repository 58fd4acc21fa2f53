"""Choosing among continuations by a head of the model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from alignment.backbone import Backbone
from alignment.config import BackboneConfig, LoraSettings
from alignment.decoding import Request
from alignment.engine import Engine
from alignment.errors import SetupError
from alignment.guided import guided

PROMPTS = [[{"role": "user", "content": text}] for text in ("4 7 8 8", "the quick brown fox")]


def make(model: Path) -> Backbone:
    config = BackboneConfig(model=str(model), quantization="none", compute_dtype="float32", lora=LoraSettings(rank=4))
    backbone = Backbone(config)
    backbone.add_role("sft", seed=0)
    backbone.add_role("policy", seed=0, copy_of="sft")
    backbone.add_role("value", seed=1)
    return backbone


def test_one_step_of_it_is_best_of_k(tiny_model: Path) -> None:
    """By hand: sample k, score them, keep the best; every prompt for itself."""
    with Engine(make(tiny_model)) as engine:
        chosen = guided(engine, PROMPTS, 5, 1, 6, 1.0, "s", stop=())
        for i, prompt in enumerate(PROMPTS):
            requests = [Request(prompt, max_tokens=6, seed=f"s/{i}/0/{j}") for j in range(5)]
            texts = [done.text for done in engine.generate(requests)]
            values = engine.score([prompt] * 5, texts, role="value")
            assert chosen[i].text == texts[values.index(max(values))]
            assert chosen[i].score == pytest.approx(max(values), abs=1e-5)


def test_each_step_goes_on_from_the_one_chosen(tiny_model: Path) -> None:
    with Engine(make(tiny_model)) as engine:
        one = guided(engine, PROMPTS, 4, 1, 3, 1.0, "s", stop=())
        two = guided(engine, PROMPTS, 4, 2, 3, 1.0, "s", stop=())
    for a, b in zip(one, two, strict=True):
        assert b == a if a.ended else b.text.startswith(a.text) and b.tokens > a.tokens


def test_more_candidates_have_a_higher_maximum(tiny_model: Path) -> None:
    """With more candidates the chosen value rises: the maximum of more samples from the same stream."""
    backbone = make(tiny_model)
    with torch.no_grad():
        backbone.heads["value"].weight.mul_(10)
    with Engine(backbone) as engine:
        few = guided(engine, PROMPTS, 2, 1, 6, 1.0, "s", stop=())
        many = guided(engine, PROMPTS, 16, 1, 6, 1.0, "s", stop=())
    assert all(b.score >= a.score for a, b in zip(few, many, strict=True))
    assert any(b.score > a.score for a, b in zip(few, many, strict=True))


def test_without_a_value_head_it_says_so(tiny_model: Path) -> None:
    backbone = Backbone(BackboneConfig(model=str(tiny_model), quantization="none", compute_dtype="float32"))
    with Engine(backbone) as engine, pytest.raises(SetupError, match="no value head"):
        guided(engine, PROMPTS, 2, 1, 4, 1.0, "s", role="base")
