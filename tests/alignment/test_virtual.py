"""Virtual tokens: what they start as, that every way of reading a text with them agrees, what they refuse."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import DynamicCache

from alignment.adapter_files import load_role, save_role
from alignment.backbone import Backbone
from alignment.config import BackboneConfig, VirtualTokens
from alignment.engine import Engine, Request
from alignment.errors import SetupError

TEXT = [{"role": "user", "content": "4 7 8 8"}]
KINDS = ("prefix", "prompt")


def make(path: Path, kind: str, count: int = 5, text: list[int] | None = None) -> Backbone:
    backbone = Backbone(BackboneConfig(model=str(path), quantization="none", compute_dtype="float32"))
    backbone.add_role("sft", seed=0, tokens=VirtualTokens(kind=kind, count=count), text=text)
    return backbone


def ids_of(backbone: Backbone) -> torch.Tensor:
    return torch.tensor([backbone.chat.prompt_ids(TEXT)])


def hidden(backbone: Backbone, role: str, ids: torch.Tensor) -> torch.Tensor:
    with backbone.role(role), torch.no_grad():
        return backbone.hidden(ids, torch.ones_like(ids)).last_hidden_state


@pytest.mark.parametrize("kind", KINDS)
def test_before_training_the_text_is_read_as_after_real_tokens(tiny_model: Path, kind: str) -> None:
    """Keys and values of real tokens, or their embeddings, at positions 0..V-1: the closed form of the start."""
    before = [5, 11, 7, 60, 9, 200, 8]
    backbone = make(tiny_model, kind, count=10, text=before)
    ids = ids_of(backbone)
    real = torch.tensor([[*before, *before[:3], *ids[0].tolist()]])  # a text that is too short is begun again
    want = hidden(backbone, "base", real)[:, 10:]
    assert torch.allclose(hidden(backbone, "sft", ids), want, atol=1e-5)
    assert not torch.allclose(hidden(backbone, "base", ids), want, atol=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_it_agrees_with_pefts_own_forward(tiny_model: Path, kind: str) -> None:
    backbone = make(tiny_model, kind)  # PEFT's random start
    ids = ids_of(backbone)
    with backbone.role("sft"), torch.no_grad():
        want = backbone.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, -ids.shape[1] :]
        got = backbone.logits(backbone.hidden(ids, torch.ones_like(ids)).last_hidden_state)
    assert torch.allclose(got, want, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_and_a_cache_do_not_move_a_row(tiny_model: Path, kind: str) -> None:
    backbone = make(tiny_model, kind)
    ids = ids_of(backbone)
    alone = hidden(backbone, "sft", ids)
    pad, none = torch.full((1, 4), backbone.chat.pad_id), torch.zeros((1, 4), dtype=torch.long)
    one = torch.ones_like(ids)
    with backbone.role("sft"), torch.no_grad():
        left = backbone.hidden(torch.cat([pad, ids], 1), torch.cat([none, one], 1)).last_hidden_state
        right = backbone.hidden(torch.cat([ids, pad], 1), torch.cat([one, none], 1)).last_hidden_state
        cache = DynamicCache(config=backbone.model.config)
        first = backbone.hidden(ids[:, :6], one[:, :6], cache).last_hidden_state
        rest = backbone.hidden(ids[:, 6:], one, cache).last_hidden_state
    assert torch.allclose(left[:, 4:], alone, atol=1e-5)
    assert torch.allclose(right[:, :-4], alone, atol=1e-5)
    assert torch.allclose(torch.cat([first, rest], 1), alone, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_engine_writes_with_them(tiny_model: Path, kind: str) -> None:
    """Alone and in a batch with a shared prefix the same greedy tokens, and those of a forward without a cache."""
    backbone = make(tiny_model, kind)
    prompts = [[{"role": "user", "content": text}] for text in ("4 7 8 8", "4 7 8 9", "the quick brown fox")]
    requests = [Request(prompt, role="sft", max_tokens=5, temperature=0.0) for prompt in prompts]
    with Engine(backbone) as engine:
        together = [done.ids for done in engine.generate(requests)]
        assert together == [engine.generate([request])[0].ids for request in requests]
        assert engine.roles == ("base", "sft")
    ids = backbone.chat.prompt_ids(prompts[0])
    for token in together[0]:
        states = hidden(backbone, "sft", torch.tensor([ids]))
        assert backbone.logits(states[:, -1]).argmax().item() == token
        ids.append(token)


@pytest.mark.parametrize("kind", KINDS)
def test_files_round_trip(tiny_model: Path, other_tiny_model: Path, tmp_path: Path, kind: str) -> None:
    backbone = make(tiny_model, kind)
    digest = save_role(backbone, "sft", tmp_path / "sft")
    again = Backbone(backbone.config)
    load_role(again, "sft", tmp_path / "sft")
    ids = ids_of(backbone)
    assert torch.equal(hidden(again, "sft", ids), hidden(backbone, "sft", ids))
    assert save_role(again, "sft", tmp_path / "copy") == digest
    with pytest.raises(SetupError, match="belongs to another base model"):
        load_role(Backbone(BackboneConfig(model=str(other_tiny_model), quantization="none")), "sft", tmp_path / "sft")


def test_adapter_kinds_do_not_mix(tiny_model: Path) -> None:
    with pytest.raises(SetupError, match="tuned by prefix tokens.*cannot have the role 'reward'"):
        make(tiny_model, "prefix").add_role("reward", seed=0)
    backbone = Backbone(BackboneConfig(model=str(tiny_model), quantization="none"))
    backbone.add_role("sft", seed=0)
    with pytest.raises(SetupError, match="cannot put virtual tokens on it as 'policy'"):
        backbone.add_role("policy", seed=0, tokens=VirtualTokens(kind="prompt", count=2))
