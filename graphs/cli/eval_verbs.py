"""The verbs ``junto eval ...``: their options; the work is in ``graphs.cli.evaluation``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from alignment.errors import UsageError
from graphs.cli.options import Json, RunsRoot

app = typer.Typer(no_args_is_help=True, help="Evaluate models: run, list, compare and score anew.")


@app.command("run")
def eval_run(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="EVALUATION...", help="YAML files of evaluations or recipes, runs, or knowledge, sense, plain-text."
        ),
    ],
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            help="A run, run:sft, run:policy, run:base, run:council, a hub id, a folder, embedded, or "
            "http://host:port/v1#model-name; may be repeated.",
        ),
    ] = None,
    limit: Annotated[
        float | None, typer.Option("--limit", min=0, help="The first so many items; below 1 that share of them.")
    ] = None,
    ids: Annotated[
        list[str] | None, typer.Option("--sample-id", help="Only these items, by id; may be repeated.")
    ] = None,
    seeds: Annotated[
        list[int] | None,
        typer.Option("--seed", min=0, help="Of sampling; several are also measured together. Default: 0."),
    ] = None,
    judge: Annotated[str | None, typer.Option("--judge", metavar="RUN", help="Whose reward model scores.")] = None,
    seconds: Annotated[float | None, typer.Option("--seconds", min=0, help="Per evaluation and model, about.")] = None,
    tokens: Annotated[
        int | None, typer.Option("--max-total-tokens", min=1, help="Per evaluation and model, about.")
    ] = None,
    errors: Annotated[int, typer.Option("--max-errors", min=0, help="Items that may fail.")] = 0,
    engine: Annotated[str, typer.Option("--engine", help="local, or ray: several processes, or machines.")] = "local",
    workers: Annotated[int, typer.Option("--workers", min=1, help="Of Ray.")] = 2,
    require: Annotated[
        list[str] | None,
        typer.Option("--require", metavar="'METRIC >= X'", help="Exit with 1 where it is not so; may be repeated."),
    ] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=VALUE", help="Override a key; may be repeated.")
    ] = None,
    json: Json = False,
    runs_root: RunsRoot = Path("runs"),
) -> None:
    """Evaluate models. The same command again goes on where it stopped, and asks nothing twice."""
    from graphs.cli import evaluation
    from graphs.cli.output import console, results, write_json
    from graphs.evaluation.graph import Limits
    from graphs.evaluation.require import parsed
    from graphs.evaluation.run import Asked

    limits = Limits(seconds, tokens, errors)
    required = [parsed(one) for one in require or []]
    if engine not in ("local", "ray"):
        raise UsageError(f"there is no engine {engine!r}; there are local and ray")
    several = workers if engine == "ray" else 0
    asked = Asked(runs_root, assignments or [], limit, ids or [], seeds or [0], judge, limits, required, several)
    with results(json) as out:
        found = evaluation.run(names, models or [], asked)
        if json:
            write_json(found, out)
        else:
            evaluation.print_results(found["evaluations"], console(out))
    if not all(one["met"] for each in found["evaluations"] for one in each["results"].get("requirements", [])):
        raise typer.Exit(1)


@app.command("ls")
def eval_ls(json: Json = False, runs_root: RunsRoot = Path("runs")) -> None:
    """List the evaluations that there are."""
    from graphs.cli import evaluation
    from graphs.cli.output import console, results, write_json

    with results(json) as out:
        found = evaluation.listing(runs_root)
        if json:
            write_json(found, out)
        else:
            evaluation.print_results(found["evaluations"], console(out))


@app.command("compare")
def eval_compare(
    names: Annotated[list[str], typer.Argument(metavar="FIRST SECOND...", help="Evaluations, by folder.")],
    json: Json = False,
    runs_root: RunsRoot = Path("runs"),
) -> None:
    """Paired differences between evaluations: each of the others against the first."""
    from graphs.cli import evaluation
    from graphs.cli.output import console, results, write_json

    with results(json) as out:
        found = evaluation.compare(names, runs_root)
        if json:
            write_json(found, out)
        else:
            evaluation.print_comparisons(found["comparisons"], console(out))


@app.command("report")
def eval_report(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME...]", help="Evaluations, by folder; all without a name.")
    ] = None,
    to: Annotated[Path | None, typer.Option("--to", metavar="FILE", help="Where the page is written.")] = None,
    explained: Annotated[
        int,
        typer.Option("--explain", min=0, help="So many of the largest differences in reward to the first model."),
    ] = 0,
    json: Json = False,
    runs_root: RunsRoot = Path("runs"),
) -> None:
    """Write one page of evaluations: figures, paired differences, samples; and its plots as pictures."""
    from graphs.cli import evaluation
    from graphs.cli.output import console, results, write_json

    with results(json) as out:
        found = evaluation.report(names or [], to, explained, runs_root)
        if json:
            write_json(found, out)
        else:
            console(out).print("\n".join(found["files"]))


@app.command("score")
def eval_score(
    name: Annotated[str, typer.Argument(help="An evaluation, by folder.")],
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="A.B=VALUE", help="metrics, extract, pass_at, rouge, bleu or chrf anew."),
    ] = None,
    json: Json = False,
    runs_root: RunsRoot = Path("runs"),
) -> None:
    """Score the samples that there are anew, without asking a model."""
    from graphs.cli import evaluation
    from graphs.cli.output import console, results, write_json

    with results(json) as out:
        found = evaluation.score(name, assignments or [], runs_root)
        if json:
            write_json(found, out)
        else:
            evaluation.print_results(found["evaluations"], console(out))


@app.command("show-prompt")
def eval_show_prompt(
    name: Annotated[str, typer.Argument(metavar="EVALUATION", help="A YAML file of one or of a recipe, or a run.")],
    item: Annotated[str | None, typer.Option("--sample-id", help="Which item; the first without it.")] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=VALUE", help="Override a key; may be repeated.")
    ] = None,
    json: Json = False,
    runs_root: RunsRoot = Path("runs"),
) -> None:
    """Print what a model would be asked, and what would be right, before anything is loaded."""
    from graphs.cli import evaluation
    from graphs.cli.output import console, results, write_json

    with results(json) as out:
        found = evaluation.prompt(name, item, assignments or [], runs_root)
        if json:
            write_json(found, out)
        else:
            evaluation.print_prompt(found, console(out))
