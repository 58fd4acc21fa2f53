"""A role's adapter in files: ``adapter.safetensors`` and ``adapter.json``, which names its base model."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from safetensors.torch import load_file, save_file

from alignment.backbone import Backbone
from alignment.config import VirtualTokens
from alignment.errors import SetupError


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
        "lora": None if role in backbone.virtual else backbone.config.lora.model_dump(),
        "virtual": backbone.virtual[role].model_dump() if role in backbone.virtual else None,
        "scale": backbone.scales.get(role),
    }
    (folder / "adapter.json").write_text(json.dumps(meta, indent=1) + "\n")
    return digest


def load_role(backbone: Backbone, role: str, folder: Path) -> None:
    """Reads what ``save_role`` wrote; raises SetupError for another base model's adapter or a damaged file."""
    meta = json.loads((folder / "adapter.json").read_text())
    path = folder / "adapter.safetensors"
    if meta["base_sha256"] != backbone.sha256:
        raise SetupError(
            f"the {role} adapter in {folder} belongs to another base model (sha256 {meta['base_sha256'][:12]}…, "
            f"this one is {backbone.sha256[:12]}…); set backbone.model to the one it was trained on"
        )
    if hashlib.sha256(path.read_bytes()).hexdigest() != meta["sha256"]:
        raise SetupError(f"{path} is damaged; delete the run's {role} stage, or train it again with --fresh")
    if role not in backbone.roles:
        tokens = meta.get("virtual")
        backbone.add_role(role, seed=0, tokens=VirtualTokens(**tokens) if tokens else None)
    backbone.set_weights(role, load_file(path))
    if meta["scale"]:
        backbone.scales[role] = (meta["scale"][0], meta["scale"][1])
