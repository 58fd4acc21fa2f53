"""The surface features that an audit asks about: each is defined here and nowhere else."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from explain.units import words

POSITION = "position"  # a property of the pair, not of a text: measured in explain.audit
POSITION_DEFINITION = "the answer was shown first"

_POLITE = (
    r"\b(?:please|thanks|thank you|kindly|you(?:'re| are) welcome|(?:happy|glad) to (?:help|assist)|my pleasure"
    r"|appreciate|apolog(?:y|ies|i[sz]e))\b"
)
_HEDGE = (
    r"\b(?:maybe|perhaps|possibly|probably|presumably|might|seems?|appears?|likely|generally|usually|sort of|kind of"
    r"|i (?:think|believe|guess|suppose)|in my opinion|it depends)\b"
)
_REFUSAL = (
    r"\b(?:i(?:'m| am) (?:sorry|afraid),? (?:but )?i|i (?:can't|cannot|can not|won't|will not)|as an ai"
    r"|i(?:'m| am) (?:not able|unable|not allowed) to|not (?:comfortable|appropriate))\b"
)
_EMOJI = "\U0001f300-\U0001faff\u2600-\u27bf"


@dataclass(frozen=True)
class Feature:
    """A surface feature of one text; `measure` gives a number that grows with it."""

    name: str
    definition: str
    measure: Callable[[str], float]


def word_count(text: str) -> int:
    """Runs without white space that hold a letter or a digit, so no bullets; Han characters and kana one by one."""
    return sum(any(map(str.isalnum, text[start:end])) for start, end in words(text))


def repeated_trigrams(text: str) -> float:
    """The share, 0 to 1, of a text's word trigrams that it has had before (case ignored)."""
    folded = text.casefold()
    run = [folded[start:end].strip() for start, end in words(folded)]
    trigrams = list(zip(run, run[1:], run[2:], strict=False))
    return 1.0 - len(set(trigrams)) / len(trigrams) if trigrams else 0.0


def _log_count(pattern: str) -> Callable[[str], float]:
    """log(1 + number of matches): the second list item counts less than the first, the hundredth next to nothing."""
    compiled = re.compile(pattern, re.I | re.M)
    return lambda text: float(np.log1p(len(compiled.findall(text.replace("\u2019", "'")))))


FEATURES: tuple[Feature, ...] = (
    Feature("length", "log(1 + words)", lambda text: float(np.log1p(word_count(text)))),
    Feature("politeness", "log(1 + please, thanks, you are welcome, happy to help …)", _log_count(_POLITE)),
    Feature("hedges", "log(1 + maybe, perhaps, might, probably, I think …)", _log_count(_HEDGE)),
    Feature("refusal", "log(1 + I cannot, I am sorry but I, as an AI …)", _log_count(_REFUSAL)),
    Feature(
        "lists", "log(1 + lines that begin with a bullet or a number)", _log_count(r"^[^\S\n]*(?:[-*•]|\d{1,2}[.)])\s")
    ),
    Feature("bold", "log(1 + passages in bold)", _log_count(r"\*\*[^*\n]+\*\*|<(?:b|strong)>")),
    Feature("headers", "log(1 + lines that begin with #)", _log_count(r"^#{1,6}\s+\S")),
    Feature("code", "log(1 + passages and blocks in backticks)", _log_count(r"```|`[^`\n]+`")),
    Feature("exclamation", "log(1 + exclamation marks and emoji)", _log_count(f"[!！{_EMOJI}]")),
    Feature("digits", "log(1 + numbers in digits)", _log_count(r"\d+")),
    Feature("repetition", "share of word trigrams that occurred before", repeated_trigrams),
)
NAMES: tuple[str, ...] = tuple(feature.name for feature in FEATURES)


def measure(texts: Sequence[str]) -> np.ndarray:
    """float64[len(texts), len(FEATURES)], in the order of `FEATURES`."""
    rows = [[feature.measure(text) for feature in FEATURES] for text in texts]
    return np.array(rows, dtype=float).reshape(len(rows), len(FEATURES))
