"""Log-probabilities and entropies do not depend on how many positions get their logits at once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from alignment import batch
from alignment.backbone import Backbone
from alignment.config import BackboneConfig, LoraSettings


@pytest.mark.parametrize("entropy", ["none", "value", "grad"])
def test_in_parts_as_at_once(tiny_model: Path, monkeypatch: pytest.MonkeyPatch, entropy: str) -> None:
    config = BackboneConfig(model=str(tiny_model), quantization="none", compute_dtype="float32", lora=LoraSettings())
    backbone = Backbone(config)
    states = torch.randn(11, backbone.hidden_size, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    targets = torch.arange(11)

    def measured() -> list[torch.Tensor]:
        logp, entropies = batch.of_targets(backbone, states, targets, 0.7, entropy)
        (gradient,) = torch.autograd.grad((logp + 0.3 * entropies).sum(), states)
        return [logp, entropies, gradient]

    whole = measured()
    monkeypatch.setattr(batch, "PART", 4)
    parts = measured()
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    reference = (backbone.logits(states) / 0.7).log_softmax(-1)
    torch.testing.assert_close(whole[0], reference[torch.arange(11), targets])
    if entropy != "none":
        torch.testing.assert_close(whole[1], torch.distributions.Categorical(logits=reference).entropy())
    with torch.no_grad():
        torch.testing.assert_close(batch.of_targets(backbone, states, targets, 0.7)[0], whole[0])
