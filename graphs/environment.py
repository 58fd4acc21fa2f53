"""What a run's numbers depend on besides its recipe."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from graphs.modules import load_function
from graphs.recipe import Recipe

PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "trl", "langgraph", "langchain-core", "lime", "alibi")


def environment(recipe: Recipe) -> dict[str, Any]:
    """Versions, machine and threads, for ``environment.json``."""
    gold = recipe.ppo.gold
    return (
        machine()
        | {"backbone": recipe.backbone.model_dump(mode="json")}
        | ({"gold_sha256": load_function(gold, what="gold function").sha256} if gold else {})
    )


def machine() -> dict[str, Any]:
    """What any figure depends on."""
    return {
        "junto": metadata.version("junto"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "packages": {name: metadata.version(name) for name in PACKAGES if _installed(name)},
    }


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), platform.processor())


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
