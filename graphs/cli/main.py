"""The entry point ``junto``: verbs, options, and what becomes of an error."""

from __future__ import annotations

import errno
import importlib.metadata
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import Abort, TyperException

from alignment.errors import JuntoError, UsageError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    help="Models that reason as a group of experts, are aligned on one machine, and can say why they decided.",
)
explain_app = typer.Typer(no_args_is_help=True, help="Why a run's reward model decided as it did.")
runs_app = typer.Typer(no_args_is_help=True, help="The runs that there are, and what they hold.")
tokenize_app = typer.Typer(no_args_is_help=True, help="Tokenizers: train one, compare them, see a word being merged.")
app.add_typer(explain_app, name="explain")
app.add_typer(runs_app, name="runs")
app.add_typer(tokenize_app, name="tokenize")

Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, everything else on stderr.")]
RunsRoot = Annotated[Path, typer.Option("--runs-root", envvar="JUNTO_RUNS", show_envvar=True, help="Folder of runs.")]
RunName = Annotated[str, typer.Option("--run", metavar="NAME|PATH", help="A run, by name or path.")]
Question = Annotated[str, typer.Option("--question", help="What the responses answer.")]
Units = Annotated[str, typer.Option("--units", help="Cut into steps, sentences or words, or auto.")]
ComputeDtype = Annotated[
    str, typer.Option("--compute-dtype", help="float32 is exact; bfloat16 saves memory, and its noise shows.")
]


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
    assignments: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=VALUE", help="Override a key; may be repeated.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved recipe and the plan only.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over instead of going on.")] = False,
    json: Json = False,
    thread: Annotated[str | None, typer.Option("--thread", help="Go on with this thread.")] = None,
    runs_root: RunsRoot = Path("runs"),
) -> None:
    """Run a graph. The same command again goes on where it stopped."""
    from graphs.cli.output import results
    from graphs.cli.run import Request, dispatch

    request = Request(graph, recipe, run_name, question, assignments or [], runs_root, dry_run, fresh, json, thread)
    with results(json) as out:
        dispatch(request, out)


@app.command()
def chat(
    model: Annotated[str, typer.Argument(help="A run, a model folder, a hub id, or embedded.")] = "embedded",
    session: Annotated[str | None, typer.Option("--session", help="Name of a session, new or kept.")] = None,
    go_on: Annotated[bool, typer.Option("--continue", help="Go on with the last session.")] = False,
    role: Annotated[str | None, typer.Option("--role", help="Role of the run that answers.")] = None,
    runs_root: RunsRoot = Path("runs"),
) -> None:
    """Talk to a model in the terminal."""
    from graphs.cli.chat import run_chat

    named = runs_root / model
    run_chat(str(named) if (named / "config.yaml").is_file() else model, session, go_on, role)


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
    role: Annotated[str | None, typer.Option("--role", help="policy or sft; without it the last trained.")] = None,
    dtype: Annotated[
        str | None, typer.Option("--dtype", help="float32 or bfloat16; without it the recipe's compute_dtype.")
    ] = None,
    json: Json = False,
    runs_root: RunsRoot = Path("runs"),
) -> None:
    """Merge a run's adapter and write a plain Hugging Face folder."""
    from alignment.run_dir import RunDir
    from graphs.cli import export as exports
    from graphs.cli.output import console, results, write_json

    with results(json) as out:
        written = exports.export_run(RunDir.open(run_name, runs_root), to, role, dtype)
        if json:
            write_json(written, out)
        else:
            lines = [f"{written['folder']}: {written['merged']}, in {written['dtype']}", f"GGUF: {written['gguf']}"]
            console(out).print("\n".join(lines))


@explain_app.command("text")
def explain_text(
    run_name: RunName,
    question: Question,
    response: Annotated[str, typer.Option("--response", help="The response to explain.")],
    units: Units = "auto",
    json: Json = False,
    compute_dtype: ComputeDtype = "float32",
    runs_root: RunsRoot = Path("runs"),
) -> None:
    """Which parts of a response made its reward."""
    from alignment.run_dir import RunDir
    from graphs.cli import explain
    from graphs.cli.output import results
    from graphs.cli.run import print_explanation

    with results(json) as out:
        kept = RunDir.open(run_name, runs_root)
        print_explanation(explain.explain_text(kept, question, response, units, compute_dtype), json, out)


@explain_app.command("pair")
def explain_pair(
    run_name: RunName,
    question: Annotated[str | None, typer.Option("--question", help="What both responses answer.")] = None,
    first: Annotated[str | None, typer.Option("--first", help="One response.")] = None,
    second: Annotated[str | None, typer.Option("--second", help="The other one.")] = None,
    units: Units = "auto",
    json: Json = False,
    compute_dtype: ComputeDtype = "float32",
    runs_root: RunsRoot = Path("runs"),
) -> None:
    """Why one response is preferred to another; without responses, the pair that the run's recipe names."""
    from alignment.run_dir import RunDir
    from graphs.cli import explain
    from graphs.cli.output import results
    from graphs.cli.run import print_explanation

    with results(json) as out:
        kept = RunDir.open(run_name, runs_root)
        print_explanation(explain.explain_pair(kept, question, first, second, units, compute_dtype), json, out)


@runs_app.command("ls")
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


@runs_app.command("show")
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


@tokenize_app.command("train")
def tokenize_train(
    files: Annotated[
        list[Path], typer.Argument(metavar="CORPUS...", help=".txt files; .jsonl files, of which every text is used.")
    ],
    folder: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="The new tokenizer's folder.")],
    vocab_size: Annotated[int, typer.Option("--vocab-size", help="Tokens, with bytes and special tokens.")] = 8000,
    min_frequency: Annotated[int, typer.Option("--min-frequency", help="A pair that is rarer is not merged.")] = 2,
    fresh: Annotated[bool, typer.Option("--fresh", help="Replace a tokenizer that is there.")] = False,
    json: Json = False,
) -> None:
    """Train a byte-level BPE tokenizer on your own text."""
    from graphs.cli import tokenize
    from graphs.cli.output import console, results, write_json

    with results(json) as out:
        trained = tokenize.train(files, folder, vocab_size, min_frequency, fresh)
        if json:
            write_json(trained, out)
        else:
            tokenize.print_trained(trained, console(out))


@tokenize_app.command("compare")
def tokenize_compare(
    file: Annotated[Path, typer.Argument(help="A text in UTF-8.")],
    names: Annotated[
        list[str], typer.Option("--with", metavar="TOKENIZER", help="embedded, a folder or a hub id; may be repeated.")
    ],
    json: Json = False,
) -> None:
    """How many tokens each tokenizer makes of a text, and whether it gives the text back."""
    from graphs.cli import tokenize
    from graphs.cli.output import console, results, write_json

    with results(json) as out:
        comparison = tokenize.compare(file, names)
        if json:
            write_json(comparison, out)
        else:
            tokenize.print_comparison(comparison, console(out))


@tokenize_app.command("show")
def tokenize_show(
    word: Annotated[str, typer.Argument(help="A word; a space before it belongs to it.")],
    name: Annotated[str, typer.Option("--tokenizer", help="embedded, a folder or a hub id.")] = "embedded",
    json: Json = False,
) -> None:
    """How a word becomes tokens, merge by merge."""
    from graphs.cli import tokenize
    from graphs.cli.output import console, results, write_json

    with results(json) as out:
        shown = tokenize.show(word, name)
        if json:
            write_json(shown, out)
        else:
            tokenize.print_merges(shown, console(out))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code: 0 fine, 1 failed, 2 usage, 3 environment, 130 interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
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
