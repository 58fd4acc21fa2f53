"""``junto estimate``: memory and time of a recipe before anything is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from graphs.cli.progress import duration

PARTS = ("weights", "adapters", "gradients", "moments", "activations", "logits", "working", "kv_cache", "runtime")


def estimate_recipe(path: Path, overrides: list[str]) -> dict[str, Any]:
    from graphs.recipe import load_recipe

    recipe = load_recipe(path, overrides)  # a mistake in it is told before anything slow is imported

    from graphs.estimate import estimate

    return estimate(recipe, path.parent)


def print_estimate(found: dict[str, Any], out: Console) -> None:
    where = {"cpu": "memory of this machine", "cuda": "memory of its GPU"}[found["device"]]
    need, free = size(found["peak_bytes"]), size(found["free_bytes"])
    verdict = "fits" if found["fits"] else "does not fit"
    out.print(f"{found['recipe']}: {verdict}: {need} of {free} free {where}")
    if found["advice"]:
        out.print(f"to make it fit: {found['advice']}")
    table = Table("stage", "peak", *(part.replace("_", " ") for part in PARTS), "time", box=None, pad_edge=False)
    for stage in found["stages"]:
        memory, seconds = stage["memory"], stage["seconds"]
        time = "" if seconds is None else f"about {duration(seconds)}"
        table.add_row(stage["stage"], size(memory["total"]), *(size(memory[part]) for part in PARTS), time)
    out.print(table)
    out.print(f"weights: {found['storage']}; the parts do not all stand at the moment of the peak")
    if found["time_basis"]:
        out.print(f"time: {found['time_basis']}; loading the model is not in it")
    if found["not_estimated"]:
        out.print(f"not estimated yet: {', '.join(found['not_estimated'])}")


def size(count: float) -> str:
    """``0``, ``19.5 MB``, ``3.46 GB``: powers of ten."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count / 1e6:.2f} MB" if count else "0"
