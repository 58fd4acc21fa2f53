"""Units: the parts of a text that an explainer switches on and off."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

MAX_UNITS = 12  # every one of the 2^12 = 4096 masks is still scored, so that answers are exact
MAX_SAMPLED = 500  # of a kind that is named; ten texts are scored for each
DRILL = 6  # parts of one unit: another 64 texts

Span = tuple[int, int]
Frozen = Span | str  # a text stands for all places where it is written

# A sentence ends at a line's end, or at its closing mark before white space. "1." of a list, "3.5", and an
# abbreviation before a small letter ("e.g. this") do not end one; full-width marks need no space after them.
_SENTENCE_END = re.compile(
    r"""(?<!^\d)(?<!^\d\d)(?<![.!?…])[.!?…]+["'”’)\]]*(?=\s)(?!\s+[a-z])  |  [。！？]+[”’」』）]*  |  \n""",
    re.M | re.X,
)
# A word is a run without white space; Han characters and kana, written without spaces, stand one by one, each with
# its own marks (a voiced kana may be two code points, a Han character may be followed by a selector of its variant).
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_CJK}][\u3099\u309a\ufe00-\ufe0f\U000e0100-\U000e01ef]*|[^\s{_CJK}]+")
_LINE = re.compile(r"^[^\S\n]*\S", re.M)
# A phrase begins after a comma, semicolon, colon or dash, and at a word that leads a clause.
_PAUSE = re.compile(r"[,;:]+[\"'”’)\]]*\s+(?=\S)|\s[-–—]{1,3}\s+(?=\S)|—(?=\w)|[，；：、]+(?=\S)")
_LEADS = (
    "and|but|or|nor|so|yet|because|although|though|since|unless|until|while|whereas|when|where|if|after|before|"
    "that|which|who|then|however|therefore"
)
_CLAUSE = re.compile(rf"(?<=\s)(?:{_LEADS})\b(?=\s)", re.I)
_LEAST = 2  # words on either side, or a clause's first word joins but two words ("salt and pepper")


@dataclass(frozen=True)
class Units:
    """A text and the spans (start, end; ascending, disjoint) that can be removed from it.

    Characters outside every span are never removed. `kind` is a word for people, such as "steps". swaps: what the
    other response of a pair has in the place of each unit (explain.align), else empty.
    """

    text: str
    spans: tuple[Span, ...]
    kind: str = "units"
    swaps: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.spans)

    def __getitem__(self, index: int) -> str:
        start, end = self.spans[index]
        return self.text[start:end]

    @cached_property
    def fixed(self) -> tuple[Span, ...]:
        """What is in no unit, without the white space around it."""
        gaps = zip(
            [0, *(end for _, end in self.spans)], [*(start for start, _ in self.spans), len(self.text)], strict=True
        )
        pieces = [(start, self.text[start:end]) for start, end in gaps]
        return tuple(
            (start + len(piece) - len(piece.lstrip()), start + len(piece.rstrip()))
            for start, piece in pieces
            if piece.strip()
        )

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


def phrases(text: str) -> tuple[Span, ...]:
    """Parts of sentences: at commas, semicolons, colons, dashes, and before a word that leads a clause."""
    starts = [start for start, _ in sentences(text)]
    pauses = sorted({*starts, *(match.end() for match in _PAUSE.finditer(text))})
    bounds = [*pauses, len(text)]
    leads: list[int] = []
    for match in _CLAUSE.finditer(text):
        low = max((bound for bound in [*bounds, *leads] if bound <= match.start()), default=0)
        high = min((bound for bound in bounds if bound > match.start()), default=len(text))
        sides = text[low : match.start()], text[match.start() : high]
        if all(len(_WORD.findall(side)) >= _LEAST for side in sides):
            leads.append(match.start())
    return _tile(text, sorted({*pauses, *leads})) if text.strip() else ()


def words(text: str) -> tuple[Span, ...]:
    """Runs without white space (Han characters and kana one by one); a word owns the white space after it."""
    return _tile(text, [match.start() for match in _WORD.finditer(text)])


KINDS = {"steps": steps, "sentences": sentences, "phrases": phrases, "words": words}  # from coarse to fine


def segment(text: str, units: str = "auto", max_units: int = MAX_UNITS, frozen: Sequence[Frozen] = ()) -> Units:
    """Cut a text into units.

    units: "steps", "sentences", "phrases", "words", or "auto": the coarsest of them that yields at least two units,
    else words; where "auto" yields more than `max_units`, neighbours are merged (never over what is frozen, which may
    leave more). A kind that is named may have more, and is then sampled. frozen: spans (start, end), or texts wherever
    they are written, that no unit holds, so that they are never removed.

    Raises ValueError (one sentence) for a blank text, an unknown kind, what is frozen and not in the text, nothing
    left to remove, and a named kind with more than `MAX_SAMPLED` units.
    """
    known_most(max_units)
    if not text.strip():
        raise ValueError("There is nothing to explain: the text is empty.")
    # one text is no list of its letters
    fixed = [span for one in ([frozen] if isinstance(frozen, str) else frozen) for span in _places(text, one)]

    def cut(kind: str) -> tuple[Span, ...]:
        return _without(text, KINDS[kind](text), fixed)

    if not cut("words"):
        raise ValueError("There is nothing to explain: all of the text is frozen.")
    if units == "auto":
        kind = next((kind for kind in KINDS if len(cut(kind)) >= 2), "words")
        spans = cut(kind)
        if len(spans) <= max_units:
            return Units(text, spans, kind)
        merged = _merge(spans, max_units)
        if len(merged) > MAX_SAMPLED:
            raise ValueError(f"What is frozen cuts the text into {len(merged)} pieces, more than {MAX_SAMPLED}.")
        return Units(text, merged, f"merged {kind}")
    if units not in KINDS:
        raise ValueError(f"Unknown units {units!r}; choose one of auto, {', '.join(KINDS)}.")
    spans = cut(units)
    if len(spans) > MAX_SAMPLED:
        kinds = list(KINDS)[: list(KINDS).index(units)]
        coarser = [kind for kind in kinds if 2 <= len(cut(kind)) <= MAX_SAMPLED]
        advice = f"choose {coarser[-1]}" if coarser else "choose auto, which merges neighbours"
        raise ValueError(f"The response has {len(spans)} {units}, more than {MAX_SAMPLED}; {advice}.")
    return Units(text, spans, units)


def known_most(max_units: int) -> None:
    """Raises ValueError where not every mask over so many units is scored."""
    if not 1 <= max_units <= MAX_UNITS:
        raise ValueError(f"max_units is {max_units}; choose 1 to {MAX_UNITS}, since every mask is scored.")


def drill(units: Units, unit: int, most: int = DRILL) -> Units | None:
    """The words of one unit, merged to at most `most`, with all else frozen; None where it is but one word."""
    offset = units.spans[unit][0]
    spans = tuple((start + offset, end + offset) for start, end in words(units[unit]))
    if len(spans) < 2:
        return None
    return Units(units.text, _merge(spans, most) if len(spans) > most else spans, "words")


def _tile(text: str, starts: list[int]) -> tuple[Span, ...]:
    """Spans that tile the whole text: each runs to the next start, the first one from 0."""
    if not starts:
        return ()
    return tuple(zip([0, *starts[1:]], [*starts[1:], len(text)], strict=True))


def _places(text: str, frozen: Frozen) -> list[Span]:
    """Where it is in the text. Raises ValueError where that is nowhere."""
    if isinstance(frozen, str):
        found = [match.span() for match in re.finditer(re.escape(frozen), text)] if frozen else []
        if not found:
            raise ValueError(f"{frozen!r} is to be frozen and is not in the text; write it as it stands there.")
        return found
    start, end = frozen
    if not 0 <= start <= end <= len(text):
        raise ValueError(f"The frozen span {start} to {end} is not within the text of {len(text)} characters.")
    return [frozen]


def _without(text: str, spans: Sequence[Span], frozen: Sequence[Span]) -> tuple[Span, ...]:
    """The spans less the frozen ones; pieces that are blank are dropped."""
    for low, high in frozen:
        pieces = [((start, min(end, low)), (max(start, high), end)) for start, end in spans]
        spans = [(start, end) for pair in pieces for start, end in pair if start < end]
    return tuple((start, end) for start, end in spans if text[start:end].strip())


def _merge(spans: Sequence[Span], most: int) -> tuple[Span, ...]:
    """Join neighbouring spans into `most` groups of nearly equal size; none crosses a gap between spans.

    There are more groups than `most` where there are more gaps.
    """
    runs: list[list[Span]] = []
    for span in spans:
        if runs and runs[-1][-1][1] == span[0]:
            runs[-1].append(span)
        else:
            runs.append([span])
    merged: list[Span] = []
    for run in runs:
        count = max(1, most * len(run) // len(spans))
        cuts = [len(run) * group // count for group in range(count + 1)]
        merged += [(run[low][0], run[high - 1][1]) for low, high in zip(cuts, cuts[1:], strict=False)]
    return tuple(merged)
