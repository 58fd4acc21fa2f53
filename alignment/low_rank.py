"""LoRA's arithmetic in the dtype of the layer's input, from weights that stay in float32.

PEFT multiplies in the adapter's dtype: for float32 adapters on a bfloat16 model every layer copies its input to
float32, keeps the copy for the backward pass (q, k and v keep three), and adds in float32. Here the small matrices
are cast instead, as autocast does it in QLoRA (arXiv 2305.14314, section 3), and the sum is one matrix product.
"""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora.layer import LoraLayer, LoraVariant
from torch import Tensor, nn

from alignment.config import LoraSettings


def adapter_config(lora: LoraSettings) -> LoraConfig:
    """Adapters on every linear layer but the output embedding."""
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=0.0,  # dropout would move the PPO ratio before any update
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


class ComputeDtype(LoraVariant):
    """y + (alpha / r) x A' B' for inputs x [..., in] and outputs y [..., out] of the base layer, of one dtype."""

    @staticmethod
    def forward(module: Any, active_adapter: str, x: Tensor, result: Tensor, **kwargs: Any) -> Tensor:
        a, b = (part[active_adapter].weight.to(x.dtype) for part in (module.lora_A, module.lora_B))
        low = nn.functional.linear(x, a).flatten(0, -2)
        added = torch.addmm(result.flatten(0, -2), low, b.t(), alpha=module.scaling[active_adapter])
        return added.view(result.shape)


def attach(model: nn.Module, role: str) -> None:
    """Gives ``role``'s LoRA layers this arithmetic. Their weights, files and merging stay PEFT's."""
    for module in model.modules():
        if isinstance(module, LoraLayer) and role in module.lora_A:
            module.lora_variant[role] = ComputeDtype()
            module.cast_input_dtype_enabled = False
