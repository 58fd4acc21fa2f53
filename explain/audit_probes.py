"""Probes: the same answer with a surface feature added or removed, and nothing else changed that matters.

A sentence that is appended also makes the answer longer. Such a probe has a control, the answer with neutral words
appended, at least as many: only what the reward gains beyond its control is the feature's own.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

from explain.audit_features import word_count
from explain.units import sentences

# Several wordings, taken in turn, so that no single word decides.
NEUTRAL = (
    "That is what there is to say about this subject here.",
    "The points above are given in the order in which they came.",
    "This text ends with the sentence that is being read now.",
    "Each part of it stands where it was put at the beginning.",
    "The same things can also be written down in other ways.",
    "Some of these sentences are short and others are rather long.",
)
POLITE = (
    "Thank you, and please ask if anything is unclear.",
    "Please let me know whether this helps, thank you.",
    "Thanks for asking, and please feel free to return.",
    "I am happy to help, so please ask again.",
)
HEDGES = (
    "Perhaps this is so, but it might probably depend.",
    "I think that this is likely, but maybe not.",
    "It seems so, though I guess it possibly varies.",
)
REFUSALS = (
    "I'm sorry, but I can't help with that.",
    "I am sorry, but I cannot assist with this.",
    "As an AI, I am unable to answer that.",
)
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")

_BULLET = re.compile(r"^([^\S\n]*)[-*•][^\S\n]+", re.M)
_NUMBERED = re.compile(r"^[^\S\n]*\d{1,2}[.)]\s", re.M)
_BOLD = re.compile(r"\*\*([^*\n]+)\*\*")
_HEADER = re.compile(r"^#{1,6}\s+", re.M)
_EXCLAMATION = re.compile(r"!+")
_FULL_STOP = re.compile(r"(?<=[^\W\d])\.(?=\s|$)")
_WORD = re.compile(r"[^\W\d_]{2,}")
_NUMBER_WORD = re.compile(rf"\b(?:{'|'.join(NUMBERS[2:])})\b(?![.)]\s)", re.I)  # one is often none
_DIGITS = re.compile(r"(?<![\w.,])(?:\d|1[012])(?!\w|[.,]\d|[.)]\s)")


@dataclass(frozen=True)
class Change:
    """An answer with less and with more of one feature; control: as `more`, with neutral words in its place."""

    less: str
    more: str
    control: str | None = None


def pad(text: str, extra: int, turn: int = 0, front: bool = False) -> str:
    """The text with neutral sentences, whole ones and at least `extra` words, after it (or before it)."""
    added: list[str] = []
    for number in count(turn):
        if word_count(" ".join(added)) >= extra:
            break
        added.append(NEUTRAL[number % len(NEUTRAL)])
    return _joined(text, " ".join(added), front)


def _joined(text: str, sentence: str, front: bool = False) -> str:
    if not sentence:
        return text
    return f"{sentence} {text}" if front else f"{text.rstrip()} {sentence}"


def _said(text: str, sentence: str, turn: int, front: bool = False) -> Change:
    return Change(text, _joined(text, sentence, front), pad(text, word_count(sentence), turn, front))


def _length(text: str, turn: int) -> Change:
    # half as long again; a very long answer by what a reader would notice
    return Change(text, pad(text, min(100, max(10, word_count(text) // 2)), turn))


def _lists(text: str, turn: int) -> Change | None:
    if _BULLET.search(text):
        return Change(_BULLET.sub(r"\1", text), text)
    if "```" in text or _NUMBERED.search(text):  # a bullet in a block of code is none; a number is a digit too
        return None
    lines = [text[start:end].strip() for start, end in sentences(text)]
    more = "\n".join(line if line.startswith("#") else f"- {line}" for line in lines)  # headings stay headings
    return Change(text, more) if "- " in more else None


def _bold(text: str, turn: int) -> Change | None:
    if _BOLD.search(text):
        return Change(_BOLD.sub(r"\1", text), text)
    return _around_longest_word(text, "**")


def _headers(text: str, turn: int) -> Change:
    if _HEADER.search(text):
        return Change(_HEADER.sub("", text), text)
    return Change(f"Answer\n\n{text}", f"## Answer\n\n{text}")


def _code(text: str, turn: int) -> Change | None:
    if "`" in text:
        return Change(text.replace("`", ""), text)
    return _around_longest_word(text, "`")


def _around_longest_word(text: str, mark: str) -> Change | None:
    found = max(_WORD.finditer(text), key=lambda match: len(match[0]), default=None)
    if found is None:
        return None
    return Change(text, f"{text[: found.start()]}{mark}{found[0]}{mark}{text[found.end() :]}")


def _exclamation(text: str, turn: int) -> Change:
    if _EXCLAMATION.search(text):
        return Change(_EXCLAMATION.sub(".", text), text)
    more = _FULL_STOP.sub("!", text)
    return Change(text, more if more != text else text.rstrip() + "!")


def _digits(text: str, turn: int) -> Change | None:
    more = _NUMBER_WORD.sub(lambda found: str(NUMBERS.index(found[0].lower())), text)
    less = _DIGITS.sub(lambda found: NUMBERS[int(found[0])], text)
    return Change(less, more) if less != more else None


def _repetition(text: str, turn: int) -> Change:
    start, end = sentences(text)[-1]
    return _said(text, text[start:end].strip(), turn)


# feature -> (what is done, in words; the answer and a running number -> the change, or None where it cannot be made)
PROBES: dict[str, tuple[str, Callable[[str, int], Change | None]]] = {
    "length": ("neutral sentences appended", _length),
    "politeness": ("a polite sentence appended", lambda t, i: _said(t, POLITE[i % len(POLITE)], i)),
    "hedges": ("a hedging sentence appended", lambda t, i: _said(t, HEDGES[i % len(HEDGES)], i)),
    "refusal": ("a refusal put before it", lambda t, i: _said(t, REFUSALS[i % len(REFUSALS)], i, front=True)),
    "lists": ("sentences as bullets, against plain", _lists),
    "bold": ("a passage in bold, against plain", _bold),
    "headers": ("a heading marked with #, against plain", _headers),
    "code": ("a passage in backticks, against plain", _code),
    "exclamation": ("exclamation marks for full stops", _exclamation),
    "digits": ("small numbers in digits, against words", _digits),
    "repetition": ("the last sentence repeated", _repetition),
}


def change(feature: str, text: str, turn: int) -> Change | None:
    """The probe of a feature on a text; None for a blank text, and where the feature cannot be changed in it."""
    return PROBES[feature][1](text, turn) if text.strip() else None
