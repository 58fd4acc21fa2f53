"""The verbs ``junto runs ...``: their options; the work is in ``graphs.cli.runs``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphs.cli.options import Json, RunsRoot

app = typer.Typer(no_args_is_help=True, help="The runs that there are, and what they hold.")


@app.command("ls")
def runs_ls(json: Json = False, runs_root: RunsRoot = Path("runs")) -> None:
    """List the runs, the newest first."""
    from graphs.cli import runs
    from graphs.cli.output import console, results, write_json

    with results(json) as out:
        listing = runs.list_runs(runs_root)
        if json:
            write_json(listing, out)
        else:
            runs.print_runs(listing, console(out))


@app.command("show")
def runs_show(
    name: Annotated[str, typer.Argument(help="A run, by name or path.")],
    json: Json = False,
    runs_root: RunsRoot = Path("runs"),
) -> None:
    """State, results and files of one run."""
    from alignment.run_dir import RunDir
    from graphs.cli import runs
    from graphs.cli.output import console, results, write_json

    with results(json) as out:
        shown = runs.show_run(RunDir.open(name, runs_root))
        if json:
            write_json(shown, out)
        else:
            runs.print_run(shown, console(out))


@app.command("compare")
def runs_compare(
    names: Annotated[list[str], typer.Argument(metavar="RUN RUN...", help="Runs, by name or path.")],
    json: Json = False,
    runs_root: RunsRoot = Path("runs"),
) -> None:
    """Figures of two or more runs side by side, and the settings in which they differ."""
    from alignment.errors import UsageError
    from alignment.run_dir import RunDir
    from graphs.cli import runs_compare as comparison
    from graphs.cli.output import console, results, write_json

    with results(json) as out:
        if len(names) < 2:
            raise UsageError("runs compare needs two runs; junto runs ls lists them")
        compared = comparison.compare_runs([RunDir.open(name, runs_root) for name in names])
        if json:
            write_json(compared, out)
        else:
            comparison.print_compared(compared, console(out))


@app.command("rm")
def runs_rm(
    names: Annotated[list[str], typer.Argument(metavar="RUN...", help="Runs, by name.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    runs_root: RunsRoot = Path("runs"),
) -> None:
    """Remove runs for good, after a question."""
    from graphs.cli.runs_remove import remove_runs

    for name in remove_runs(names, runs_root, yes):
        print(f"removed {name}")


@app.command("decide")
def runs_decide(
    name: Annotated[str, typer.Argument(metavar="RUN", help="A run that waits, by name or path.")],
    decision: Annotated[str, typer.Argument(help="approve or reject.")],
    message: Annotated[str, typer.Option("--message", help="Why.")] = "",
    runs_root: RunsRoot = Path("runs"),
) -> None:
    """Decide for a run that waits before a stage; its own command then goes on."""
    from alignment.run_dir import RunDir
    from graphs.gate_person import decide

    run = RunDir.open(name, runs_root)
    stage = decide(run, decision, message)
    print(f"{decision} before {stage}; go on: junto run align {run.path}/config.yaml --run {run.path.name}")
