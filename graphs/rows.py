"""Rows of a user's files: every shape that is accepted, and what is wrong with one that is not. Free of torch.

Each parser takes a decoded JSON value and returns a row of ``graphs.tasks.TaskData``; it raises ValueError with a
clause that says what was found and what was expected.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from typing import Any

from graphs.tasks import Row

Messages = list[dict[str, str]]

ROLES = ("system", "user", "assistant")


def instruction(row: Any) -> Row:
    """``{"prompt": messages, "completion": text}``."""
    _object(row)
    if "messages" in row:
        messages = _asking(row["messages"], "messages")
        if messages[-1]["role"] != "assistant" or len(messages) < 2:
            raise ValueError('"messages" must end with a message of the assistant that answers one of the user')
        return {"prompt": messages[:-1], "completion": messages[-1]["content"]}
    context = _context(row, 'or "messages"')
    answer = "output" if "instruction" in row or _is_human_assistant(row) else "completion"
    before, completion = _ending(row, answer)
    return {"prompt": _joined(context, before), "completion": completion}


def preference(row: Any) -> Row:
    """``{"prompt", "chosen", "rejected"}`` with the ``"margin"`` that it may have, or ``{"prompt", "response",
    "score"}``; the prompt of a plain scored text is empty."""
    _object(row)
    if "score" in row and not {"chosen", "rejected"} & row.keys():
        return _scored(row)
    margin = {} if row.get("margin") is None else {"margin": _number(row, "margin", least=0.0)}
    return _pair(row) | margin


def _scored(row: Row) -> Row:
    score = _number(row, "score")
    if "text" in row:
        return {"prompt": [], "response": _text(row, "text"), "score": score}
    answer = "output" if "instruction" in row or _is_human_assistant(row) else "response"
    return {"prompt": _context(row, 'or "text"'), "response": _text(row, answer), "score": score}


def _pair(row: Row) -> Row:
    is_asked = "prompt" in row or "instruction" in row
    (before, chosen), (other, rejected) = (_ending(row, key, not is_asked) for key in ("chosen", "rejected"))
    if before != other:
        raise ValueError('"chosen" and "rejected" differ before their last answer; expected one dialogue, two endings')
    if chosen == rejected:
        raise ValueError('"chosen" and "rejected" are equal; expected two different answers')
    if not is_asked and all(message["role"] != "user" for message in before):
        raise ValueError(
            '"prompt" is missing; expected "prompt", "instruction", or dialogues: lists of messages, or "\\n\\nHuman:"'
        )
    context = _context(row) if is_asked else []
    return {"prompt": _joined(context, before), "chosen": chosen, "rejected": rejected}


def _ending(row: Row, key: str, is_dialogue: bool = False) -> tuple[Messages, str]:
    """What stands before the answer under ``key``, where that is a list of messages or a dialogue, and the answer."""
    if isinstance(row.get(key), list):
        messages = _messages(row[key], key)
        if messages[-1]["role"] != "assistant":
            raise ValueError(f'"{key}" ends with the {messages[-1]["role"]}; expected an answer of the assistant')
    elif is_dialogue and _text(row, key).startswith("Human:"):
        messages = _dialogue(_text(row, key), key)
    else:
        return [], _text(row, key)
    return messages[:-1], messages[-1]["content"]


def _joined(context: Messages, before: Messages) -> Messages:
    """The prompt and what an answer's own messages put before it: they go on from the prompt, or repeat it first."""
    whole = before if context in (before[: len(context)], before[-len(context) :]) else context + before
    if any(message["role"] == "system" for message in whole[1:]):
        raise ValueError("the answer begins with a system message that the prompt lacks; put it first in the prompt")
    return whole


def question(row: Any) -> Row:
    """``{"id", "question", "prompt"}``."""
    _object(row)
    context = _asking(row["messages"], "messages") if "messages" in row else _context(row, 'or "messages"')
    if context[-1]["role"] == "assistant":
        context = context[:-1]
    if context[-1]["role"] != "user":
        raise ValueError('"messages" must end with the user, or with one answer to it')
    return {"id": key_of(context), "question": context[-1]["content"], "prompt": context}


def _object(row: Any) -> None:
    if not isinstance(row, dict):
        raise ValueError(f"expected an object of keys and values, and found {kind_of(row)}")


def _text(row: Row, key: str) -> str:
    if key not in row:
        raise ValueError(f'"{key}" is missing; the row has {", ".join(map(repr, row)) or "no keys"}')
    if not isinstance(row[key], str):
        raise ValueError(f'"{key}" is {kind_of(row[key])}; expected text')
    if not row[key].strip():
        raise ValueError(f'"{key}" is empty; expected text')
    try:
        row[key].encode()
    except UnicodeEncodeError as error:  # JSON can write half a character, which no tokenizer takes
        raise ValueError(f'"{key}" holds half a character (at {error.start}); expected text') from None
    return row[key].strip()


def _number(row: Row, key: str, least: float = -math.inf) -> float:
    value = row[key]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f'"{key}" is {kind_of(value)}; expected a number')
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f'"{key}" is {"NaN" if math.isnan(number) else "infinite"}; expected a finite number')
    if number < least:
        raise ValueError(f'"{key}" is {number:g}; expected at least {least:g}')
    return number


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
    if isinstance(row["prompt"], list):
        return _asking(row["prompt"], "prompt")
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


def _messages(value: Any, key: str) -> Messages:
    if not isinstance(value, list) or not value:
        raise ValueError(f'"{key}" is {kind_of(value)}; expected a list of {{"role", "content"}}')
    messages: Messages = []
    for message in value:
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            raise ValueError(f'"{key}" holds a message whose "role" is none of {", ".join(ROLES)}')
        messages.append({"role": message["role"], "content": _text(message, "content")})
    return messages


def _asking(value: Any, key: str) -> Messages:
    messages = _messages(value, key)
    if all(message["role"] != "user" for message in messages):
        raise ValueError(f'"{key}" has none of the user; expected a question')
    return messages


def kind_of(value: Any) -> str:
    """A JSON value in words."""
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number") if value != [] else "an empty list"


def key_of(context: Messages) -> str:
    """Hash of a prompt without its system text: 16 hexadecimal digits."""
    turns = [(message["role"], message["content"]) for message in context if message["role"] != "system"]
    return hashlib.sha256(json.dumps(turns).encode()).hexdigest()[:16]
