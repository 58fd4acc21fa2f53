"""What differs between two responses: aligned spans, so that one response can be turned into the other."""

from __future__ import annotations

from difflib import SequenceMatcher

from explain.units import MAX_UNITS, Span, Units, known_most, words

_LONG = 2000  # words; above it difflib passes over the commonest ones, which keeps it fast


def diff_units(chosen: str, rejected: str, max_units: int = MAX_UNITS) -> tuple[Units, Units]:
    """The differing spans of both texts, aligned: unit i of one stands where unit i of the other does.

    A span may be empty, where the other text has something more. Each side's `swaps` are the spans of the other, so
    swapping all units of one text gives the other, byte for byte. Equal texts have no units. Above `max_units`,
    neighbouring spans are joined with what is equal between them. Raises ValueError for max_units above `MAX_UNITS`.
    """
    known_most(max_units)
    if chosen > rejected:  # difflib is not symmetric: one order, so that swapping the texts swaps the sides
        second, first = diff_units(rejected, chosen, max_units)
        return first, second
    left_words, right_words = ([text[start:end] for start, end in words(text)] for text in (chosen, rejected))
    junk = max(len(left_words), len(right_words)) > _LONG
    matcher = SequenceMatcher(None, left_words, right_words, autojunk=junk)
    offsets = _offsets(left_words), _offsets(right_words)
    spans: list[tuple[Span, Span]] = []
    for tag, low, high, other_low, other_high in matcher.get_opcodes():
        if tag != "equal":
            spans.append(((offsets[0][low], offsets[0][high]), (offsets[1][other_low], offsets[1][other_high])))
    spans = _join(spans, max_units)
    left, right = tuple(span for span, _ in spans), tuple(span for _, span in spans)
    return (
        Units(chosen, left, "differences", tuple(rejected[start:end] for start, end in right)),
        Units(rejected, right, "differences", tuple(chosen[start:end] for start, end in left)),
    )


def _offsets(pieces: list[str]) -> list[int]:
    """Where each piece begins, and where the last one ends."""
    offsets = [0]
    for piece in pieces:
        offsets.append(offsets[-1] + len(piece))
    return offsets


def _join(spans: list[tuple[Span, Span]], most: int) -> list[tuple[Span, Span]]:
    """Join the two neighbours with the least between them until at most `most` are left."""
    spans = list(spans)
    while len(spans) > most:
        between = [after[0][0] - before[0][1] for before, after in zip(spans, spans[1:], strict=False)]
        at = between.index(min(between))
        (left, right), (next_left, next_right) = spans[at], spans[at + 1]
        spans[at : at + 2] = [((left[0], next_left[1]), (right[0], next_right[1]))]
    return spans
