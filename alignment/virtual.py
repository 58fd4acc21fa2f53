"""Virtual tokens: trained vectors that stand before every text, in PEFT's encoders.

Prefix tuning (Li and Liang 2021, arXiv 2101.00190) trains the keys and values of every layer, prompt tuning (Lester
et al. 2021, arXiv 2104.08691) the input embeddings. Both start from real tokens: their keys and values, or their
embeddings, so that before any training the model reads the text as if those tokens stood before it.
"""

from __future__ import annotations

from typing import Any

import torch
from peft import PeftConfig, PrefixTuningConfig, PromptTuningConfig
from torch import Tensor
from transformers import DynamicCache

from alignment.config import VirtualTokens

States = list[tuple[Tensor, Tensor]]


def encoder_config(virtual: VirtualTokens) -> PeftConfig:
    kind = {"prefix": PrefixTuningConfig, "prompt": PromptTuningConfig}[virtual.kind]
    return kind(task_type="CAUSAL_LM", num_virtual_tokens=virtual.count)


def real_tokens(text: list[int], count: int) -> list[int]:
    """``count`` ids of ``text``, from its start, over again where it is shorter."""
    return [text[i % len(text)] for i in range(count)]


def start_from(causal_lm: Any, kind: str, ids: list[int]) -> Tensor:
    """float32 [V, D]: the encoder's weight that stands for the V tokens ``ids``.

    D is the hidden size for a prompt; for a prefix it is layers times 2 (keys, values) times the size of both.
    """
    tokens = torch.tensor([ids], device=causal_lm.device)
    with torch.no_grad():
        if kind == "prompt":
            return causal_lm.get_input_embeddings()(tokens)[0].float()
        cache = causal_lm.get_decoder()(input_ids=tokens, use_cache=True).past_key_values
        # [1, heads, V, head] each, in the order that PEFT keeps them in: layer, keys or values, head
        states = [part[0].transpose(0, 1).flatten(1) for layer in cache.layers for part in (layer.keys, layer.values)]
    return torch.cat(states, dim=1).float()


def key_values(weight: Tensor, layers: int, heads: int, dtype: torch.dtype) -> States:
    """Keys and values [1, heads, V, head] of every layer from a prefix encoder's weight [V, layers * 2 * size]."""
    parts = weight.to(dtype).view(weight.shape[0], layers, 2, heads, -1).permute(1, 2, 3, 0, 4).unsqueeze(2)
    return [(keys, values) for keys, values in parts]


def put_before(cache: DynamicCache, states: States, rows: int) -> DynamicCache:
    """The empty ``cache`` with ``states`` in it, for ``rows`` texts."""
    for layer, (keys, values) in enumerate(states):
        cache.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), layer)
    return cache
