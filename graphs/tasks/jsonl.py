"""A user's own files as a task: instructions, preference pairs and prompts, without a checker.

Files are ``.jsonl``, ``.json`` (an array of rows), either with ``.gz``. Rows may be written as

- instructions: ``{"prompt", "completion"}``; ``{"messages": [...]}`` that end with the assistant;
  ``{"instruction", "input", "output"}`` (Alpaca); ``{"input": "### Human: ... ### Assistant:", "output"}``
- pairs: ``{"prompt", "chosen", "rejected"}``; ``{"instruction", "input", "chosen", "rejected"}``; or whole
  dialogues ``{"chosen", "rejected"}`` of ``\\n\\nHuman: ... \\n\\nAssistant: ...`` that differ in the last answer;
  each may have a ``"margin"``
- a prompt and an answer of these may be lists of messages, as in TRL's conversational form; an answer's own messages
  go on from the prompt, or repeat it first
- scores, in place of pairs (``reward.loss: regression``): ``{"prompt", "response", "score"}``;
  ``{"instruction", "input", "output", "score"}``; a plain ``{"text", "score"}``
- prompts: ``{"prompt"}`` or any row of the first two whose prompt stands apart from its answers, which are not read.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from alignment.config import Settings
from alignment.errors import UsageError
from graphs import rows as shapes
from graphs.rows import Messages
from graphs.tasks import Row, Splits, TaskData
from graphs.tasks.generated import split_of

STEP: str | None = None  # any line is a step
NAMED = 3  # rows that a note names


class Options(Settings):
    """Paths are relative to the recipe's folder; ``~`` and ``$VARIABLE`` are expanded."""

    instructions: str = Field(min_length=1, description="file to fine-tune on")
    pairs: str = Field(
        "", description="file of preferences, or of scores; empty: none, where reward.function is the reward"
    )
    prompts: str = Field(min_length=1, description="file of prompts for PPO and evaluation")
    validation: float = Field(0.1, gt=0, lt=1, description="share of the prompts that is held out")
    test: float = Field(
        0.0, ge=0, lt=1, description="share of the prompts that is kept for the test, beside validation"
    )
    limit: int | None = Field(None, ge=1, description="rows read from each file, from the top; null: all")
    system: str = Field("", description="system text before every prompt that has none; empty: none")
    bad_rows: Literal["refuse", "skip"] = Field("refuse", description="skip: leave malformed rows out and count them")
    duplicates: Literal["keep", "refuse", "skip"] = Field(
        "keep",
        description="instructions and pairs that repeat an earlier row; skip: leave them out. Counted in any case; "
        "repeated prompts are always left out",
    )


def load(options: Options, seed: int, base: str | Path = ".") -> TaskData:
    """Rows of the three files, split by a hash of the prompt.

    The split depends on nothing but the prompt: equal prompts are on one side, in all three files and for
    every seed. Rows of instructions and pairs with a prompt of the test are left out. Raises UsageError for a file or
    row that is not as described above, or for an empty split.
    """
    notes: list[str] = []
    files: dict[str, tuple[Path, list[Row]]] = {}
    parsers = {"instructions": shapes.instruction, "pairs": shapes.preference, "prompts": shapes.question}
    for key, parse in parsers.items():
        if not getattr(options, key):
            continue
        path = file_at(f"data.{key}", getattr(options, key), Path(base))
        rows = _rows(path, parse, options, notes)
        if key == "pairs":
            rows = _one_kind(path, rows, options, notes)
        files[key] = path, _distinct(path, rows, options, notes)
    prompts = _split(*files["prompts"], options)
    test = {row["id"] for row in prompts.get("test", [])}
    learned = {key: _split(*file, options, test) for key, file in files.items() if key != "prompts"}
    for key, part in learned.items():
        if left := part.pop("test", []):
            notes.append(f"{files[key][0]}: {len(left)} rows left out, whose prompts the test asks")
    pairs = learned.get("pairs", {"train": [], "validation": []})
    return TaskData(sft=learned["instructions"], pairs=pairs, prompts=prompts, notes=notes)


def prompt(question: str, board: Sequence[str] = (), persona: str = "") -> Messages:
    """The messages for one expert: ``persona`` is the system text, ``board`` the steps that its peers shared."""
    text = question
    if board:
        text += "\n\nWhat the others have written:\n" + "\n".join(f"- {step}" for step in board)
    head = [{"role": "system", "content": persona}] if persona else []
    return [*head, {"role": "user", "content": text}]


def check(question: str, response: str) -> bool | None:
    """Free text has no checker."""
    return None


def validate_question(question: str) -> str:
    """The question without the space around it; an empty one is a UsageError."""
    if not question.strip():
        raise UsageError('the question is empty; give some text, for example --question "How do I descale a kettle?"')
    return question.strip()


# -- files ------------------------------------------------------------------------------------------------


def read(path: Path, parse: Callable[[Any], Row], system: str = "") -> tuple[list[Row], list[str]]:
    """The rows of one file as ``parse`` makes them, each with its ``"source"``, and notes on malformed ones, which are
    left out; ``system`` as in ``Options``. Raises UsageError for a file that cannot be read, or has no sound row."""
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    notes: list[str] = []
    rows = _rows(path, parse, Options(instructions="-", prompts="-", system=system, bad_rows="skip"), notes)
    if not rows:
        raise UsageError(f"{path}: the file has no rows" if not notes else f"no row is sound; {notes[0]}")
    return rows, notes


def file_at(where: str, given: str, base: Path) -> Path:
    """The file that the key ``where`` of a recipe names. Raises UsageError where there is none."""
    expanded = os.path.expandvars(given)
    unset = re.search(r"\$(\w+|\{\w*\})", expanded)
    if unset and unset[0] in given:
        raise UsageError(f"{where}: the environment variable {unset[0]} of {given!r} is not set; set it")
    path = base / Path(expanded).expanduser()
    if not path.is_file():
        raise UsageError(f"{where}: there is no file {path}; a path is relative to the folder of the YAML")
    return path


def _rows(path: Path, parse: Callable[[Any], Row], options: Options, notes: list[str]) -> list[Row]:
    rows: list[Row] = []
    skipped: list[str] = []
    for place, read in records(path):
        if options.limit is not None and len(rows) == options.limit:
            break
        try:
            row = parse(read())
        except ValueError as error:
            skipped.append(f"{place}: {error}")
            continue
        if options.system and row["prompt"] and row["prompt"][0]["role"] != "system":
            row["prompt"] = [{"role": "system", "content": options.system}, *row["prompt"]]
        rows.append(row | {"source": f"{path.name}, {place}"})
    _malformed(path, skipped, options, notes)
    return rows


def _malformed(path: Path, found: list[str], options: Options, notes: list[str]) -> None:
    """A note that counts and names malformed rows, or the UsageError where the recipe refuses them."""
    if not found:
        return
    also = _listed([said.partition(":")[0] for said in found[1:]])
    if options.bad_rows == "refuse":
        more = f" ({len(found)} malformed rows; also {also})" if also else ""
        raise UsageError(f"{path}, {found[0]}; correct the row, or set data.bad_rows: skip{more}")
    also = f"; also {also}" if also else ""
    notes.append(f"{path.name}: {len(found)} malformed rows left out (the first, {found[0]}{also})")


def _listed(names: list[str]) -> str:
    """The first few names, and how many more there are."""
    more = [f"{len(names) - NAMED} more"] if len(names) > NAMED else []
    return ", ".join([*names[:NAMED], *more])


def _place(row: Row) -> str:
    return row["source"].rpartition(", ")[2]


def _one_kind(path: Path, rows: list[Row], options: Options, notes: list[str]) -> list[Row]:
    """A file holds pairs or scores: the first row says which."""
    kept, skipped = [], []
    for row in rows:
        if ("score" in row) == ("score" in rows[0]):
            kept.append(row)
            continue
        this, that = ("a score", "a pair") if "score" in row else ("a pair", "a score")
        reason = f"this row is {this} and {_place(rows[0])} is {that}; expected one kind in a file"
        skipped.append(f"{_place(row)}: {reason}")
    _malformed(path, skipped, options, notes)
    return kept


def records(path: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """The rows of a file: where each row stands, and a function that decodes it (ValueError where it is broken)."""
    opened = gzip.open if path.suffix == ".gz" else open
    kind = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    if kind not in (".json", ".jsonl"):
        raise UsageError(f"{path}: the name ends in {kind or 'nothing'!r}; expected .jsonl, .json, or one with .gz")
    try:
        with opened(path, "rt", encoding="utf-8-sig") as stream:
            if kind == ".jsonl":
                for number, line in enumerate(stream, start=1):
                    if line.strip():
                        yield f"line {number}", partial(_decode, line)
                return
            rows = json.load(stream)
    except json.JSONDecodeError as error:
        raise UsageError(f"{path}, line {error.lineno}: broken JSON, {error.msg} (column {error.colno})") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not text in UTF-8; save it as UTF-8") from None
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{path}: cannot be read, {error}") from None
    if not isinstance(rows, list):
        raise UsageError(f"{path}: expected an array of rows, [{{...}}, ...], and found {shapes.kind_of(rows)}")
    for number, value in enumerate(rows, start=1):
        yield f"row {number}", partial(_as_it_is, value)


def _decode(line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"broken JSON, {error.msg} (column {error.colno}); expected one object per line") from None


def _as_it_is(row: Any) -> Any:
    return row


# -- split ------------------------------------------------------------------------------------------------


def _distinct(path: Path, rows: list[Row], options: Options, notes: list[str]) -> list[Row]:
    """The rows without those that repeat an earlier one, where they are to be left out; says how many there are."""
    kept, repeated = distinct(rows)
    if not repeated:
        return rows
    prompts = "id" in rows[0]
    said = f"{path.name}: {len(repeated)} repeated {'prompts' if prompts else 'rows'}"
    if options.duplicates == "refuse" and not prompts:
        raise UsageError(f"{said} ({_listed(repeated)}); remove them, or set data.duplicates to skip or keep")
    left_out = prompts or options.duplicates == "skip"
    notes.append(f"{said} {'left out' if left_out else 'kept'} ({_listed(repeated)})")
    return kept if left_out else rows


def distinct(rows: list[Row]) -> tuple[list[Row], list[str]]:
    """The rows that repeat no earlier one, and what the others repeat, by their places."""
    first: dict[str, Row] = {}
    kept, repeated = [], []
    for row in rows:
        key = row.get("id") or json.dumps({name: value for name, value in row.items() if name != "source"})
        if key not in first:
            first[key] = row
            kept.append(row)
        else:
            repeated.append(f"{_place(row)} repeats {_place(first[key])}")
    return kept, repeated


def _split(path: Path, rows: list[Row], options: Options, asked: set[str] | None = None) -> Splits:
    """Rows by their prompts. asked: of rows to learn from, what the test asks; its share has more in it."""
    parts: Splits = {name: [] for name in ("train", "validation", *(["test"] if options.test else []))}
    for row in rows:
        # a plain text has no prompt, so it stands for itself
        key = shapes.key_of(row["prompt"] or [{"role": "assistant", "content": row["response"]}])
        side = split_of(int(key, 16) / 16**16, options.validation, options.test)
        parts["train" if side == "test" and asked is not None and key not in asked else side].append(row)
    for name, part in parts.items():
        if not part and (name != "test" or asked is None):
            shares = f"data.validation {options.validation}" + (f", data.test {options.test}" if options.test else "")
            raise UsageError(
                f"{path}: the {name} split is empty ({len(rows)} rows, {shares}); give more rows or another share"
            )
    return parts
