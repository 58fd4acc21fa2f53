"""The entry point ``junto``: verbs, options, and what becomes of an error."""

from __future__ import annotations

import errno
import importlib.metadata
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import Abort, TyperException

from alignment.errors import JuntoError, UsageError
from graphs.cli import data_verbs, eval_verbs, explain_verbs, runs_verbs, serve_verbs, threads_verbs, tokenize_verbs
from graphs.cli.options import Json, RunsRoot

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    help="Models that reason as a group of experts, are aligned on one machine, and can say why they decided.",
)
app.add_typer(data_verbs.app, name="data")
app.add_typer(eval_verbs.app, name="eval")
app.add_typer(explain_verbs.app, name="explain")
app.add_typer(runs_verbs.app, name="runs")
app.add_typer(threads_verbs.app, name="threads")
app.add_typer(tokenize_verbs.app, name="tokenize")
app.command("serve")(serve_verbs.serve)


def _version(wanted: bool) -> None:
    if wanted:
        try:
            print(f"junto {importlib.metadata.version('junto')}")
        except importlib.metadata.PackageNotFoundError:
            print("junto (from a checkout that is not installed)")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks; may stand after any verb.")] = False,
) -> None:
    """Options that stand before every verb."""


@app.command()
def doctor(
    fix: Annotated[bool, typer.Option("--fix", help="Install what can be installed safely.")] = False,
    json: Json = False,
    runs_root: RunsRoot = Path("runs"),
) -> None:
    """Check this machine; every problem comes with its remedy."""
    from graphs.cli import doctor as checks
    from graphs.cli.output import console, results, write_json

    with results(json) as out:
        found = checks.examine(runs_root)
        if fix:
            checks.fix(found)
            found = checks.examine(runs_root)
        if json:
            write_json(checks.as_json(found), out)
        else:
            checks.print_checks(found, console(out))
    if any(check.state == "problem" for check in found):
        raise typer.Exit(3)


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="A folder, new or yours.")] = Path("."),
    name: Annotated[str | None, typer.Option("--name", help="Name of the run; without it that of the folder.")] = None,
) -> None:
    """Begin a project: a recipe, and sample rows to replace by yours."""
    from graphs.cli.project import init as begin

    written = begin(folder, name)
    for path in written:
        print(f"wrote {path}")
    print(f"next: junto data check {written[1]}; junto run align {written[0]} --dry-run")


@app.command()
def schema(
    what: Annotated[str, typer.Argument(help="recipe or evaluation.")] = "recipe",
    task: Annotated[str, typer.Option("--task", help="Whose options a recipe's data has.")] = "graphs.tasks.jsonl",
) -> None:
    """JSON schema of a YAML file, by which editors complete and check it."""
    from graphs.cli.output import results, write_json
    from graphs.cli.schema import schema_of

    with results(True) as out:
        write_json(schema_of(what, task), out)


@app.command()
def graphs(
    name: Annotated[str | None, typer.Argument(help="One of them; without a name, all.")] = None,
    draw: Annotated[bool, typer.Option("--draw", help="Draw nodes and edges.")] = False,
    mermaid: Annotated[bool, typer.Option("--mermaid", help="Write them as Mermaid source.")] = False,
    json: Json = False,
) -> None:
    """List the graphs that `junto run` knows, or draw them."""
    from graphs.cli.output import results, write_json
    from graphs.cli.run import list_graphs

    with results(json) as out:
        listed = list_graphs(name, draw or mermaid)
        if json:
            write_json({"graphs": listed}, out)
        elif draw or mermaid:
            from graphs.cli.draw import print_drawings

            print_drawings(listed, mermaid, out)
        else:
            out.write("".join(f"{graph['name']:<9} {graph['summary']}\n" for graph in listed))


@app.command()
def run(
    graph: Annotated[str, typer.Argument(help="align, council, chat, evaluate, explain or revise.")],
    recipe: Annotated[Path | None, typer.Argument(help="A recipe in YAML.")] = None,
    run_name: Annotated[
        str | None, typer.Option("--run", metavar="NAME|PATH", help="A run; for align, the name of the new one.")
    ] = None,
    question: Annotated[str | None, typer.Option("--question", help="What is asked.")] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", help="Seats without a run: a hub id, a folder, or http://host:port/v1#model-name."),
    ] = None,
    task: Annotated[str | None, typer.Option("--task", help="The task of --model; the Game of 24 without it.")] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=VALUE", help="Override a key; may be repeated.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved recipe and the plan only.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over instead of going on.")] = False,
    json: Json = False,
    thread: Annotated[str | None, typer.Option("--thread", help="Go on with this thread.")] = None,
    allow_code: Annotated[
        bool, typer.Option("--allow-code", help="Experts with code: true may run code they write, in a sandbox.")
    ] = False,
    runs_root: RunsRoot = Path("runs"),
) -> None:
    """Run a graph. The same command again goes on where it stopped."""
    from graphs.cli.output import results
    from graphs.cli.request import Request
    from graphs.cli.run import dispatch

    asked = (graph, recipe, run_name, question, assignments or [], runs_root, dry_run, fresh, json, thread, model, task)
    request = Request(*asked, allow_code)
    with results(json) as out:
        dispatch(request, out)


@app.command()
def chat(
    model: Annotated[
        str, typer.Argument(help="A run, a model folder, a hub id, embedded, or http://host:port/v1#model-name.")
    ] = "embedded",
    session: Annotated[str | None, typer.Option("--session", help="Name of a session, new or kept.")] = None,
    go_on: Annotated[bool, typer.Option("--continue", help="Go on with the last session.")] = False,
    role: Annotated[str | None, typer.Option("--role", help="Role of the run that answers.")] = None,
    graph: Annotated[str, typer.Option("--graph", help="chat, or council: the run's experts answer.")] = "chat",
    runs_root: RunsRoot = Path("runs"),
) -> None:
    """Talk to a model, or to the council of a run, in the terminal."""
    from graphs.cli.chat import Wanted, run_chat

    run_chat(Wanted(model, role, graph, runs_root), session, go_on)


@app.command()
def calibrate(
    run_name: Annotated[str, typer.Argument(metavar="RUN", help="A run, by name or path.")],
    count: Annotated[int, typer.Option("--n", help="Validation questions.")] = 48,
    lines: Annotated[int, typer.Option("--lines", min=2, help="Lines that are written for each.")] = 12,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=VALUE", help="Override a key; may be repeated.")
    ] = None,
    json: Json = False,
    runs_root: RunsRoot = Path("runs"),
) -> None:
    """Measure whether leaving by score helps a run's council, and switch it on where it does."""
    from alignment.run_dir import RunDir
    from graphs.calibrate import run_calibrate
    from graphs.cli.calibrate import print_calibration
    from graphs.cli.output import console, results, write_json
    from graphs.cli.progress import Reporter

    with results(json) as out:
        run = RunDir.open(run_name, runs_root)
        with Reporter() as report:
            found = run_calibrate(run.path, assignments or [], count, lines, report)
        if json:
            write_json(found, out)
        else:
            print_calibration(found, console(out))


@app.command()
def estimate(
    recipe: Annotated[Path, typer.Argument(help="A recipe in YAML.")],
    assignments: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=VALUE", help="Override a key; may be repeated.")
    ] = None,
    json: Json = False,
) -> None:
    """Memory and time that a recipe will need, before anything is loaded."""
    from graphs.cli import estimate as estimates
    from graphs.cli.output import console, results, write_json

    with results(json) as out:
        found = estimates.estimate_recipe(recipe, assignments or [])
        if json:
            write_json(found, out)
        else:
            estimates.print_estimate(found, console(out))


@app.command()
def export(
    run_name: Annotated[str, typer.Argument(metavar="RUN", help="A run, by name or path.")],
    to: Annotated[Path, typer.Option("--to", metavar="FOLDER", help="A new folder.")],
    roles: Annotated[
        list[str] | None,
        typer.Option(
            "--role", help="policy or sft; without it the last trained. With --adapters any; may be repeated."
        ),
    ] = None,
    adapters: Annotated[bool, typer.Option("--adapters", help="The adapters alone, as a run to ship.")] = False,
    limit_mb: Annotated[
        float | None, typer.Option("--limit-mb", help="Refuse adapters that are larger, in megabytes.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option("--dtype", help="float32 or bfloat16; without it the recipe's compute_dtype.")
    ] = None,
    json: Json = False,
    runs_root: RunsRoot = Path("runs"),
) -> None:
    """Merge a run's adapter and write a plain Hugging Face folder, or write its adapters to ship them."""
    from alignment.run_dir import RunDir
    from graphs.cli import export as exports
    from graphs.cli.output import console, results, write_json

    with results(json) as out:
        run = RunDir.open(run_name, runs_root)
        written, lines = exports.export(run, to, roles or [], dtype, adapters, limit_mb)
        if json:
            write_json(written, out)
        else:
            console(out).print("\n".join(lines))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code: 0 fine, 1 failed, 2 usage, 3 environment, 130 interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if argv is None:  # the command itself: what batch systems and containers send is to it what Ctrl-C is
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        code = typer.main.get_command(app).main(args=arguments, prog_name="junto", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            traceback.print_exc()
        message, code = explain_error(error)
        if message:
            print(f"error: {message}", file=sys.stderr)
    if code == 130:
        print("interrupted; run the same command again to go on", file=sys.stderr)
    return code if isinstance(code, int) else 0


def explain_error(error: BaseException) -> tuple[str, int]:
    """One sentence for a person, empty where none is needed, and the exit code."""
    if isinstance(error, KeyboardInterrupt):
        return "", 130
    if isinstance(error, JuntoError):
        return str(error), error.exit_code
    if isinstance(error, Abort):  # the input ended at a question
        return "the input ended", 1
    if isinstance(error, TyperException):
        context = getattr(error, "ctx", None)
        if type(error).__name__ == "NoArgsIsHelpError":
            return f"a verb is missing\n\n{error.format_message()}".rstrip(), UsageError.exit_code
        where = f"; see {context.command_path} --help" if context else ""
        return error.format_message().rstrip(".") + where, error.exit_code
    if isinstance(error, ModuleNotFoundError):
        return f"the package {error.name!r} is not installed; `junto doctor` names the remedy", 3
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        at = f" at {error.filename}" if error.filename else ""
        return f"the disk is full{at}; free some space, then run the same command again to go on", 3
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate" in str(error):
        return "the memory does not suffice; lower batch_size or max_length in the recipe (--set sft.batch_size=4)", 3
    first = (str(error).strip().splitlines() or ["no message"])[0]
    return f"{type(error).__name__}: {first}; run again with --debug for the traceback", 1
