"""A backbone of shapes without memory, and the bytes that a training step on it would hold at once.

The real code runs on fake tensors, which have a shape, a dtype and a lifetime and no content, so nothing about an
architecture, an adapter or the attention is modelled here: only what bitsandbytes does inside its layers.
"""

from __future__ import annotations

import copy
import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from transformers import AutoConfig, AutoModelForCausalLM

from alignment.backbone import Backbone
from alignment.config import BackboneConfig
from alignment.errors import SetupError
from alignment.weights import DTYPES, attention_on, locate, quiet


class Held(TorchDispatchMode):
    """Counts the storages that operations inside have allocated and that are still alive: ``now`` and ``peak``."""

    def __init__(self, already: list[Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._already = {tensor.untyped_storage()._cdata for tensor in already}
        self._alive: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return tree_map_only(Tensor, self._count, func(*args, **(kwargs or {})))

    def _count(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._alive and key not in self._already:
            size = storage.nbytes()

            def free(_: Any) -> None:
                self.now -= size
                del self._alive[key]

            self._alive[key] = weakref.ref(storage, free)
            self.now += size
            self.peak = max(self.peak, self.now)
        return tensor


class Quantized(nn.Linear):
    """A linear layer that bitsandbytes stores in 4 or 8 bits: every product needs the dequantized weight for its
    duration, and the 8-bit layer of version 0.50 keeps its input for the backward pass."""

    keeps_input = False

    def forward(self, x: Tensor) -> Tensor:
        return _Product.apply(x, self.weight, self.keeps_input)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, keeps_input: bool) -> Tensor:
        ctx.x = x if keeps_input else None
        ctx.shape = weight.shape
        return nn.functional.linear(x, x.new_empty(weight.shape))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0] @ gradients[0].new_empty(ctx.shape), None, None


def read_config(model: str) -> Any:
    """The model's configuration alone; raises SetupError."""
    quiet()
    try:
        return AutoConfig.from_pretrained(locate(model))
    except (OSError, ValueError) as error:
        raise SetupError(
            f"the configuration of the model {model!r} cannot be read ({str(error).splitlines()[0][:160]}); "
            "name 'embedded', a local folder or a hub id"
        ) from error


def empty_backbone(config: BackboneConfig, master_weights: bool, device: str) -> Backbone:
    """A backbone on the meta device as ``Backbone(config, master_weights)`` would be on ``device``: no weights, no
    tokenizer. Roles can be added; ``faked`` makes it ready for a step."""
    dtype = torch.float32 if master_weights else DTYPES[config.compute_dtype]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            copy.deepcopy(read_config(config.model)), dtype=dtype, attn_implementation=attention_on(device)
        )
        if config.quantization != "none":
            _quantize(model, keeps_input=config.quantization == "int8")
    model.requires_grad_(False)
    return Backbone.around(config, model.eval())


def linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers that are quantized and adapted: all but the output embedding, by name."""
    output = model.get_output_embeddings()  # type: ignore[operator]
    return {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear) and m is not output}


def _quantize(model: nn.Module, keeps_input: bool) -> None:
    for name, layer in linear_layers(model).items():
        holder, _, own = name.rpartition(".")
        stand_in = Quantized(layer.in_features, layer.out_features, layer.bias is not None, dtype=layer.weight.dtype)
        stand_in.keeps_input = keeps_input
        setattr(model.get_submodule(holder), own, stand_in)


def faked(backbone: Backbone, device: str) -> FakeTensorMode:
    """Puts fake tensors of ``device`` in the place of the meta ones (autocast knows the former only); the mode that
    the step is to run in."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    replaced: dict[int, Tensor] = {}
    kept = []  # so that no id is given twice
    with mode:
        for module in (*backbone.model.modules(), *backbone.heads.values()):
            for named in (module._parameters, module._buffers):
                for name, old in named.items():
                    if old is None:
                        continue
                    if id(old) not in replaced:
                        new = torch.empty(old.shape, dtype=old.dtype, device=device)
                        is_parameter = isinstance(old, nn.Parameter)
                        replaced[id(old)] = nn.Parameter(new, requires_grad=False) if is_parameter else new
                        kept.append(old)
                    named[name] = replaced[id(old)]
    backbone.device = torch.device(device)
    return mode
