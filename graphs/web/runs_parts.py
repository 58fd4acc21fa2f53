"""A run on the page: its state, its curves as they are now, and what there is to open."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from alignment.run_dir import RunDir
from graphs.report import views
from graphs.report.files import Reader
from graphs.web.fragments import rendered
from graphs.web.training import Trainings


def run_part(trainings: Trainings, name: str) -> str:
    """The run called ``name``; what is wrong with its files is said in it."""
    run = RunDir(trainings.runs_root / name)
    reader = Reader(run.path)
    status, metrics = reader.object("status.json"), reader.rows("metrics.jsonl")
    works = name in trainings.working()
    return rendered(
        "run.html.j2",
        name=name,
        state="starting" if works and not status else _state(run, status),
        message=str(status.get("message") or ""),
        figures=views.key_figures(views.part(status, "stages")),
        stages=views.stage_views(status, metrics, reader.object("best_of_n.json")),
        links=_links(run),
        log=trainings.log(name) if works or trainings.failed(name) or status.get("state") == "failed" else "",
        problems=reader.problems if status else [],
    )


def _state(run: RunDir, status: dict[str, Any]) -> str:
    try:
        return run.state()
    except (OSError, ValueError):
        return str(status.get("state") or "unknown")


def _links(run: RunDir) -> list[tuple[str, str]]:
    """(address, words) of the pages that lie in the run."""
    found = []
    if (run.path / "report.html").is_file():
        found.append((f"runs/{quote(run.path.name)}/report.html", "Report: figures, samples, audits, explanations"))
    for page in sorted((run.path / "trees").glob("*.html")):
        found.append((f"runs/{quote(run.path.name)}/trees/{quote(page.name)}", f"Thought tree: {page.stem}"))
    return found
