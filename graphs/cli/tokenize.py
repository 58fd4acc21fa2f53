"""``junto tokenize``: train a tokenizer, compare tokenizers on a text, show how a word is merged."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text
from tokenizers import Tokenizer

from alignment import tokenization
from alignment.errors import JuntoError, SetupError, UsageError
from graphs.cli.output import printable
from graphs.cli.progress import Reporter, duration

CHUNK = 1 << 16  # bytes that are read at a time, to the end of a line
LONGEST_WORD = 200  # characters; every merge of a longer text would be a line as long as the text
VISIBLE = str.maketrans({" ": "␣", "\n": "↵", "\r": "␍", "\t": "⇥"})


# -- train ------------------------------------------------------------------------------------------------


def train(files: list[Path], folder: Path, vocab_size: int, min_frequency: int, fresh: bool) -> dict[str, Any]:
    """Trains on files and writes ``folder``; ``{"folder", "vocab", "merges", "asked", "bytes", "seconds"}``."""
    tokenization.check_target(folder, fresh)
    for path in files:
        if path.suffix.lower() not in (".txt", ".jsonl"):
            raise UsageError(f"{path}: expected a file named .txt (plain text) or .jsonl (one JSON value per line)")
        _check_readable(path)
    total = sum(path.stat().st_size for path in files)
    start = time.monotonic()
    with Reporter() as report:
        texts = corpus(files, _progress(report, total))
        tokenizer = _interruptible(lambda watched: tokenization.train_bpe(watched, vocab_size, min_frequency), texts)
    tokenization.save_tokenizer(tokenizer, folder, fresh=fresh)
    return {
        "folder": str(folder),
        "vocab": tokenizer.get_vocab_size(),
        "merges": len(tokenization.read_bpe(tokenizer).ranks),
        "asked": {"vocab_size": vocab_size, "min_frequency": min_frequency},
        "bytes": total,
        "seconds": round(time.monotonic() - start, 2),
    }


def _interruptible(work: Callable[[Iterator[str]], Tokenizer], texts: Iterator[str]) -> Tokenizer:
    """Does ``work`` on a thread, so that Ctrl-C is heard: the library trains in one call that hears nothing."""
    outcome: Future[Tokenizer] = Future()
    stopped = threading.Event()

    def watched() -> Iterator[str]:
        for text in texts:
            if stopped.is_set():
                raise KeyboardInterrupt
            yield text

    def run() -> None:
        try:
            outcome.set_result(work(watched()))
        except BaseException as error:  # raised again by result()
            outcome.set_exception(error)

    thread = threading.Thread(target=run, daemon=True)
    try:
        thread.start()
        while thread.is_alive():
            thread.join(0.2)  # in short waits: a signal that the other thread got wakes nobody here
        return outcome.result()
    except KeyboardInterrupt:
        stopped.set()
        if thread.is_alive():
            # enough to end the reading, which is Python; what the library does then ends with the process
            thread.join(1.0)
        raise


def _progress(report: Reporter, total: int) -> Callable[[int], None]:
    """Takes numbers of bytes; reports whole percents, and says when the merging begins, which has no count."""
    done, shown = 0, -1

    def advance(count: int) -> None:
        nonlocal done, shown
        done += count
        percent = 100 * done // total
        if percent != shown:
            shown = percent
            report({"stage": "read", "step": percent, "total": 100, "metrics": {"MB": done / 1e6}})
        if done >= total:
            report({"stage": "merge", "message": "learning the merges"})

    return advance


def print_trained(trained: dict[str, Any], out: Console) -> None:
    asked = trained["asked"]
    out.print(
        f"{trained['folder']}: {trained['vocab']} tokens, {trained['merges']} of them merges, "
        f"from {trained['bytes'] / 1e6:.3g} MB in {duration(trained['seconds'])}"
    )
    if trained["vocab"] < asked["vocab_size"]:
        out.print(
            f"fewer than the {asked['vocab_size']} asked for: "
            f"no other pair of symbols occurs {asked['min_frequency']} times"
        )


# -- compare ----------------------------------------------------------------------------------------------


def compare(file: Path, names: list[str]) -> dict[str, Any]:
    """``{"file", "bytes", "words", "tokenizers": rows}``, the rows as `alignment.tokenization.compare` has them."""
    text = read_text(file)
    if not text.strip():
        raise UsageError(f"{file}: the text is empty; give a file with some words in it")
    rows = tokenization.compare({name: open_tokenizer(name) for name in names}, text)
    return {"file": str(file), "bytes": len(text.encode()), "words": len(text.split()), "tokenizers": rows}


def print_comparison(comparison: dict[str, Any], out: Console) -> None:
    table = Table("tokenizer", box=None, pad_edge=False)
    for name in ("vocabulary", "tokens", "tokens/word", "bytes/token", "unknown", "lossless"):
        table.add_column(name, justify="right")
    for row in comparison["tokenizers"]:
        table.add_row(
            printable(row["tokenizer"]),
            str(row["vocab"]),
            str(row["tokens"]),
            f"{row['tokens_per_word']:.2f}",
            "" if row["bytes_per_token"] is None else f"{row['bytes_per_token']:.2f}",
            f"{row['unknown_rate']:.3%}",
            "yes" if row["lossless"] else "no",
        )
    head = f"{comparison['file']}: {comparison['words']} words, {comparison['bytes']} bytes"
    out.print(Group(Text(printable(head)), table))


# -- show -------------------------------------------------------------------------------------------------


def show(word: str, name: str) -> dict[str, Any]:
    """The merges of a word, ``{"word", "tokenizer", "steps", "tokens", "dropped"}``; symbols raw and as text."""
    if not word:
        raise UsageError("the word is empty; give some letters")
    if len(word) > LONGEST_WORD:
        raise UsageError(f"the word has {len(word)} characters; give at most {LONGEST_WORD}")
    try:
        word.encode()
    except UnicodeEncodeError:
        raise UsageError("the word is not text in UTF-8; set the terminal to UTF-8") from None
    bpe = tokenization.read_bpe(open_tokenizer(name))
    texts = tokenization.readable if bpe.byte_level else str
    encoding = bpe.tokenizer.encode(word, add_special_tokens=False)
    return {
        "word": word,
        "tokenizer": name,
        "steps": [
            {
                "merge": step.merge,
                "merge_text": step.merge and [*map(texts, step.merge)],
                "rank": step.rank,
                "symbols": step.symbols,
                "text": [*map(texts, step.symbols)],
            }
            for step in tokenization.merge_steps(bpe, word)
        ],
        "tokens": [
            {"id": number, "symbol": symbol, "text": texts(symbol)}
            for number, symbol in zip(encoding.ids, encoding.tokens, strict=True)
        ],
        "dropped": sorted(map(texts, tokenization.dropped(bpe.tokenizer, word))),
    }


def print_merges(shown: dict[str, Any], out: Console) -> None:
    table = Table("step", "rank", "merge", "symbols", box=None, pad_edge=False)
    for number, step in enumerate(shown["steps"]):
        merge = " + ".join(map(_visible, step["merge_text"] or ()))
        rank = "" if step["rank"] is None else str(step["rank"])
        # neither at the start nor where a word is taken whole is there a merge
        label = merge or ("in the vocabulary" if number else "")
        table.add_row(str(number), rank, label, " ".join(map(_visible, step["text"])))
    ids = "  ".join(f"{_visible(token['text'])} {token['id']}" for token in shown["tokens"])
    tokens = len(shown["tokens"])
    parts: list[RenderableType] = [table]
    parts.append(Text(f"{tokens} token{'' if tokens == 1 else 's'}, with ids: {ids}" if tokens else "no tokens"))
    if shown["dropped"]:
        parts.append(Text(f"left out, for want of a token: {' '.join(map(_visible, shown['dropped']))}"))
    out.print(Group(*parts))


def _visible(text: str) -> str:
    """The text with its spaces and breaks as signs, other control characters as their bytes."""
    shown = text.translate(VISIBLE)
    return "".join(c if printable(c) == c else "".join(f"<0x{byte:02X}>" for byte in c.encode()) for c in shown)


# -- reading ----------------------------------------------------------------------------------------------


def open_tokenizer(name: str) -> Tokenizer:
    """The tokenizer of ``embedded``, a folder or a hub id; raises UsageError or SetupError where there is none."""
    place = Path(name).expanduser()
    if place.is_file():
        raise UsageError(f"{name} is a file; name the folder of the tokenizer")
    if name.startswith((".", "/", "~")) and not place.is_dir():  # no hub id begins so
        raise UsageError(f"{name}: there is no such folder")
    if place.is_dir() and not any(place.glob("*token*")) and not any(place.glob("vocab*")):
        raise SetupError(f"the folder {name} holds no tokenizer (tokenizer.json); `junto tokenize train` makes one")

    from alignment.weights import load_tokenizer

    try:
        loaded = load_tokenizer(name)
    except (JuntoError, ImportError, MemoryError):
        raise
    except Exception as error:  # what a damaged tokenizer.json raises is as the damage is; the library has no class
        raise SetupError(f"the tokenizer of {name!r} is damaged ({type(error).__name__}: {error})") from error
    tokenizer = getattr(loaded, "backend_tokenizer", None)
    if tokenizer is None:
        raise SetupError(f"the tokenizer of {name!r} has no tokenizer.json; name one that has")
    return tokenizer


def read_text(path: Path) -> str:
    """A text file in UTF-8; raises UsageError, which names the offset of a byte that is not."""
    _check_readable(path)
    return "".join(text for text, _ in _decoded(path))


def corpus(files: list[Path], advance: Callable[[int], None]) -> Iterator[str]:
    """The texts of ``.txt`` files in chunks of whole lines, and every string value of ``.jsonl`` files.

    ``advance`` is told the number of bytes after every chunk. Raises UsageError with file and line or byte.
    """
    for path in files:
        lines = 0
        for text, size in _decoded(path):
            if path.suffix.lower() == ".jsonl":
                rows = text.removesuffix("\n").split("\n")
                for number, row in enumerate(rows, start=lines + 1):
                    yield from _strings_of_row(path, number, row)
                lines += len(rows)
            else:
                yield text
            advance(size)


def _strings_of_row(path: Path, number: int, row: str) -> list[str]:
    if not row.strip():
        return []
    try:
        found = list(_strings(json.loads(row)))
        "".join(found).encode()
    except UnicodeEncodeError:  # JSON can spell half a character, and no text can hold it
        raise UsageError(f"{path}, line {number}: half of a surrogate pair; write the whole character") from None
    except (ValueError, RecursionError) as error:
        what = getattr(error, "msg", "nested too deeply")
        raise UsageError(f"{path}, line {number}: broken JSON ({what}); expected one JSON value per line") from None
    return found


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _strings(inner)


def _check_readable(path: Path) -> None:
    if not os.path.exists(path):
        raise UsageError(f"{path}: there is no such file")
    if path.is_dir() or not os.access(path, os.R_OK):
        raise UsageError(f"{path}: {'a folder, not a file' if path.is_dir() else 'you may not read this file'}")


def _decoded(path: Path) -> Iterator[tuple[str, int]]:
    """Chunks of whole lines, each with its number of bytes, without the mark that some editors put first."""
    offset = 0
    with path.open("rb") as file:
        while lines := file.readlines(CHUNK):
            raw = b"".join(lines)
            try:
                text = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                where = f"byte offset {offset + error.start} (0x{raw[error.start]:02X})"
                raise UsageError(f"{path}: not text in UTF-8 at {where}; save it as UTF-8") from None
            yield text if offset else text.removeprefix("\ufeff"), len(raw)
            offset += len(raw)
