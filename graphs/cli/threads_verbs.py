"""The verbs ``junto threads ...``: their options; the work is in ``graphs.cli.threads``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphs.cli.options import Json, RunsRoot

app = typer.Typer(no_args_is_help=True, help="What graphs have kept of their steps: sittings, revisions, chats.")

Run = Annotated[str, typer.Argument(metavar="RUN", help="A run, by name or path.")]
Thread = Annotated[str, typer.Argument(metavar="THREAD", help="A thread, or how its name begins.")]


@app.command("ls")
def threads_ls(run_name: Run, json: Json = False, runs_root: RunsRoot = Path("runs")) -> None:
    """List a run's threads, the newest first."""
    from alignment.run_dir import RunDir
    from graphs.cli import threads
    from graphs.cli.output import console, results, write_json

    with results(json) as out:
        run = RunDir.open(run_name, runs_root)
        found = threads.listing(run)
        if json:
            write_json(found, out)
        else:
            threads.print_threads(found["threads"], run, console(out))


@app.command("show")
def threads_show(run_name: Run, thread: Thread, json: Json = False, runs_root: RunsRoot = Path("runs")) -> None:
    """A thread: question, answer, what it waits for, and its checkpoints."""
    from alignment.run_dir import RunDir
    from graphs.cli import threads
    from graphs.cli.output import console, results, write_json

    with results(json) as out:
        found = threads.shown(RunDir.open(run_name, runs_root), thread)
        if json:
            write_json(found, out)
        else:
            threads.print_thread(found, console(out))


@app.command("resume")
def threads_resume(
    run_name: Run,
    thread: Thread,
    decision: Annotated[
        str | None, typer.Option("--decision", help="approve, edit or reject, where it waits for one.")
    ] = None,
    answer: Annotated[str | None, typer.Option("--answer", help="The answer, for --decision edit.")] = None,
    reason: Annotated[str, typer.Option("--reason", help="Why, for --decision reject.")] = "",
    allow_code: Annotated[
        bool, typer.Option("--allow-code", help="Experts with code: true may run code they write, in a sandbox.")
    ] = False,
    json: Json = False,
    runs_root: RunsRoot = Path("runs"),
) -> None:
    """Go on with a thread that was interrupted, or that waits for a decision."""
    from alignment.run_dir import RunDir
    from graphs.cli import threads
    from graphs.cli.council import print_result
    from graphs.cli.output import console, results, write_json

    with results(json) as out:
        result = threads.resume(RunDir.open(run_name, runs_root), thread, decision, answer, reason, json, allow_code)
        if json:
            write_json(result, out)
        elif "thoughts" in result:
            print_result(result, console(out))
        else:
            print(f"answer: {result['answer']}", file=out)


@app.command("fork")
def threads_fork(
    run_name: Run,
    thread: Thread,
    to: Annotated[str, typer.Option("--to", metavar="NAME", help="Name of the copy.")],
    at: Annotated[
        str | None, typer.Option("--at", metavar="CHECKPOINT", help="Up to this checkpoint; without it, whole.")
    ] = None,
    runs_root: RunsRoot = Path("runs"),
) -> None:
    """Copy a thread up to a checkpoint, to go on differently from there."""
    from alignment.run_dir import RunDir
    from graphs import kept_threads
    from graphs.cli.threads import database_of

    run = RunDir.open(run_name, runs_root)
    with kept_threads.opened(database_of(run)) as saver:
        count = kept_threads.fork(saver, kept_threads.found(saver, thread), to, at)
    print(f"{to}: {count} checkpoints; junto threads resume {run.path.name} {to} goes on")


@app.command("prune")
def threads_prune(
    run_name: Run,
    threads: Annotated[list[str] | None, typer.Argument(metavar="[THREAD...]", help="Without one, all.")] = None,
    days: Annotated[
        float | None, typer.Option("--older-than", metavar="DAYS", min=0, help="Remove threads older than this.")
    ] = None,
    runs_root: RunsRoot = Path("runs"),
) -> None:
    """Of threads that are done keep the last checkpoint alone; with --older-than, remove old threads altogether."""
    from alignment.run_dir import RunDir
    from graphs import kept_threads
    from graphs.cli.threads import database_of

    with kept_threads.opened(database_of(RunDir.open(run_name, runs_root))) as saver:
        chosen = [kept_threads.found(saver, name) for name in threads] if threads else kept_threads.names(saver)
        went = kept_threads.prune(saver, chosen, days)
    print(f"removed {went['threads']} threads, {went['checkpoints']} checkpoints")
