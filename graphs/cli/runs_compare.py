"""``junto runs compare``: what two or more runs came to, and what they were told that differs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from alignment.run_dir import STAGES, RunDir
from graphs.cli.output import printable

Cells = list[Any]


def compare_runs(runs: Sequence[RunDir]) -> dict[str, Any]:
    """``{"runs": names, "figures": [{"name", "values"}], "settings": [{"name", "values"}]}``: every figure that a stage
    left, and the keys of the recipes whose values differ; a value is null where a run has none. Figures of different
    questions or judges are not comparable: `junto eval compare` pairs them item by item."""
    found = [_figures(run) for run in runs]
    told = [_flat(run.config()) for run in runs]
    settings = _side_by_side(told)
    return {
        "runs": [run.path.resolve().name for run in runs],
        "figures": _side_by_side(found),
        "settings": [
            one for one in settings if one["name"] != "name" and any(v != one["values"][0] for v in one["values"])
        ],
    }


def _side_by_side(of_each: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    names = list(dict.fromkeys(name for one in of_each for name in one))
    return [{"name": name, "values": [one.get(name) for one in of_each]} for name in names]


def _figures(run: RunDir) -> dict[str, Any]:
    """``stage.figure`` -> number or interval."""
    stages = run.status().get("stages", {})
    found: dict[str, Any] = {}
    for stage in STAGES:
        entry = stages.get(stage, {})
        for name, value in _flat(entry.get("results", {}), is_leaf=_is_interval).items():
            if _is_interval(value) or (isinstance(value, int | float) and not isinstance(value, bool)):
                found[f"{stage}.{name}"] = value
        if "seconds" in entry:
            found[f"{stage}.seconds"] = entry["seconds"]
    return found


def _is_interval(value: Any) -> bool:
    return isinstance(value, dict) and {"value", "low", "high"} <= value.keys()


def _flat(value: Any, is_leaf: Any = lambda value: False, before: str = "") -> dict[str, Any]:
    if not isinstance(value, dict) or is_leaf(value):
        return {before: value}
    return {
        name: inner
        for key, one in value.items()
        for name, inner in _flat(one, is_leaf, f"{before}.{key}" if before else str(key)).items()
    }


def print_compared(compared: dict[str, Any], out: Console) -> None:
    for what, words in (("figures", "figure"), ("settings", "setting that differs")):
        if not compared[what]:
            out.print(f"no {words}")
            continue
        table = Table(words, *map(printable, compared["runs"]), box=None, pad_edge=False)
        for row in compared[what]:
            table.add_row(printable(row["name"]), *(printable(_cell(value)) for value in row["values"]))
        out.print(table)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if _is_interval(value):
        return f"{value['value']:.4g} [{value['low']:.4g}, {value['high']:.4g}]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
