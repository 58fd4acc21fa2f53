"""Log-probabilities and entropies from logits of a few places at a time: as from all logits, and their gradients."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from alignment import batch
from alignment.backbone import Backbone
from alignment.config import BackboneConfig, LoraSettings


@pytest.mark.parametrize("entropy_grad", [False, True])
@pytest.mark.parametrize("part", [1, 4, 64])  # of 11 places: each alone, a rest of 3, all
def test_parts_give_what_the_whole_gives(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, part: int, entropy_grad: bool
) -> None:
    monkeypatch.setattr(batch, "HEAD_PART", part)
    settings = LoraSettings(rank=4)
    backbone = Backbone(
        BackboneConfig(model=str(tiny_model), quantization="none", compute_dtype="float32", lora=settings)
    )
    backbone.add_role("policy", seed=0)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 290, (3, 9), generator=generator)
    mask, wanted = torch.ones_like(ids), torch.zeros((3, 9), dtype=torch.bool)
    wanted[0, 2:7] = wanted[1, 5:] = wanted[2, 1:3] = True
    weights = torch.randn((2, 3, 9), generator=generator)
    found = []
    for whole in (False, True):
        with backbone.role("policy", train=True):
            if whole:
                states = backbone.hidden(ids, mask).last_hidden_state
                every = (backbone.logits(states[:, :-1]) / 0.7).log_softmax(-1)
                logp = every.gather(-1, ids[:, 1:, None]).squeeze(-1) * wanted[:, 1:]
                measured = every if entropy_grad else every.detach()
                entropy = -(measured.exp() * measured).sum(-1) * wanted[:, 1:]
                logp, entropy = (torch.nn.functional.pad(x, (1, 0)) for x in (logp, entropy))
            else:
                logp, entropy = batch.token_logprobs_and_entropy(backbone, ids, mask, wanted, 0.7, entropy_grad)
            (weights[0] * logp + weights[1] * entropy).sum().backward()
            gradients = [p.grad.clone() for p in backbone.parameters("policy") if p.grad is not None]
            for parameter in backbone.parameters("policy"):
                parameter.grad = None
        found.append((logp.detach(), entropy.detach(), torch.cat([g.flatten() for g in gradients])))
    for got, want in zip(*found, strict=True):
        assert (got - want).norm() <= 1e-5 * want.norm()
    assert entropy.requires_grad == entropy_grad
