"""A role as a plain Hugging Face folder: the adapter merged into dequantized weights."""

from __future__ import annotations

import copy
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora.layer import LoraLayer
from torch import Tensor
from transformers import AutoModelForCausalLM

from alignment.backbone import Backbone
from alignment.errors import SetupError, UsageError
from alignment.weights import DTYPES, dequantized

MERGED = {
    "none": "the base weights as they are",
    "int8": "the base weights dequantized from int8 (not the original ones: the adapter was trained on these)",
    "nf4": "the base weights dequantized from NF4 (not the original ones: the adapter was trained on these)",
}


def export_role(backbone: Backbone, role: str, folder: Path, dtype: str) -> dict[str, Any]:
    """Writes ``config.json``, ``model.safetensors`` (in shards where large), the tokenizer with its chat template,
    ``generation_config.json`` and ``export.json``, which says what was merged into what and is returned.

    The sum of weight and adapter is formed in float32 and rounded to ``dtype`` (``float32`` or ``bfloat16``). Raises
    UsageError where ``folder`` holds something already, SetupError for a role that cannot be merged.
    """
    if role not in backbone.roles:
        raise SetupError(f"this model has no role {role!r}; it has {', '.join(backbone.roles)}")
    if role in backbone.virtual:
        kind = backbone.virtual[role].kind
        raise SetupError(
            f"the role {role!r} is a trained {kind}: it stands before the text and cannot be merged into weights; "
            "train with sft.method: lora or full to export a model"
        )
    if folder.is_dir() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty; name a new folder, or empty this one")
    weights = merged_weights(backbone, role, DTYPES[dtype])
    plain = plain_model(backbone, weights, DTYPES[dtype])
    what = {
        "role": role,
        "merged": f"the LoRA adapter {role!r} into {MERGED[backbone.config.quantization]}",
        "base_model": backbone.config.model,
        "base_sha256": backbone.sha256,
        "quantization": backbone.config.quantization,
        "lora": backbone.config.lora.model_dump(),
        "dtype": dtype,
        "gguf": gguf_names(plain.config, list(weights)),
    }
    aside = folder.with_name(f".{folder.name}.writing")
    shutil.rmtree(aside, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    plain.save_pretrained(aside)
    # the chat template inside tokenizer_config.json: GGUF converters look there, and transformers too
    backbone.tokenizer.save_pretrained(aside, save_jinja_files=False)
    _for_older_readers(aside)
    (aside / "export.json").write_text(json.dumps(what, indent=1) + "\n", encoding="utf-8")
    os.replace(aside, folder)
    return what


def _for_older_readers(folder: Path) -> None:
    """Adds the names of before transformers 5, which GGUF converters read with: the tokenizer's class, and the rotary
    embedding's base, without which they take 10,000 and say nothing."""
    path = folder / "tokenizer_config.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    if tokenizer.get("tokenizer_class") == "TokenizersBackend":
        path.write_text(
            json.dumps(tokenizer | {"tokenizer_class": "PreTrainedTokenizerFast"}, indent=2) + "\n", "utf-8"
        )
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    rope = config.get("rope_parameters") or {}
    if "rope_theta" in rope:
        older = {"rope_theta": rope["rope_theta"]}
        if rope.get("rope_type", "default") != "default":
            older["rope_scaling"] = {name: value for name, value in rope.items() if name != "rope_theta"}
        path.write_text(json.dumps(config | older, indent=2) + "\n", encoding="utf-8")


def merged_weights(backbone: Backbone, role: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """The base model's parameters by their own names, dequantized, ``role``'s update added in float32, as ``dtype``."""
    model = backbone.causal_lm
    found = {}
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            continue
        holder, _, kind = name.rpartition(".")
        weight = dequantized(model.get_submodule(holder)) if kind == "weight" else parameter.detach().float()
        layer = model.get_submodule(holder.removesuffix(".base_layer"))
        if kind == "weight" and isinstance(layer, LoraLayer) and role in layer.lora_A:
            weight = weight + layer.get_delta_weight(role).float()
        found[name.replace(".base_layer.", ".")] = weight.to(dtype).cpu()
    return found


def plain_model(backbone: Backbone, weights: dict[str, Tensor], dtype: torch.dtype) -> Any:
    """The base model's architecture with ``weights``, without a trace of quantization or adapters."""
    config = copy.deepcopy(backbone.causal_lm.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.dtype = dtype
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(config)
    missing, unexpected = plain.load_state_dict(weights, strict=False, assign=True)
    plain.tie_weights()
    left = [name for name in missing if plain.get_parameter(name).device.type == "meta"]
    if left or unexpected:
        raise SetupError(
            f"the model's weights do not have their usual names ({[*left, *unexpected][0]}); cannot export"
        )
    plain.generation_config = copy.deepcopy(backbone.causal_lm.generation_config)
    plain.generation_config.eos_token_id = backbone.chat.eos_id
    plain.generation_config.pad_token_id = backbone.chat.pad_id
    return plain.eval()


def gguf_names(config: Any, names: list[str]) -> str:
    """Whether a GGUF converter knows every tensor's name, in words; the conversion itself is not tried."""
    try:
        import gguf
    except ImportError:
        return "not checked: the package gguf is not installed"
    kinds = {word: kind for kind, word in gguf.MODEL_ARCH_NAMES.items()}
    kind = kinds.get(config.model_type)
    if kind is None:
        return f"not checked: gguf knows no architecture {config.model_type!r}"
    table = gguf.get_tensor_name_map(kind, config.get_text_config().num_hidden_layers)
    unknown = [name for name in names if table.get_name(name, try_suffixes=(".weight", ".bias")) is None]
    if unknown:
        return f"gguf does not know {len(unknown)} of {len(names)} tensor names, {unknown[0]} first"
    return f"all {len(names)} tensor names are known for the architecture {config.model_type!r}"
