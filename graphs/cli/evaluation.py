"""``junto eval``: what was asked for, done and printed."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from alignment.errors import UsageError
from graphs.cli.output import printable
from graphs.evaluation import compare as comparisons
from graphs.evaluation.compare import Finished, detectable
from graphs.evaluation.measures import RIGHT_OR_WRONG
from graphs.source import did_you_mean

if TYPE_CHECKING:
    from graphs.evaluation.run import Asked


def run(names: Sequence[str], models: Sequence[str], asked: Asked) -> dict[str, Any]:
    """``{"evaluations": [...]}`` as they came to be."""
    from graphs.cli.progress import Reporter
    from graphs.evaluation.items import chosen_items
    from graphs.evaluation.run import prepare, run_prepared

    if not models:
        raise UsageError("eval run needs a model: --model RUN, or run:sft, a hub id, a folder, an address")
    prepared = [prepare(name, asked) for name in names]
    for one in prepared:
        count = len(chosen_items(one.items, asked.limit, asked.ids))
        said = f"{one.evaluation.name}: {count} of {len(one.items)} items"
        if one.evaluation.kind != "text":
            said += (
                f"; between two models of which {comparisons.DIFFERING:.0%} of the answers differ in being right, a "
                f"difference below {100 * detectable(count):.0f} points would often go unseen"
            )
        print(said, file=sys.stderr)
    folders = []
    with Reporter() as report:
        for folder in run_prepared(prepared, models, asked, report):
            folders.append(folder.path)
    finished = [comparisons.read(path) for path in folders]
    if len(asked.seeds) > 1:
        by_model: dict[tuple[str, str], list[Finished]] = {}
        for each in finished:
            asked_of_it = each.about["evaluation"]
            if asked_of_it["kind"] == "generate":
                by_model.setdefault((json.dumps(asked_of_it), each.about["subject"]), []).append(each)
        finished += [comparisons.together(group) for group in by_model.values() if len(group) > 1]
    shown = [_shown(one) for one in finished]
    for demand in asked.require:
        if not any(demand.metric in each["results"]["metrics"] for each in shown):
            known = list(dict.fromkeys(name for each in shown for name in each["results"]["metrics"]))
            hint = did_you_mean(demand.metric, known) or f"; there are {', '.join(known)}"
            raise UsageError(f"{demand} asks for a figure that is not measured{hint}; what was measured is kept")
    return {"evaluations": shown}


def listing(runs_root: Path) -> dict[str, Any]:
    return {"evaluations": [_shown(one) for one in comparisons.listed(runs_root)]}


def compare(names: Sequence[str], runs_root: Path) -> dict[str, Any]:
    if len(names) < 2:
        raise UsageError("eval compare needs two evaluations; junto eval ls lists them")
    first, *others = (comparisons.found(name, runs_root) for name in names)
    return {"comparisons": [comparisons.compared(first, other) for other in others]}


def report(names: Sequence[str], to: Path | None, explained: int, runs_root: Path) -> dict[str, Any]:
    """``{"files": [...]}``: the page, and the pictures beside it. ``explained``: of each evaluation so many of the
    largest differences between the rewards of the first model and another."""
    from graphs.report.evaluations import write_page

    found = [comparisons.found(name, runs_root) for name in names] or comparisons.listed(runs_root)
    if not found:
        raise UsageError(f"there are no evaluations in {runs_root}/evaluations yet; junto eval run makes one")
    if explained:
        from graphs.evaluation.disagreements import explain_disagreements

        firsts: dict[str, Finished] = {}
        for one in found:
            first = firsts.setdefault(one.about["name"], one)
            if one is not first and "reward" in one.results["metrics"]:
                explain_disagreements(first, one, explained, lambda said: print(said, file=sys.stderr))
    written = write_page(found, to or runs_root / "evaluations" / "report.html")
    return {"files": [str(path) for path in written]}


def score(name: str, assignments: Sequence[str], runs_root: Path) -> dict[str, Any]:
    from graphs.evaluation.rescore import rescore

    finished = comparisons.found(name, runs_root)
    rescore(finished, assignments)
    return {"evaluations": [_shown(comparisons.read(finished.path))]}


def prompt(name: str, item: str | None, assignments: Sequence[str], runs_root: Path) -> dict[str, Any]:
    from graphs.evaluation.items import chosen_items
    from graphs.evaluation.run import Asked, prepare

    one = prepare(name, replace(Asked(runs_root), overrides=assignments))
    return chosen_items(one.items, None, [item] if item else [])[0]


def print_prompt(item: dict[str, Any], out: Console) -> None:
    given: Any = item.get("prompt", item.get("text"))
    messages = [{"role": "text", "content": given}] if isinstance(given, str) else given
    for message in messages:
        out.print(f"[{message['role']}]\n{printable(message['content'])}")
    for key in ("targets", "choices", "answer", "chosen", "rejected"):
        if key in item:
            out.print(f"[{key}]\n{printable(json.dumps(item[key], ensure_ascii=False))}")


def print_results(found: Sequence[dict[str, Any]], out: Console) -> None:
    if not found:
        out.print("there are no evaluations yet; make one: junto eval run EVALUATION --model MODEL")
        return
    table = Table("evaluation", "model", "items", "metric", "value", "95% interval", box=None, pad_edge=False)
    for one in found:
        results = one["results"]
        items = str(results["n"]) if results["complete"] else f"{results['n']} of {results['asked']}"
        items += f", {results['errors']} failed" if results["errors"] else ""
        several = f", {len(one['seed'])} seeds together" if isinstance(one["seed"], list) else ""
        head = [printable(one["name"].split("/")[0] if several else one["name"])]
        head += [printable(one["subject"]) + several, items]
        for name, figure in results["metrics"].items():
            if isinstance(figure, dict) and "value" in figure:
                table.add_row(*head, name, _number(name, figure["value"]), _interval(name, figure))
            elif isinstance(figure, int | float):
                table.add_row(*head, name, f"{figure:.4g}", "")
            else:
                continue
            head = ["", "", ""]
    out.print(table)
    for one in found:
        for each in one["results"].get("requirements", []):
            verdict = "met" if each["met"] else "NOT met"
            out.print(f"{printable(one['name'])}: {each['requirement']} is {verdict} ({each['value']:.4g})")


def print_comparisons(found: Sequence[dict[str, Any]], out: Console) -> None:
    for one in found:
        out.print(f"{printable(one['second'])} against {printable(one['first'])}, {one['n']} items in common")
        table = Table("metric", "first", "second", "difference", "95% interval", box=None, pad_edge=False)
        for name, figures in one["metrics"].items():
            difference = figures["difference"]
            values = [_number(name, figures[key]) for key in ("first", "second")]
            table.add_row(name, *values, _number(name, difference["value"], "+"), _interval(name, difference, "+"))
        out.print(table)
        for key in ("win_rate", "win_rate_at_equal_length"):
            if key in one:
                words = key.replace("_", " ")
                value, low, high = (f"{one[key][part]:.1%}" for part in ("value", "low", "high"))
                out.print(f"{words} of the second: {value} [{low}, {high}]")
        if "note" in one:
            out.print(one["note"])


def _shown(one: Finished) -> dict[str, Any]:
    about = {key: one.about.get(key) for key in ("subject", "seed", "judge", "updated")}
    path = [str(part.path) for part in one.parts] or str(one.path)
    return {"name": one.name, "path": path, **about, "results": one.results}


def _number(name: str, value: float, sign: str = "") -> str:
    if name in RIGHT_OR_WRONG or name.startswith("pass@"):
        return f"{100 * value:{sign}.1f} {'points' if sign else '%'}"
    return f"{value:{sign}.4g}"


def _interval(name: str, figure: dict[str, Any], sign: str = "") -> str:
    return f"{_number(name, figure['low'], sign)} to {_number(name, figure['high'], sign)}"
