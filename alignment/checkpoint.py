"""Checkpoints of our own training loops: safetensors and JSON, written aside and then renamed. No pickle."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Optimizers = dict[str, torch.optim.Optimizer]


def checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(p for p in folder.glob("step-*") if p.is_dir()) if folder.is_dir() else []


def latest(folder: Path) -> Path | None:
    found = checkpoints(folder)
    return found[-1] if found else None


def publish(aside: Path, folder: Path, step: int) -> Path:
    """Renames a complete checkpoint into place and removes the older ones."""
    target = folder / f"step-{step:06d}"
    if target.exists():  # written before a kill that came between the rename and the clean-up
        shutil.rmtree(target)
    os.replace(aside, target)
    for old in checkpoints(folder):
        if old != target:
            shutil.rmtree(old, ignore_errors=True)
    return target


def save(folder: Path, step: int, tensors: dict[str, Tensor], optimizers: Optimizers, state: dict[str, Any]) -> Path:
    """Saves named tensors, optimizer moments and a JSON state under ``folder/step-NNNNNN``."""
    aside = folder / ".writing"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    everything = dict(tensors)
    for name, optimizer in optimizers.items():
        for index, moments in optimizer.state_dict()["state"].items():
            everything |= {f"{name}/{index}/{key}": torch.as_tensor(value) for key, value in moments.items()}
    try:
        # contiguous copies: safetensors refuses tensors that share storage
        save_file(
            {name: value.detach().clone().contiguous().cpu() for name, value in everything.items()},
            aside / "tensors.safetensors",
        )
        (aside / "state.json").write_text(json.dumps(state | {"step": step}), encoding="utf-8")
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)  # a disk that is full needs the room
        raise
    return publish(aside, folder, step)


def load(path: Path, optimizers: Optimizers) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Restores the optimizers in place; returns the named tensors and the JSON state."""
    tensors = load_file(path / "tensors.safetensors")
    for name, optimizer in optimizers.items():
        own = {key: tensors.pop(key) for key in list(tensors) if key.startswith(f"{name}/")}
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in own.items():
            _, index, field = key.split("/")
            moments.setdefault(int(index), {})[field] = value
        current = optimizer.state_dict()
        optimizer.load_state_dict({"state": moments, "param_groups": current["param_groups"]})
    return tensors, json.loads((path / "state.json").read_text(encoding="utf-8"))
