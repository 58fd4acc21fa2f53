"""A user's own files as a task: instructions, preference pairs and prompts, without a checker.

Files are ``.jsonl``, ``.json`` (an array of rows), either with ``.gz``. Rows may be written as

- instructions: ``{"prompt", "completion"}``; ``{"messages": [...]}`` that end with the assistant;
  ``{"instruction", "input", "output"}`` (Alpaca); ``{"input": "### Human: ... ### Assistant:", "output"}``
- pairs: ``{"prompt", "chosen", "rejected"}``; ``{"instruction", "input", "chosen", "rejected"}``; or whole
  dialogues ``{"chosen", "rejected"}`` of ``\\n\\nHuman: ... \\n\\nAssistant: ...`` that differ in the last answer
- prompts: ``{"prompt"}`` or any row of the first two whose prompt stands apart from its answers, which are not read.
"""

from __future__ import annotations

import gzip
import hashlib
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
from graphs.tasks import Row, Splits, TaskData

Messages = list[dict[str, str]]

STEP: str | None = None  # any line is a step
ROLES = ("system", "user", "assistant")


class Options(Settings):
    """Paths are relative to the recipe's folder; ``~`` and ``$VARIABLE`` are expanded."""

    instructions: str = Field(min_length=1, description="file to fine-tune on")
    pairs: str = Field(min_length=1, description="file of preferences")
    prompts: str = Field(min_length=1, description="file of prompts for PPO and evaluation")
    validation: float = Field(0.1, gt=0, lt=1, description="share of the prompts that is held out")
    limit: int | None = Field(None, ge=1, description="rows read from each file, from the top; null: all")
    system: str = Field("", description="system text before every prompt that has none; empty: none")
    bad_rows: Literal["refuse", "skip"] = Field("refuse", description="skip: leave malformed rows out and count them")


def load(options: Options, seed: int, base: str | Path = ".") -> TaskData:
    """Rows of the three files, split by a hash of the prompt.

    The split depends on nothing but the prompt: equal prompts are on one side, in all three files and for
    every seed. Raises UsageError for a file or row that is not as described above, or for an empty split.
    """
    notes: list[str] = []
    parts: dict[str, Splits] = {}
    for key, parse in (("instructions", _instruction), ("pairs", _pair), ("prompts", _prompt)):
        path = _path(key, getattr(options, key), Path(base))
        rows = _rows(path, parse, options, notes)
        if key == "prompts":
            rows = _distinct(path, rows, notes)
        parts[key] = _split(path, rows, options.validation)
    return TaskData(sft=parts["instructions"], pairs=parts["pairs"], prompts=parts["prompts"], notes=notes)


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


def _path(key: str, given: str, base: Path) -> Path:
    expanded = os.path.expandvars(given)
    unset = re.search(r"\$(\w+|\{\w*\})", expanded)
    if unset and unset[0] in given:
        raise UsageError(f"data.{key}: the environment variable {unset[0]} of {given!r} is not set; set it")
    path = base / Path(expanded).expanduser()
    if not path.is_file():
        raise UsageError(f"data.{key}: there is no file {path}; a path is relative to the recipe's folder")
    return path


def _rows(path: Path, parse: Callable[[Any], Row], options: Options, notes: list[str]) -> list[Row]:
    rows: list[Row] = []
    skipped: list[str] = []
    for place, read in _records(path):
        if options.limit is not None and len(rows) == options.limit:
            break
        try:
            row = parse(read())
        except ValueError as error:
            if options.bad_rows == "refuse":
                hint = "correct the row, or set data.bad_rows: skip"
                raise UsageError(f"{path}, {place}: {error}; {hint}") from None
            skipped.append(f"{place}: {error}")
            continue
        if options.system and row["prompt"][0]["role"] != "system":
            row["prompt"] = [{"role": "system", "content": options.system}, *row["prompt"]]
        rows.append(row)
    if skipped:
        notes.append(f"{path.name}: {len(skipped)} malformed rows left out (the first, {skipped[0]})")
    return rows


def _records(path: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Where each row stands, and a function that decodes it (ValueError where it is broken)."""
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
        raise UsageError(f"{path}: expected an array of rows, [{{...}}, ...], and found {_kind(rows)}")
    for number, value in enumerate(rows, start=1):
        yield f"row {number}", partial(_as_it_is, value)


def _decode(line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"broken JSON, {error.msg} (column {error.colno}); expected one object per line") from None


def _as_it_is(row: Any) -> Any:
    return row


# -- rows -------------------------------------------------------------------------------------------------


def _instruction(row: Any) -> Row:
    _object(row)
    if "messages" in row:
        messages = _messages(row["messages"])
        if messages[-1]["role"] != "assistant" or len(messages) < 2:
            raise ValueError('"messages" must end with a message of the assistant that answers one of the user')
        return {"prompt": messages[:-1], "completion": messages[-1]["content"]}
    context = _context(row, 'or "messages"')
    answer = "output" if "instruction" in row or _is_human_assistant(row) else "completion"
    return {"prompt": context, "completion": _text(row, answer)}


def _pair(row: Any) -> Row:
    _object(row)
    chosen, rejected = _text(row, "chosen"), _text(row, "rejected")
    if chosen == rejected:
        raise ValueError('"chosen" and "rejected" are equal; expected two different answers')
    if "prompt" in row or "instruction" in row:
        return {"prompt": _context(row), "chosen": chosen, "rejected": rejected}
    if not chosen.startswith("Human:"):
        raise ValueError('"prompt" is missing; expected "prompt", "instruction", or dialogues of "\\n\\nHuman:"')
    first, second = _dialogue(chosen, "chosen"), _dialogue(rejected, "rejected")
    if first[:-1] != second[:-1]:
        raise ValueError('"chosen" and "rejected" differ before their last answer; expected one dialogue, two endings')
    return {"prompt": first[:-1], "chosen": first[-1]["content"], "rejected": second[-1]["content"]}


def _prompt(row: Any) -> Row:
    _object(row)
    context = _messages(row["messages"]) if "messages" in row else _context(row, 'or "messages"')
    if context[-1]["role"] == "assistant":
        context = context[:-1]
    if context[-1]["role"] != "user":
        raise ValueError('"messages" must end with the user, or with one answer to it')
    return {"id": _key(context), "question": context[-1]["content"], "prompt": context}


def _object(row: Any) -> None:
    if not isinstance(row, dict):
        raise ValueError(f"expected an object of keys and values, and found {_kind(row)}")


def _text(row: Row, key: str) -> str:
    if key not in row:
        raise ValueError(f'"{key}" is missing; the row has {", ".join(map(repr, row)) or "no keys"}')
    if not isinstance(row[key], str):
        raise ValueError(f'"{key}" is {_kind(row[key])}; expected text')
    if not row[key].strip():
        raise ValueError(f'"{key}" is empty; expected text')
    return row[key].strip()


def _context(row: Row, more: str = "") -> Messages:
    """The messages before the answer."""
    if _is_human_assistant(row):
        turns = _turns(row["input"], r"\s*### (Human|Assistant):")
        if turns[-1] != ("Assistant", ""):
            raise ValueError('"input" does not end in "### Assistant:"; expected the turns before the answer')
        return _alternating(turns[:-1], "input")
    if "instruction" in row:
        text = _text(row, "instruction")
        if row.get("input") not in (None, ""):
            text += "\n\n" + _text(row, "input")
        return [{"role": "user", "content": text}]
    if "prompt" not in row:
        raise ValueError(f'"prompt" is missing; expected "prompt", "instruction" {more}'.rstrip())
    return [{"role": "user", "content": _text(row, "prompt")}]


def _is_human_assistant(row: Row) -> bool:
    given = row.get("input")
    return "instruction" not in row and isinstance(given, str) and given.lstrip().startswith("### Human:")


def _dialogue(text: str, key: str) -> Messages:
    messages = _alternating(_turns("\n\n" + text, r"\n\n(Human|Assistant):"), key)
    if messages[-1]["role"] != "assistant":
        raise ValueError(f'"{key}" ends with the human; expected an answer after the last "Assistant:"')
    return messages


def _turns(text: str, marker: str) -> list[tuple[str, str]]:
    _, *pieces = re.split(marker, text)
    return [(who, said.strip()) for who, said in zip(pieces[::2], pieces[1::2], strict=True)]


def _alternating(turns: list[tuple[str, str]], key: str) -> Messages:
    for number, (who, said) in enumerate(turns):
        if not said:
            raise ValueError(f'"{key}" has an empty turn of the {who.lower()}; expected text')
        if who != ("Human", "Assistant")[number % 2]:
            raise ValueError(f'"{key}" has two turns of the {who.lower()} in a row; expected the two in turn')
    return [{"role": "user" if who == "Human" else "assistant", "content": said} for who, said in turns]


def _messages(value: Any) -> Messages:
    if not isinstance(value, list) or not value:
        raise ValueError(f'"messages" is {_kind(value)}; expected a list of {{"role", "content"}}')
    messages: Messages = []
    for message in value:
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            raise ValueError(f'"messages" holds a message whose "role" is none of {", ".join(ROLES)}')
        messages.append({"role": message["role"], "content": _text(message, "content")})
    if all(message["role"] != "user" for message in messages):
        raise ValueError('"messages" has none of the user; expected a question')
    return messages


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number") if value != [] else "an empty list"


# -- split ------------------------------------------------------------------------------------------------


def _key(context: Messages) -> str:
    """Hash of a prompt without its system text: 16 hexadecimal digits."""
    turns = [(message["role"], message["content"]) for message in context if message["role"] != "system"]
    return hashlib.sha256(json.dumps(turns).encode()).hexdigest()[:16]


def _distinct(path: Path, rows: list[Row], notes: list[str]) -> list[Row]:
    kept = list({row["id"]: row for row in reversed(rows)}.values())[::-1]
    if len(kept) < len(rows):
        notes.append(f"{path.name}: {len(rows) - len(kept)} repeated prompts left out")
    return kept


def _split(path: Path, rows: list[Row], share: float) -> Splits:
    parts: Splits = {"train": [], "validation": []}
    for row in rows:
        held_out = int(_key(row["prompt"]), 16) < share * 16**16
        parts["validation" if held_out else "train"].append(row)
    for name, part in parts.items():
        if not part:
            raise UsageError(
                f"{path}: the {name} split is empty ({len(rows)} rows, data.validation {share}); "
                "give more rows or another share"
            )
    return parts
