"""The one place that reads a model's and a tokenizer's files."""

from __future__ import annotations

import hashlib
import os
import warnings
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, GgufConfig
from transformers.utils import logging as transformers_logging

from alignment.config import BackboneConfig
from alignment.embedded import embedded_folder
from alignment.errors import SetupError
from alignment.machine import free_memory, multiplies_bfloat16, return_freed_memory

# oneDNN keeps the last 1,024 kernels that it compiled for a shape, which take 70 MB more than 64 do in a PPO of the
# embedded model (by hand, three iterations); a new one costs a millisecond. It reads this before its first product.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def quiet() -> None:
    """Leave progress and warnings of loading to Junto's own lines."""
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    # peft 0.21 reads this old name of transformers; nothing of ours does
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
    # the stage's notes say it in one sentence
    warnings.filterwarnings("ignore", message="Paged optimizers are not supported on CPU", category=UserWarning)


def read_gguf(path: Path) -> tuple[Any, Any]:
    """A dequantized GGUF model in bfloat16 and its tokenizer."""
    quiet()
    config = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, quantization_config=config, dtype=torch.bfloat16
    )
    return model, AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)


def locate(model: str) -> str:
    """The folder or hub id behind a recipe's ``backbone.model``."""
    return str(embedded_folder()) if model == "embedded" else os.path.expanduser(model)


def inference_dtype(config: BackboneConfig) -> str:
    """The dtype to compute in where nothing is trained: that of ``config``, or the finer float32 where this machine has
    no bfloat16 and the wider weights leave half of its memory free. Weights that are not on this disk yet count as
    fitting."""
    if config.compute_dtype == "float32" or multiplies_bfloat16():
        return config.compute_dtype
    files = [path.stat().st_size for path in Path(locate(config.model)).glob("*.safetensors")]
    wider = 2 * sum(files) if config.quantization == "none" else 0
    return "float32" if wider < free_memory() / 2 else config.compute_dtype


def load_tokenizer(model: str) -> Any:
    """The model's tokenizer; raises SetupError where there is none or it has no chat template."""
    quiet()
    try:
        tokenizer = AutoTokenizer.from_pretrained(locate(model))
    except (OSError, ValueError) as error:
        raise SetupError(_unreadable(model, error)) from error
    if tokenizer.eos_token_id is None:
        raise SetupError(f"the tokenizer of {model!r} names no end-of-text token; junto cannot end a response with it")
    return tokenizer


def load_causal_lm(config: BackboneConfig, weights_dtype: torch.dtype | None = None) -> Any:
    """The model in the storage of ``config``, in eval mode, all gradients off; weights that are not quantized in
    ``weights_dtype``, or in the compute dtype."""
    quiet()
    place = locate(config.model)
    dtype = weights_dtype or DTYPES[config.compute_dtype]
    quantization = {
        "none": None,
        "int8": BitsAndBytesConfig(load_in_8bit=True),
        "nf4": BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        ),
    }[config.quantization]
    try:
        model = AutoModelForCausalLM.from_pretrained(place, dtype=dtype, quantization_config=quantization)
    except (OSError, ValueError) as error:
        raise SetupError(_unreadable(config.model, error)) from error
    model.requires_grad_(False)
    if model.device.type == "cpu":
        model.set_attn_implementation(attention_on("cpu"))
    for module in model.modules():
        # On processors with AVX512-BF16, bitsandbytes 0.50 repacks a 4-bit weight at the first forward in eval mode
        # and later multiplies by a kernel without a gradient: training after sampling would go silently wrong.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    if quantization:  # what stays as it was is a view into the mapped file, all of which would stay in memory with it
        for parameter in model.parameters():
            if parameter.is_floating_point() and parameter.device.type == "cpu":
                parameter.data = parameter.data.clone()
    return_freed_memory()
    return model.eval()


def dequantized(module: nn.Module) -> Tensor:
    """float32 [out, in]: the weight of a linear layer as its forward multiplies by it, whatever it is stored in."""
    weight: Any = module.weight
    if isinstance(module, bnb.nn.Linear4bit):
        return bnb.functional.dequantize_4bit(weight.data, weight.quant_state).float()
    if isinstance(module, bnb.nn.Linear8bitLt):
        # before the first forward the scales are with the weight. PEFT's function for this replaces the weight on a
        # CPU by one without its scales, and the next forward fails
        scales = weight.SCB if weight.SCB is not None else module.state.SCB
        return bnb.functional.int8_vectorwise_dequant(weight.data, scales).float()
    return weight.detach().float()


def int8_on_cpu(model: nn.Module) -> list[nn.Module]:
    """Layers that bitsandbytes 0.50 computes in two ways on a CPU: in training mode it multiplies by the dequantized
    weight, in eval mode it rounds the inputs to int8 as well. Kept in training mode, they sample and score with the
    model that is trained."""
    return [m for m in model.modules() if isinstance(m, bnb.nn.Linear8bitLt) and m.weight.device.type == "cpu"]


def attention_on(device: str) -> str:
    """transformers' attention on a device type; on a CPU, measured on two cores at 75 tokens a row, eager attention
    does 297 tokens/s forward and backward against 255 of sdpa."""
    return "eager" if device == "cpu" else "sdpa"


def fingerprint(model: str) -> str:
    """sha256 over the names and bytes of the weight files and the tokenizer (a hub id: of its resolved files)."""
    place = Path(locate(model))
    if not place.is_dir():
        config = AutoConfig.from_pretrained(model)
        return hashlib.sha256(f"{model}@{getattr(config, '_commit_hash', None)}".encode()).hexdigest()
    digest = hashlib.sha256()
    for path in sorted(place.iterdir()):
        if path.suffix == ".safetensors" or path.name == "tokenizer.json":
            digest.update(path.name.encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _unreadable(model: str, error: Exception) -> str:
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return f"the model {model!r} cannot be loaded ({first[:160]}); name 'embedded', a local folder or a hub id"
