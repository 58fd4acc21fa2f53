"""Writes the report of a run directory."""

from __future__ import annotations

import os
from pathlib import Path

from markupsafe import Markup

from graphs.report import formats, views
from graphs.report.files import Reader
from graphs.report.palette import DARK, LIGHT, SERIES
from graphs.report.templates import template
from graphs.report.tree import STYLE, tree_svg
from graphs.report.tree_page import tree_page

SHOWN = 5  # sample rows in view; the others can be unfolded


def render(run: Path) -> str:
    """The whole page of a run directory as text."""
    reader = Reader(run)
    status, environment = reader.object("status.json"), reader.object("environment.json")
    recipe_text, recipe = reader.recipe()
    metrics, samples = reader.rows("metrics.jsonl"), reader.rows("samples.jsonl")
    stages = views.part(status, "stages")
    evaluate = views.part(stages, "evaluate", "results")
    trees, missing, more_trees = views.tree_views(reader.folder("trees"), reader.problems)
    files = reader.folder("explanations")
    explanations, explain_css = views.explanation_views(files, reader.problems)
    audits, audit_css = views.audit_views(reader.folder("audits"), reader.problems)
    shown, prompts = views.sample_views(samples)
    facts, packages = views.environment_rows(environment)
    words = [w for stage in views.MEASURED if isinstance(w := views.part(stages, stage, "results").get("words"), list)]
    page = template("template.html.j2").render(
        name=str(recipe.get("name") or run.resolve().name),
        about=views.about(status, recipe, environment),
        words=[str(sentence) for said in words for sentence in said],
        evaluated=bool(evaluate),
        figures=views.key_figures(stages),
        stages=views.stage_views(status, metrics, reader.object("best_of_n.json")),
        measured=views.measured_views(stages),
        trees=trees,
        missing=missing,
        more_trees=more_trees,
        samples=shown,
        shown=SHOWN,
        prompts=prompts,
        explanations=explanations,
        more_explanations=max(0, len(files) - views.EXPLANATIONS),
        explain_css=explain_css,
        audits=audits,
        audit_css=audit_css,
        recipe=recipe_text,
        facts=facts,
        packages=packages,
        problems=reader.problems,
        tree_css=Markup(STYLE),
        light=LIGHT,
        dark=DARK,
        colours=range(1, SERIES + 1),
    )
    return formats.clean(page)


def write_report(run: Path) -> Path:
    """Write ``report.html`` into a run directory and return its path; beside every council in ``trees/`` its tree as a
    page and as a picture.

    The files are self-contained: no script, no network. They are written aside and then renamed, so that a reader
    never meets half a page.

    Raises:
        FileNotFoundError: the run directory does not exist.
    """
    run = Path(run)
    if not run.is_dir():
        raise FileNotFoundError(f"There is no run directory {run}.")
    for name, council in Reader(run).folder("trees"):
        if views.is_council(council):
            _write((run / "trees" / name).with_suffix(".html"), tree_page(council))
            _write((run / "trees" / name).with_suffix(".svg"), tree_svg(council))
    _write(run / "report.html", render(run))
    return run / "report.html"


def _write(path: Path, text: str) -> None:
    aside = path.with_name(f"{path.name}.partial")
    aside.write_text(text, encoding="utf-8", errors="replace")
    os.replace(aside, path)
