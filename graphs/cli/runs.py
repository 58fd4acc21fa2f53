"""``junto runs``: what lies under the folder of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from alignment.errors import SetupError
from alignment.run_dir import STAGES, RunDir
from alignment.shipped import shipped
from graphs.cli.output import printable
from graphs.cli.progress import duration


def list_runs(root: Path) -> dict[str, Any]:
    """``{"root", "runs": [{"name", "path", "state", "stage", "message", "updated"}], "shipped": [...]}``, the newest
    first; ``shipped`` are those that come with the project and are not copied to ``root`` yet."""
    found = [_summary(RunDir(path.parent)) for path in root.glob("*/config.yaml")]
    waiting = [_summary(RunDir(path)) for name, path in shipped().items() if not (root / name / "config.yaml").exists()]
    newest = sorted(found, key=lambda run: run["updated"] or "", reverse=True)
    return {"root": str(root), "runs": newest, "shipped": waiting}


def show_run(run: RunDir) -> dict[str, Any]:
    """Everything of a run but its weights and samples: state, results, last metrics, what can be opened."""
    rows = _read(run, "metrics")
    last = {row["stage"]: row for row in rows}
    report = run.path / "report.html"
    return {
        **_summary(run),
        "stages": _read(run, "status").get("stages", {}),
        "last_metrics": last,
        "samples": len(_read(run, "samples")),
        "trees": _names(run.path / "trees"),
        "explanations": _names(run.path / "explanations"),
        "report": str(report) if report.is_file() else None,
        "environment": _read(run, "environment"),
        "config": _read(run, "config"),
    }


def print_runs(listing: dict[str, Any], out: Console) -> None:
    if not listing["runs"] and not listing["shipped"]:
        out.print(f"there are no runs in {listing['root']}; start one: junto run align recipes/quickstart.yaml")
        return
    table = Table("run", "state", "stage", "updated", "message", box=None, pad_edge=False)
    for run in listing["runs"]:
        cells = [run["name"], run["state"], run["stage"], run["updated"] or "", run["message"]]
        table.add_row(*(printable(str(cell)) for cell in cells))
    for run in listing["shipped"]:
        what = f"comes with the project, trained; {run['path']} is copied when it is first opened"
        table.add_row(*(printable(cell) for cell in (run["name"], "shipped", "", run["updated"] or "", what)))
    out.print(table)


def print_run(shown: dict[str, Any], out: Console) -> None:
    parts: list[RenderableType] = [Text(f"{shown['name']}: {shown['state']}  {printable(shown['message'])}".rstrip())]
    table = Table("stage", "state", "steps", "time", "results", box=None, pad_edge=False)
    for stage in STAGES:
        entry = shown["stages"].get(stage)
        if entry is None:
            continue
        steps = f"{entry.get('step', 0)}/{entry['total']}" if entry.get("total") else ""
        time = duration(entry["seconds"]) if entry.get("seconds") is not None else ""
        table.add_row(stage, entry.get("state", ""), steps, time, printable(_results(entry.get("results", {}))))
    parts.append(table)
    for kind in ("trees", "explanations"):
        if shown[kind]:
            parts.append(Text(f"{kind}: {', '.join(shown[kind])}"))
    parts.append(Text(f"report: {shown['report'] or 'none yet'}"))
    out.print(Group(*parts))


def _results(results: dict[str, Any]) -> str:
    shown = []
    for name, value in results.items():
        if isinstance(value, dict) and {"value", "low", "high"} <= value.keys():
            shown.append(f"{name} {value['value']:.3g} [{value['low']:.3g}, {value['high']:.3g}]")
        elif isinstance(value, float | int) and not isinstance(value, bool):
            shown.append(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}")
        elif name == "words" and isinstance(value, list):
            shown += map(str, value)
    return "; ".join(shown)


def _summary(run: RunDir) -> dict[str, Any]:
    status = _read(run, "status")
    return {
        "name": run.path.resolve().name,
        "path": str(run.path),
        "state": _read(run, "state"),
        "stage": status.get("stage", ""),
        "message": status.get("message", ""),
        "updated": status.get("updated"),
    }


def _read(run: RunDir, part: str) -> Any:
    try:
        return getattr(run, part)()
    except (OSError, ValueError) as error:
        raise SetupError(f"{run.path}: its {part} cannot be read ({error}); run its recipe with --fresh") from None


def _names(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.json"))
