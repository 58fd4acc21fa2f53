"""The verbs ``junto tokenize ...``: their options; the work is in ``graphs.cli.tokenize``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphs.cli.options import Json

app = typer.Typer(no_args_is_help=True, help="Tokenizers: train one, compare them, see a word being merged.")


@app.command("train")
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


@app.command("compare")
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


@app.command("show")
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
