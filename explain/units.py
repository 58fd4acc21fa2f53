"""Units: the parts of a text that an explainer switches on and off."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MAX_UNITS = 12  # every one of the 2^12 = 4096 masks is still scored, so that answers are exact

Span = tuple[int, int]

# A sentence ends at a line's end, or at its closing mark before white space. "1." of a list, "3.5", and an
# abbreviation before a small letter ("e.g. this") do not end one; full-width marks need no space after them.
_SENTENCE_END = re.compile(
    r"""(?<!^\d)(?<!^\d\d)(?<![.!?…])[.!?…]+["'”’)\]]*(?=\s)(?!\s+[a-z])  |  [。！？]+[”’」』）]*  |  \n""",
    re.M | re.X,
)
# A word is a run without white space; Han characters and kana, written without spaces, stand one by one.
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_CJK}]|[^\s{_CJK}]+")
_LINE = re.compile(r"^[^\S\n]*\S", re.M)


@dataclass(frozen=True)
class Units:
    """A text and the spans (start, end; ascending, disjoint) that can be removed from it.

    Characters outside every span are never removed. `kind` is a word for people, such as "steps".
    """

    text: str
    spans: tuple[Span, ...]
    kind: str = "units"

    def __len__(self) -> int:
        return len(self.spans)

    def __getitem__(self, index: int) -> str:
        start, end = self.spans[index]
        return self.text[start:end]

    def render(self, mask: Sequence[bool]) -> str:
        """The text with only the units kept whose mask entry is true; all true gives the very text."""
        if len(mask) != len(self.spans):
            raise ValueError(f"The mask has {len(mask)} entries, but the text has {len(self.spans)} units.")
        pieces, position = [], 0
        for (start, end), kept in zip(self.spans, mask, strict=True):
            pieces.append(self.text[position : end if kept else start])
            position = end
        return "".join([*pieces, self.text[position:]])


def sizes(units: Units) -> np.ndarray:
    """How many words each unit has, at least 1, float[d]: its length as people count it."""
    return np.array([max(1, len(_WORD.findall(units[unit]))) for unit in range(len(units))], dtype=float)


def steps(text: str) -> tuple[Span, ...]:
    """Non-empty lines; a line owns its newline and the empty lines after it."""
    return _tile(text, [match.start() for match in _LINE.finditer(text)])


def sentences(text: str) -> tuple[Span, ...]:
    """Sentences by their closing marks and line ends; a sentence owns the white space after it."""
    starts, position = [], 0
    for end in [*(match.end() for match in _SENTENCE_END.finditer(text)), len(text)]:
        sentence = text[position:end]
        if sentence.strip():
            starts.append(end - len(sentence.lstrip()))
            position = end
    return _tile(text, starts)


def words(text: str) -> tuple[Span, ...]:
    """Runs without white space (Han characters and kana one by one); a word owns the white space after it."""
    return _tile(text, [match.start() for match in _WORD.finditer(text)])


KINDS = {"steps": steps, "sentences": sentences, "words": words}  # from coarse to fine


def segment(text: str, units: str = "auto", max_units: int = MAX_UNITS) -> Units:
    """Cut a text into at most `max_units` units.

    units: "steps", "sentences", "words", or "auto": the coarsest of them that yields at least two units, else
    words; where "auto" yields too many, neighbours are merged.

    Raises ValueError (one sentence) for a blank text, an unknown kind, and a named kind with too many units.
    """
    if not 1 <= max_units <= MAX_UNITS:
        raise ValueError(f"max_units is {max_units}; choose 1 to {MAX_UNITS}, since every mask is scored.")
    if not text.strip():
        raise ValueError("There is nothing to explain: the response is empty.")
    if units == "auto":
        kind = next((kind for kind, cut in KINDS.items() if len(cut(text)) >= 2), "words")
        spans = KINDS[kind](text)
        if len(spans) > max_units:
            return Units(text, _merge(spans, max_units), f"merged {kind}")
        return Units(text, spans, kind)
    if units not in KINDS:
        raise ValueError(f"Unknown units {units!r}; choose one of auto, {', '.join(KINDS)}.")
    spans = KINDS[units](text)
    if len(spans) > max_units:
        kinds = list(KINDS)[: list(KINDS).index(units)]
        coarser = [kind for kind in kinds if 2 <= len(KINDS[kind](text)) <= max_units]
        advice = f"choose {coarser[-1]}" if coarser else "choose auto, which merges neighbours"
        raise ValueError(f"The response has {len(spans)} {units}, more than {max_units}; {advice}.")
    return Units(text, spans, units)


def _tile(text: str, starts: list[int]) -> tuple[Span, ...]:
    """Spans that tile the whole text: each runs to the next start, the first one from 0."""
    if not starts:
        return ()
    return tuple(zip([0, *starts[1:]], [*starts[1:], len(text)], strict=True))


def _merge(spans: tuple[Span, ...], count: int) -> tuple[Span, ...]:
    """Join neighbouring spans into `count` groups of nearly equal size."""
    cuts = [len(spans) * group // count for group in range(count + 1)]
    return tuple((spans[low][0], spans[high - 1][1]) for low, high in zip(cuts, cuts[1:], strict=False))
