"""A role's adapter in files: ``adapter.safetensors`` and ``adapter.json``, which names its base model."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from alignment.backbone import Backbone
from alignment.config import LoraSettings, VirtualTokens
from alignment.errors import SetupError, UsageError
from alignment.run_dir import RunDir

_MEND = "put the file back that was there, or train the run again with --fresh"


def save_role(backbone: Backbone, role: str, folder: Path) -> str:
    """Writes ``adapter.safetensors`` and ``adapter.json``; returns the weights' sha256."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "adapter.safetensors"
    save_file({name: value.contiguous().cpu() for name, value in backbone.weights(role).items()}, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    meta = {
        "role": role,
        "sha256": digest,
        "base_sha256": backbone.sha256,
        "quantization": backbone.config.quantization,
        "compute_dtype": backbone.config.compute_dtype,
        "lora": None if role in backbone.virtual else backbone.config.lora.model_dump(),
        "virtual": backbone.virtual[role].model_dump() if role in backbone.virtual else None,
        "scale": backbone.scales.get(role),
    }
    (folder / "adapter.json").write_text(json.dumps(meta, indent=1) + "\n")
    return digest


def load_guest(backbone: Backbone, role: str, folder: Path) -> str:
    """Reads a role of another run on the same base model beside those that are there; returns the name that it has
    here, by its content. Raises SetupError as ``load_role``."""
    name = f"{role}@{_meta(folder)['sha256'][:12]}"
    if name not in backbone.roles:
        load_role(backbone, role, folder, name)
    return name


def load_role(backbone: Backbone, role: str, folder: Path, name: str | None = None) -> None:
    """Reads what ``save_role`` or ``round_role`` wrote, into float32 parameters, as ``name`` where it is not to be
    called ``role``; raises SetupError for an adapter of another base model, of other storage or coarser arithmetic than
    it was trained on, and for a damaged file."""
    meta, name = _meta(folder), name or role
    if meta["base_sha256"] != backbone.sha256:
        raise SetupError(
            f"the {role} adapter in {folder} belongs to another base model (sha256 {meta['base_sha256'][:12]}…, "
            f"this one is {backbone.sha256[:12]}…); set backbone.model to the one it was trained on"
        )
    for key in ("quantization", "compute_dtype"):
        trained, now = meta.get(key), getattr(backbone.config, key)  # earlier versions did not record them
        if trained not in (None, now) and now != "float32":  # float32 arithmetic is finer than any
            raise SetupError(
                f"the {role} adapter in {folder} was trained with {key} {trained}, and here it is {now}; "
                f"set backbone.{key}: {trained}"
            )
    weights = _weights(folder, meta)
    if name not in backbone.roles:
        tokens, lora = meta.get("virtual"), meta.get("lora")
        backbone.add_role(
            name,
            seed=0,
            tokens=VirtualTokens(**tokens) if tokens else None,
            lora=LoraSettings(**lora) if lora else None,
        )
    backbone.set_weights(name, weights)
    if meta["scale"]:
        backbone.scales[name] = (meta["scale"][0], meta["scale"][1])


def load_start(backbone: Backbone, run: RunDir) -> str:
    """Reads another run's ``sft`` adapter into the one that begins here, and returns its hash; raises UsageError where
    its LoRA is another, which tensors alone do not show, and as ``RunDir.adapter`` and ``load_role``."""
    folder = run.adapter("sft")
    meta, lora = _meta(folder), backbone.config.lora
    theirs = LoraSettings(**meta["lora"]) if meta.get("lora") else None
    if theirs is None or (theirs.rank, theirs.alpha) != (lora.rank, lora.alpha):
        what = f"of rank {theirs.rank} and alpha {theirs.alpha:g}" if theirs else "no LoRA adapter that says its rank"
        raise UsageError(
            f"sft.start: what is in {folder} is {what}, and backbone.lora says {lora.rank} and {lora.alpha:g}; "
            "set backbone.lora to the same"
        )
    load_role(backbone, "sft", folder)
    return meta["sha256"]


def round_role(source: Path, target: Path, trained_on: dict[str, str]) -> None:
    """Writes a role's files again with the adapter in bfloat16, the head and its scale in float32; no model is loaded.
    ``trained_on``: ``quantization`` and ``compute_dtype``, for files of before they were recorded."""
    meta = _meta(source)
    weights = {
        name: value if name.startswith("head.") else value.bfloat16() for name, value in _weights(source, meta).items()
    }
    target.mkdir(parents=True)
    save_file(weights, target / "adapter.safetensors")
    digest = hashlib.sha256((target / "adapter.safetensors").read_bytes()).hexdigest()
    meta = trained_on | {"rounded_from": meta["sha256"]} | meta | {"sha256": digest}
    (target / "adapter.json").write_text(json.dumps(meta, indent=1) + "\n")


def _meta(folder: Path) -> dict[str, Any]:
    path = folder / "adapter.json"
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SetupError(f"{path} cannot be read ({error}); {_MEND}") from None


def _weights(folder: Path, meta: dict[str, Any]) -> dict[str, Tensor]:
    path = folder / "adapter.safetensors"
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != meta["sha256"]:
        raise SetupError(f"{path} is damaged: its sha256 is not the one in adapter.json; {_MEND}")
    return load_file(path)
