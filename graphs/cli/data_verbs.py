"""The verbs ``junto data ...``: their options; the work is in ``graphs.cli.data_check``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphs.cli.options import Json

app = typer.Typer(no_args_is_help=True, help="Your own files of rows.")


@app.callback()
def _data() -> None:
    """Your own files of rows."""


@app.command("check")
def data_check(
    file: Annotated[Path, typer.Argument(help=".jsonl or .json (an array), either with .gz.")],
    kind: Annotated[
        str | None, typer.Option("--as", metavar="KIND", help="pairs (or scores), instructions or prompts; guessed.")
    ] = None,
    tokenizer: Annotated[str, typer.Option("--with", help="Tokenizer that counts: embedded, a folder, a hub id.")] = (
        "embedded"
    ),
    limit: Annotated[int, typer.Option("--max-length", min=1, help="Rows above so many tokens are counted.")] = 512,
    json: Json = False,
) -> None:
    """Say whether a file can be trained on: its kind, faults by line, repeats, lengths. Exit 1 where a row is bad."""
    from graphs.cli import data_check
    from graphs.cli.output import console, results, write_json

    with results(json) as out:
        found = data_check.check(file, kind, tokenizer, limit)
        if json:
            write_json(found, out)
        else:
            data_check.print_check(found, console(out))
    if found["malformed"]:
        raise typer.Exit(1)
