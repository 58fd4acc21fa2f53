"""A forward for decoding: the arithmetic of a Llama-shaped decoder on tokens of many sequences laid end to end.

transformers' ``generate`` spends most of a decoding step on a CPU outside of its matrix products: masks and caches are
made anew, padding is computed, and the adapters add two small products to each layer. Here linear layers see all tokens
of all rows as one matrix without padding, each row's keys and values stay in a slot of its own, and the adapter can be
merged into a copy of the weights. No gradients. Formulas: Llama (arXiv 2302.13971, section 2.2), rotary embedding
(arXiv 2104.09864, equation 34), grouped queries (arXiv 2305.13245).
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from alignment.backbone import Backbone
from alignment.weights import DTYPES, dequantized

ARCHITECTURES = ("LlamaModel", "Qwen2Model")
GROW = 64  # positions; the room of a slot is a multiple of it
FEW = 2  # rows, up to which torch's fused attention is the faster one
SHORT = 16  # new tokens of a row, up to which rows of different lengths are padded
PACKS = torch.backends.mkldnn.is_available() and platform.machine() in ("x86_64", "AMD64")


class Span(NamedTuple):
    """``length`` new tokens of one row, from position ``start`` on, whose keys and values go into ``slot``."""

    slot: int
    start: int
    length: int


class States(NamedTuple):
    """Keys [layers, (slots,) kv heads, head size, positions] and values [layers, (slots,) kv heads, positions, head
    size]: as the two products of attention read them, each row of a matrix in one piece."""

    keys: Tensor
    values: Tensor

    @property
    def nbytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes


class Slots:
    """Keys and values of rows, each in a slot."""

    def __init__(self, layers: int, heads: int, size: int, dtype: torch.dtype) -> None:
        self.states = States(
            torch.empty((layers, 0, heads, size, 0), dtype=dtype), torch.empty((layers, 0, heads, 0, size), dtype=dtype)
        )

    def fit(self, rows: int, positions: int) -> None:
        """Room for so many rows of so many positions; what is there stays."""
        keys, values = self.states
        layers, had_rows, heads, had, size = values.shape
        if rows <= had_rows and positions <= had:
            return
        if positions > had:  # by half at least, or a long row would be copied over and over
            positions = max(-(-positions // GROW) * GROW, had + had // 2)
        rows, positions = max(rows, had_rows), max(positions, had)
        self.states = States(
            keys.new_zeros((layers, rows, heads, size, positions)),
            values.new_zeros((layers, rows, heads, positions, size)),
        )
        self.states.keys[:, :had_rows, ..., :had] = keys
        self.states.values[:, :had_rows, :, :had] = values

    def copy(self, source: int, target: int, positions: int) -> None:
        self.put(target, States(*(part[:, source] for part in self.states)), positions)

    def take(self, slot: int, positions: int) -> States:
        """A copy of the first positions of a slot."""
        keys, values = self.states
        return States(keys[:, slot, ..., :positions].clone(), values[:, slot, :, :positions].clone())

    def put(self, slot: int, kept: States, positions: int) -> None:
        self.states.keys[:, slot, ..., :positions] = kept.keys[..., :positions]
        self.states.values[:, slot, :, :positions] = kept.values[:, :, :positions]


class _Linear(NamedTuple):
    """x W' + b, and s x A' B' where an adapter stands beside the weight, which oneDNN may have packed."""

    weight: Tensor
    bias: Tensor | None
    a: Tensor | None = None
    b: Tensor | None = None  # with the scale in it

    def __call__(self, x: Tensor) -> Tensor:
        if self.weight.is_mkldnn:
            return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        out = functional.linear(x, self.weight, self.bias)
        if self.a is not None and self.b is not None:
            out = torch.addmm(out, x @ self.a, self.b)
        return out


class _Layer(NamedTuple):
    before: Tensor  # weights of the two norms
    after: Tensor
    qkv: Sequence[_Linear]
    o: Sequence[_Linear]
    gate_up: Sequence[_Linear]
    down: Sequence[_Linear]


def knows(backbone: Backbone, role: str, copies: bool) -> bool:
    """Whether ``LeanDecoder`` computes this model's forward; without ``copies`` not that of a quantized one."""
    decoder = backbone.causal_lm.get_decoder()
    config = decoder.config
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    return (
        type(decoder).__name__ in ARCHITECTURES
        and (config.hidden_act, rope, kinds) == ("silu", "default", {"full_attention"})
        and role not in backbone.virtual
        and backbone.device.type == "cpu"
        and (copies or backbone.config.quantization == "none")
    )


def copy_bytes(backbone: Backbone) -> int:
    """Bytes of all linear layers in the compute dtype: those of a merged copy."""
    return DTYPES[backbone.config.compute_dtype].itemsize * backbone.linear_parameters


class LeanDecoder:
    """The forward of one role. It holds the weights as they were when it was made."""

    def __init__(self, backbone: Backbone, role: str, merged: bool) -> None:
        """``merged``: a copy of the weights with the adapter in them, in the compute dtype; otherwise the model's own
        weights (quantized ones are unpacked into a copy all the same) and the adapter beside them."""
        decoder = backbone.causal_lm.get_decoder()
        self.dtype = DTYPES[backbone.config.compute_dtype]
        self.config = decoder.config
        self.embedding: Tensor = decoder.embed_tokens.weight
        self.head_size = getattr(self.config, "head_dim", None) or decoder.config.hidden_size // self.query_heads
        self.layers = [_layer(layer, role, merged, self.dtype) for layer in decoder.layers]
        self.norm: Tensor = decoder.norm.weight
        self.head = _head(backbone.causal_lm.get_output_embeddings(), merged)
        self.rotary = decoder.rotary_emb
        self._angles = (torch.empty(0), torch.empty(0))

    @property
    def query_heads(self) -> int:
        return self.config.num_attention_heads

    @property
    def kv_heads(self) -> int:
        return self.config.num_key_value_heads

    @property
    def position_bytes(self) -> int:
        """Bytes of the keys and values of one token."""
        return 2 * len(self.layers) * self.kv_heads * self.head_size * self.dtype.itemsize

    def slots(self) -> Slots:
        return Slots(len(self.layers), self.kv_heads, self.head_size, self.dtype)

    def __call__(self, ids: Tensor, spans: Sequence[Span], slots: Slots) -> Tensor:
        """Hidden states [N, H] of ``ids`` int64 [N], the new tokens of ``spans`` one after the other. Their keys and
        values join those that their slots hold already."""
        slots.fit(max(s.slot for s in spans) + 1, max(s.start + s.length for s in spans))
        positions = torch.cat([torch.arange(s.start, s.start + s.length) for s in spans])
        rows = torch.tensor([s.slot for s in spans]).repeat_interleave(torch.tensor([s.length for s in spans]))
        cos, sin = (part[positions].unsqueeze(1) for part in self._rotation(int(positions.max()) + 1))
        in_order = [s.slot for s in spans] == list(range(len(spans)))
        short = in_order and max(s.length for s in spans) <= SHORT and len(spans) > FEW
        mask = _lengths_mask(spans, self.kv_heads, self.query_heads, self.dtype) if short else None
        offsets = positions - torch.tensor([s.start for s in spans])[rows] if short else None
        count, epsilon, rotated = len(ids), self.config.rms_norm_eps, self.query_heads + self.kv_heads
        x = functional.embedding(ids, self.embedding)
        for layer, keys, values in zip(self.layers, *slots.states, strict=True):
            states = _apply(layer.qkv, _rms_norm(x, layer.before, epsilon)).view(count, -1, self.head_size)
            _rotate(states[:, :rotated], cos, sin)
            queries, own_keys, own_values = states.split((self.query_heads, self.kv_heads, self.kv_heads), dim=1)
            keys[rows, :, :, positions] = own_keys
            values[rows, :, positions] = own_values
            if mask is not None and offsets is not None:
                there = States(keys[: len(spans)], values[: len(spans)])
                mixed = _attend_padded(queries, there, mask, rows, offsets)
            else:
                mixed = _attend(queries, spans, States(keys, values))
            x = x + _apply(layer.o, mixed.reshape(count, -1))
            gate, up = _apply(layer.gate_up, _rms_norm(x, layer.after, epsilon)).chunk(2, dim=-1)
            x = x + _apply(layer.down, functional.silu(gate).mul_(up))
        return _rms_norm(x, self.norm, epsilon)

    def logits(self, hidden: Tensor) -> Tensor:
        """float32 [N, V] of hidden states [N, H]."""
        return self.head(hidden).float()

    def _rotation(self, positions: int) -> tuple[Tensor, Tensor]:
        """Cosines, and sines with the sign of their half, [positions, head size], from the model's own module."""
        if len(self._angles[0]) < positions:
            wanted = torch.arange(-(-positions // 256) * 256).unsqueeze(0)
            cos, sin = (part[0] for part in self.rotary(self.embedding[:1], wanted))
            sin[:, : self.head_size // 2].neg_()
            self._angles = cos, sin
        return self._angles


def _attend_padded(queries: Tensor, seen: States, mask: Tensor, rows: Tensor, offsets: Tensor) -> Tensor:
    """[N, heads, head size]: each token, number ``offsets`` of the new ones of its row, on what that row's slot holds
    up to it. The queries of one group are the rows of a matrix: all see the same keys. On 32 rows of one token and 160
    positions a third of the time of torch's fused attention, which is made for many queries; scores are rounded to the
    dtype, as in transformers' own attention on a CPU."""
    (count, heads), size, (many, length) = seen.keys.shape[:2], queries.shape[-1], mask.shape[-2:]
    keys, values = seen.keys.flatten(0, 1)[..., :length], seen.values.flatten(0, 1)[:, :length]
    if len(queries) == count:  # one of each row, in order
        scores = torch.baddbmm(mask, queries.reshape(count * heads, -1, size), keys, alpha=size**-0.5)
        return torch.bmm(scores.softmax(-1), values).view(queries.shape)
    padded = queries.new_zeros((count, heads, int(offsets.max()) + 1, queries.shape[1] // heads, size))
    padded[rows, :, offsets] = queries.view(len(queries), heads, -1, size)
    scores = torch.baddbmm(mask, padded.view(count * heads, many, size), keys, alpha=size**-0.5)
    mixed = torch.bmm(scores.softmax(-1), values).view(padded.shape)
    return mixed[rows, :, offsets].view(queries.shape)


def _attend(queries: Tensor, spans: Sequence[Span], seen: States) -> Tensor:
    """[N, heads, head size]: the tokens of each span on what its slot holds up to them."""
    mixed = []
    for (slot, start, length), own in zip(spans, queries.split([s.length for s in spans]), strict=True):
        keys = seen.keys[slot, ..., : start + length].transpose(-1, -2).contiguous()
        values = seen.values[slot, :, : start + length]
        mask = torch.ones((length, start + length), dtype=torch.bool).tril(start) if start and length > 1 else None
        out = functional.scaled_dot_product_attention(
            own.transpose(0, 1).unsqueeze(0), keys[None], values[None], mask, is_causal=not start, enable_gqa=True
        )
        mixed.append(out[0].transpose(0, 1))
    return torch.cat(mixed)


def _apply(linears: Sequence[_Linear], x: Tensor) -> Tensor:
    return linears[0](x) if len(linears) == 1 else torch.cat([one(x) for one in linears], dim=-1)


def _rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    if x.dtype == torch.float32:  # elsewhere torch's rounds once, and the models, as this below, twice
        return functional.rms_norm(x, weight.shape, weight, epsilon)
    wide = x.float()
    return weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)).to(x.dtype)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> None:
    """In place, of [N, heads, head size]; ``sin`` carries the sign of the half that it is for."""
    halves = torch.roll(x, x.shape[-1] // 2, -1)
    x.mul_(cos).add_(halves.mul_(sin))


def _lengths_mask(spans: Sequence[Span], heads: int, query_heads: int, dtype: torch.dtype) -> Tensor:
    """[rows times heads, 1, positions] to be added to scores: 0 up to a row's own position, minus infinity behind it.
    Where some row has several new tokens, [rows times heads, width times group, positions]."""
    width, end = max(s.length for s in spans), max(s.start + s.length for s in spans)
    last = torch.tensor([s.start for s in spans])[:, None, None] + torch.arange(width)[:, None]
    mask = torch.zeros((len(spans), width, end), dtype=dtype).masked_fill(torch.arange(end) > last, -torch.inf)
    if width > 1:
        mask = mask.repeat_interleave(query_heads // heads, 1)
    return mask.repeat_interleave(heads, 0)


def _layer(layer: Any, role: str, merged: bool, dtype: torch.dtype) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp

    def group(*modules: nn.Module) -> list[_Linear]:
        parts = [_linear(module, role, merged, dtype) for module in modules]
        if not merged:
            return parts
        if len(parts) == 1:
            return [_packed(parts[0])]
        biases = [torch.zeros(len(p.weight), dtype=dtype) if p.bias is None else p.bias for p in parts]
        bias = torch.cat(biases) if any(p.bias is not None for p in parts) else None
        return [_packed(_Linear(torch.cat([p.weight for p in parts]), bias))]

    return _Layer(
        layer.input_layernorm.weight,
        layer.post_attention_layernorm.weight,
        group(attention.q_proj, attention.k_proj, attention.v_proj),
        group(attention.o_proj),
        group(mlp.gate_proj, mlp.up_proj),
        group(mlp.down_proj),
    )


def _linear(module: Any, role: str, merged: bool, dtype: torch.dtype) -> _Linear:
    base = getattr(module, "base_layer", module)
    own = role in getattr(module, "lora_A", {})
    weight = base.weight.detach() if base.weight.dtype == dtype else dequantized(base).to(dtype)
    bias = None if base.bias is None else base.bias.detach().to(dtype)
    if not own:
        return _Linear(weight, bias)
    a, b = module.lora_A[role].weight.detach(), module.lora_B[role].weight.detach() * module.scaling[role]
    if merged:
        return _Linear((dequantized(base) + b @ a).to(dtype), bias)
    return _Linear(weight, bias, a.t().to(dtype).contiguous(), b.t().to(dtype).contiguous())


def _head(layer: nn.Module, merged: bool) -> Any:
    """The output embedding; what is not a plain linear layer, as it is."""
    if not merged or type(layer) is not nn.Linear:
        return layer
    return _packed(_Linear(layer.weight.detach(), layer.bias))


def _packed(linear: _Linear) -> _Linear:
    """With a float32 weight in the blocks that oneDNN multiplies by. torch's own product is made for many rows: of the
    embedded model's linear layers it does 8 rows in 80 ms and 32 in 150 on two cores with AVX2, this in 42 and 101."""
    if not PACKS or linear.weight.dtype != torch.float32:
        return linear
    return linear._replace(weight=torch.ops.mkldnn._reorder_linear_weight(linear.weight, 8))
