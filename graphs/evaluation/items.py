"""The rows of an evaluation's file as items: what is asked, and what would be right. Free of torch.

An item is ``{"id", "place"}`` and, by the evaluation's kind: ``prompt`` and ``targets``; ``prompt``, ``choices`` and
``answer`` (a number); ``text``; or ``prompt``, ``chosen`` and ``rejected``. A prompt is a list of messages, or text
that is gone on with. The id is a hash of what is asked: it does not change where rows are added or moved.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import SandboxedEnvironment

from alignment.errors import UsageError
from graphs.evaluation.config import Evaluation
from graphs.rows import kind_of, preference
from graphs.tasks import Row
from graphs.tasks.jsonl import file_at, records

TEMPLATES = SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)


def load_items(evaluation: Evaluation, base: Path) -> list[Row]:
    """The items of the evaluation's split in the file's order. Raises UsageError for a file or row that is not as the
    evaluation says, and where nothing is left."""
    data = evaluation.data
    given = data[evaluation.split] if isinstance(data, dict) else data
    path = file_at("data", given, base)
    rows = _rows(path)
    examples, asked = _examples(evaluation, rows, base)
    before = "".join(_solved(evaluation, row, place) + evaluation.shots.separator for place, row in examples)
    found = [_item(evaluation, row, place, before) for place, row in asked]
    if not found:
        raise UsageError(f"{path}: there is nothing to ask; {len(rows)} rows, {len(examples)} of them examples")
    return _named(found)


def chosen_items(items: Sequence[Row], limit: float | None, ids: Sequence[str]) -> list[Row]:
    """The first ``limit`` items, a number or a share below 1, or those whose id (or its beginning) is named. Raises
    UsageError for one that there is not."""
    if ids:
        absent = [one for one in ids if not any(item["id"].startswith(one) for item in items)]
        if absent:
            raise UsageError(f"there is no sample {absent[0]!r}; ids are like {items[0]['id']}, see samples.jsonl")
        return [item for item in items if any(item["id"].startswith(one) for one in ids)]
    if limit is None:
        return list(items)
    count = int(limit) if limit >= 1 else max(1, round(limit * len(items)))
    return list(items[:count])


def _rows(path: Path) -> list[tuple[str, Row]]:
    if path.name.removesuffix(".gz").endswith(".txt"):
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        try:
            return [("the text", {"text": raw.decode("utf-8-sig")})]
        except UnicodeDecodeError:
            raise UsageError(f"{path}: not text in UTF-8; save it as UTF-8") from None
    found = []
    for place, read in records(path):
        try:
            row = read()
        except ValueError as error:
            raise UsageError(f"{path}, {place}: {error}") from None
        if not isinstance(row, dict):
            raise UsageError(f"{path}, {place}: expected an object of keys and values, and found {kind_of(row)}")
        found.append((f"{path.name}, {place}", row))
    return found


def _examples(
    evaluation: Evaluation, rows: list[tuple[str, Row]], base: Path
) -> tuple[list[tuple[str, Row]], list[tuple[str, Row]]]:
    shots = evaluation.shots
    if not shots.n:
        return [], rows
    pool = rows if shots.data is None else _rows(file_at("shots.data", shots.data, base))
    if len(pool) < shots.n + (shots.data is None):
        raise UsageError(f"shots.n is {shots.n}, and there are {len(pool)} rows; give more, or fewer examples")
    drawn = random.Random(shots.seed).sample(pool, shots.n)
    places = {place for place, _ in drawn} if shots.data is None else set()
    return drawn, [(place, row) for place, row in rows if place not in places]


def _item(evaluation: Evaluation, row: Row, place: str, before: str) -> Row:
    if evaluation.kind == "pairs":
        return _pair(evaluation, row, place)
    asked = _text(evaluation.prompt, row, "prompt", place)
    if evaluation.kind == "text":
        return {"place": place, "text": asked}
    item: Row = {"place": place, "prompt": _prompt(evaluation, before + asked)}
    if evaluation.kind == "choice":
        choices, answer = _choices(evaluation, row, place)
        return item | {"choices": choices, "answer": answer}
    return item | {"targets": _targets(evaluation, row, place)}


def _prompt(evaluation: Evaluation, text: str) -> Any:
    if not evaluation.chat:
        return text
    head = [{"role": "system", "content": evaluation.system}] if evaluation.system else []
    return [*head, {"role": "user", "content": text}]


def _solved(evaluation: Evaluation, row: Row, place: str) -> str:
    asked = _text(evaluation.prompt, row, "prompt", place)
    if evaluation.kind == "choice":
        choices, answer = _choices(evaluation, row, place)
        return asked + evaluation.delimiter + choices[answer]
    targets = _targets(evaluation, row, place)
    if not targets:
        raise UsageError(f"{place}: an example has to have a target")
    return asked + evaluation.delimiter + targets[0]


def _pair(evaluation: Evaluation, row: Row, place: str) -> Row:
    usual = Evaluation.model_fields
    if all(getattr(evaluation, key) == usual[key].default for key in ("prompt", "chosen", "rejected")):
        try:
            found = preference(row)
        except ValueError as error:
            raise UsageError(f"{place}: {error}") from None
        if "chosen" not in found:
            raise UsageError(f"{place}: expected a pair of answers, and found one with a score")
        return {"place": place} | {key: found[key] for key in ("prompt", "chosen", "rejected")}
    parts = {key: _text(getattr(evaluation, key), row, key, place) for key in ("prompt", "chosen", "rejected")}
    return {"place": place} | parts | {"prompt": _prompt(evaluation, parts["prompt"])}


def _targets(evaluation: Evaluation, row: Row, place: str) -> list[str]:
    if evaluation.target is None:
        return []
    found = _value(evaluation.target, row, "target", place)
    targets = [str(one) for one in found] if isinstance(found, list) else [str(found)]
    if not targets:
        raise UsageError(f"{place}: the target is an empty list")
    return targets


def _choices(evaluation: Evaluation, row: Row, place: str) -> tuple[list[str], int]:
    assert evaluation.choices is not None
    found: Any = None
    if isinstance(evaluation.choices, list):
        choices = [_rendered(one, row, "choices", place) for one in evaluation.choices]
    else:
        found = _value(evaluation.choices, row, "choices", place)
        if not isinstance(found, list | dict):
            raise UsageError(f"{place}: choices is {kind_of(found)}; expected a list, or an object of labels")
        choices = [str(one) for one in found]
    if len(choices) < 2:
        raise UsageError(f"{place}: {len(choices)} choices; a question has at least two")
    if "" in choices:
        raise UsageError(f"{place}: choice {choices.index('')} is empty; an empty text is always the most likely one")
    if evaluation.answer is None:
        right = [i for i, choice in enumerate(choices) if isinstance(found, dict) and found[choice]]
        if len(right) != 1:
            raise UsageError(f'{place}: {len(right)} choices are labelled right; expected one, or name the "answer"')
        return choices, right[0]
    answer = _value(evaluation.answer, row, "answer", place)
    if isinstance(answer, str) and answer in choices:
        return choices, choices.index(answer)
    number = int(answer) if isinstance(answer, int) or (isinstance(answer, str) and answer.strip().isdecimal()) else -1
    if not 0 <= number < len(choices):
        raise UsageError(f"{place}: the answer {answer!r} is none of the {len(choices)} choices, nor its number from 0")
    return choices, number


def _text(given: str, row: Row, key: str, place: str) -> str:
    return str(_value(given, row, key, place))


def _value(given: str, row: Row, key: str, place: str) -> Any:
    """What a template makes of the row, or what stands under a (dotted) key."""
    if "{{" in given or "{%" in given:
        return _rendered(given, row, key, place)
    found: Any = row
    for part in given.split("."):
        try:
            found = found[int(part)] if isinstance(found, list) else found[part]
        except (KeyError, IndexError, ValueError, TypeError):
            raise UsageError(f'{place}: there is no "{given}" for {key}; the row has {", ".join(row)}') from None
    return found


def _rendered(template: str, row: Row, key: str, place: str) -> str:
    try:
        return TEMPLATES.from_string(template).render(row)
    except (TemplateError, TypeError, ArithmeticError) as error:
        raise UsageError(f"{place}: {key}: {str(error).rstrip('.')}; the row has {', '.join(row)}") from None


def _named(items: list[Row]) -> list[Row]:
    """With an id each: a hash of what is asked, and a number behind it where that is asked again."""
    seen: Counter[str] = Counter()
    found = []
    for item in items:
        asked = json.dumps({key: value for key, value in item.items() if key != "place"}, sort_keys=True)
        name = hashlib.sha256(asked.encode()).hexdigest()[:12]
        seen[name] += 1
        found.append({"id": name if seen[name] == 1 else f"{name}-{seen[name]}"} | item)
    return found
