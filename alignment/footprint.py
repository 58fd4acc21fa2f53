"""Bytes that a training holds: what stands all the time, and what a step allocates, counted on fake tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache

from alignment.backbone import Backbone
from alignment.batch import of_targets
from alignment.shapes import Held, Quantized, faked, linear_layers


@dataclass(frozen=True)
class Batch:
    """What goes through the model at once: rows [B] of tokens [T], of which ``losses`` positions get logits, or a
    scalar each under a role with a head (0: one a row)."""

    rows: int
    tokens: int
    losses: int
    packed: bool = False
    entropy: str = "none"  # as in ``alignment.batch.of_targets``


def nbytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def weight_bytes(backbone: Backbone) -> int:
    """The base model in its storage. 4 bits: half a byte a weight, a byte of scale for 64, a float32 for 256 scales
    (double quantization); 8 bits: a byte a weight, a float32 of scale a row."""
    model = backbone.causal_lm
    quantized = [m for m in linear_layers(model).values() if isinstance(m, Quantized)]
    apart = {id(m.weight) for m in quantized}
    own = {id(p): p for n, p in model.named_parameters() if "lora_" not in n and id(p) not in apart}
    total = sum(nbytes(p) for p in own.values())
    for layer in quantized:
        size = layer.weight.numel()
        if backbone.config.quantization == "nf4":
            scales = math.ceil(size / 64)
            total += math.ceil(size / 2) + scales + 4 * math.ceil(scales / 256)
        else:
            total += size + 4 * layer.out_features
    return total


def moment_bytes(trained: Sequence[Tensor], optimizer: str) -> int:
    """Two moments of each trained parameter, in float32; with an 8-bit optimizer in a byte each and a float32 of
    scale for 256, for tensors of at least 4,096 elements."""
    total = 0
    for parameter in trained:
        size = parameter.numel()
        eight = optimizer.endswith("8bit") and size >= 4096
        total += 2 * (size + 4 * math.ceil(size / 256)) if eight else 8 * size
    return total


# -- what a step holds --------------------------------------------------------------------------------------


def step_bytes(backbone: Backbone, role: str, batch: Batch, device: str, checkpointing: bool) -> dict[str, int]:
    """Bytes of one forward and backward beside weights, adapters and moments: kept ``activations`` and ``logits``,
    and the ``peak`` of everything, gradients included."""
    mode = faked(backbone, device)
    with backbone.role(role, train=True, checkpointing=checkpointing), mode, Held(_tensors(backbone)) as held:
        with backbone.compute():
            states = _states(backbone, batch)
            activations = held.now
            loss = _loss(backbone, role, states, batch)
            del states
        kept = held.now
        loss.backward()
        del loss
        for parameter in backbone.parameters(role):
            parameter.grad = None
    return {"activations": activations, "logits": max(0, kept - activations), "peak": held.peak}


def evaluation_bytes(backbone: Backbone, role: str, batch: Batch, device: str) -> int:
    """Peak of a forward without gradients."""
    mode = faked(backbone, device)
    with torch.no_grad(), backbone.role(role), mode, Held(_tensors(backbone)) as held, backbone.compute():
        _loss(backbone, role, _states(backbone, batch), batch)
    return held.peak


def _tensors(backbone: Backbone) -> list[Tensor]:
    modules = (backbone.model, *backbone.heads.values())
    return [t for module in modules for t in (*module.parameters(), *module.buffers())]


def _states(backbone: Backbone, batch: Batch) -> Tensor:
    ids = torch.zeros((batch.rows, batch.tokens), dtype=torch.long, device=backbone.device)
    if batch.packed:
        return backbone.hidden_packed(ids, torch.zeros_like(ids))
    return backbone.hidden(ids, torch.ones_like(ids)).last_hidden_state


def _loss(backbone: Backbone, role: str, states: Tensor, batch: Batch) -> Tensor:
    """The operations of ``alignment.batch.of_targets``, or of the scores, at as many positions."""
    if role in backbone.heads:
        read = states.flatten(0, 1)[: batch.losses] if batch.losses else states[:, -1]
        return backbone.scalar(role, read).sum()
    count = min(batch.losses, batch.rows * (batch.tokens - 1))
    place = torch.zeros((count,), dtype=torch.long, device=states.device)
    logp, entropies = of_targets(backbone, states[:, :-1].flatten(0, 1)[place], place, 1.0, batch.entropy)
    return (entropies - logp).sum()


def sampling_bytes(backbone: Backbone, role: str, rows: int, tokens: int, device: str) -> tuple[int, int]:
    """The cache of keys and values when ``rows`` of ``tokens`` are written to the end, and the peak of the last step,
    the cache in it."""
    mode = faked(backbone, device)
    with torch.no_grad(), backbone.role(role), mode, Held(_tensors(backbone)) as held:
        cache = DynamicCache(config=backbone.causal_lm.config)
        text = backbone.causal_lm.config.get_text_config()
        size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        dtype = backbone.causal_lm.get_output_embeddings().weight.dtype
        for layer in range(text.num_hidden_layers):
            shape = (rows, text.num_key_value_heads, tokens - 1, size)
            cache.update(*(torch.empty(shape, dtype=dtype, device=device) for _ in range(2)), layer)
        kept = held.now
        ids = torch.zeros((rows, 1), dtype=torch.long, device=device)
        mask = torch.ones((rows, tokens), dtype=torch.long, device=device)
        backbone.logits(backbone.hidden(ids, mask, cache).last_hidden_state[:, -1]).log_softmax(-1)
    return kept, held.peak
