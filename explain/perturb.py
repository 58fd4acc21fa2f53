"""How a text looks with some of its units off: removed, marked, swapped with the other response's, or filled in."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Protocol

from explain.units import Span, Units

PLACEHOLDER = "..."
Render = Callable[[Units, Sequence[bool]], str]

_LEADING = re.compile(r"[ \t]*(?:[,;:](?=\s|$))?[ \t]*")  # not what a word begins with, as in ":)" or "::before"
_ENDS = re.compile(r"""[.!?]+["'”’)\]]*(?=\s|$)|[\n\r。！？]""")  # nor ".env" or "!="


class Infill(Protocol):
    """Writes what could stand in gaps, such as a policy. Its fingerprint names everything that this depends on."""

    @property
    def fingerprint(self) -> str: ...

    def __call__(self, pieces: list[str], which: list[int]) -> list[str]:
        """pieces: the text around the gaps, one piece more than there are gaps; which: the units that are off, one
        per gap, ascending. One replacement per gap."""


def remove(units: Units, mask: Sequence[bool]) -> str:
    """The kept units, with white space and separators repaired where something is gone.

    Nothing else is touched: no text changes but next to a removed unit, and at the end. There, a comma, semicolon,
    colon or dash that separates nothing any more goes (but never one that is frozen), two spaces become one, a line
    that ended still ends, and the end has the white space of the text's own end. All kept gives the very text.
    """
    kept, gone = _pieces(units, mask)
    if not any(gone):
        return units.text
    out, floor = "", 0  # what is before the floor is frozen or before something frozen
    for removed, (start, end) in zip(["", *gone], kept, strict=True):
        piece = units.text[start:end]
        fixed = [span for span in units.fixed if start <= span[0] < end]
        leads = bool(fixed) and not units.text[start : fixed[0][0]].strip()
        out = _mend(out, removed, piece, floor, leads) if removed else out + piece
        if fixed:
            floor = len(out) - (end - fixed[-1][1])
    if gone[-1] and not piece and not out.endswith("\n"):
        out = _unhung(out, floor)
    return out.rstrip() + units.text[len(units.text.rstrip()) :] if out.strip() else ""


def placeholder(units: Units, mask: Sequence[bool]) -> str:
    """Each run of units that are off becomes "...", with the white space that stood around it."""
    pieces, position, run = [], 0, ""
    for (start, end), kept in zip(units.spans, mask, strict=True):
        between = units.text[position:start]
        if kept or between:
            pieces.append(_mark(run) + between)
            run = ""
        if kept:
            pieces.append(units.text[start:end])
        else:
            run += units.text[start:end]
        position = end
    return "".join([*pieces, _mark(run), units.text[position:]])


def swap(units: Units, mask: Sequence[bool]) -> str:
    """Each unit that is off becomes what the other response has in its place."""
    replaced = [other for other, kept in zip(units.swaps, mask, strict=True) if not kept]
    return _put(units, mask, replaced)


def fill_in(units: Units, mask: Sequence[bool], infill: Infill) -> str:
    """Each unit that is off becomes what `infill` writes there. Raises ValueError for an answer that does not fit."""
    which = [unit for unit, kept in enumerate(mask) if not kept]
    if not which:
        return units.text
    pieces, position = [], 0
    for unit in which:
        start, end = units.spans[unit]
        pieces.append(units.text[position:start])
        position = end
    written = infill([*pieces, units.text[position:]], which)
    if len(written) != len(which) or not all(isinstance(piece, str) for piece in written):
        raise ValueError(f"The infill answered {len(written)} texts for {len(which)} gaps; it owes one text per gap.")
    return _put(units, mask, written)


PERTURBATIONS: dict[str, Render | None] = {"remove": remove, "placeholder": placeholder, "swap": swap, "infill": None}


def known_perturbation(perturbation: str) -> None:
    """Raises ValueError for an unknown one."""
    if perturbation not in PERTURBATIONS:
        raise ValueError(f"Unknown perturbation {perturbation!r}; choose one of {', '.join(PERTURBATIONS)}.")


def renderer(perturbation: str, units: Units, infill: Infill | None = None) -> Callable[[Sequence[bool]], str]:
    """What turns a mask into a text.

    Raises ValueError (one sentence) for an unknown perturbation, a swap without a second response, and an infill
    without something that fills.
    """
    known_perturbation(perturbation)
    if perturbation == "infill":
        if infill is None:
            raise ValueError("The perturbation infill needs something that fills gaps; pass infill=, or choose remove.")
        return lambda mask: fill_in(units, mask, infill)
    if perturbation == "swap" and len(units.swaps) != len(units):
        raise ValueError("The perturbation swap needs a pair of responses cut by diff; choose remove for one response.")
    render = PERTURBATIONS[perturbation]
    assert render is not None
    return lambda mask: render(units, mask)


def _put(units: Units, mask: Sequence[bool], replaced: Sequence[str]) -> str:
    """The text with the units that are off replaced, in order."""
    pieces, position, fresh = [], 0, iter(replaced)
    for (start, end), kept in zip(units.spans, mask, strict=True):
        pieces += [units.text[position:start], units.text[start:end] if kept else next(fresh)]
        position = end
    return "".join([*pieces, units.text[position:]])


def _pieces(units: Units, mask: Sequence[bool]) -> tuple[list[Span], list[str]]:
    """The spans that are kept, and what is gone between each two of them (maybe nothing)."""
    kept: list[Span] = []
    gone: list[str] = []
    position = 0
    for (start, end), keep in zip(units.spans, mask, strict=True):
        if keep or start == end:
            continue
        if start > position or not gone:
            kept.append((position, start))
            gone.append("")
        gone[-1] += units.text[start:end]
        position = end
    kept.append((position, len(units.text)))
    return kept, gone


def _mend(left: str, removed: str, right: str, floor: int, leads: bool) -> str:
    """Join what stands on the two sides of a gap. leads: the first of the right one is frozen."""
    if not right:
        return left
    if not left or left.endswith("\n"):
        # A line may begin with white space (code); what is left of a line may not, nor with a separator.
        rest = right.lstrip(" \t") if leads else right[_length(_LEADING, right) :]
        return left + (right if removed.endswith("\n") else rest)
    tail = removed[len(removed.rstrip()) :]
    if "\n" in tail:  # what is left of the line still ends there
        return _unhung(left, floor) + tail + right
    if _ENDS.match(right):
        return _unhung(left, floor) + right
    if left[-1] in " \t":
        return left + right.lstrip(" \t")
    return left + right


def _unhung(left: str, floor: int) -> str:
    """What stands before a gap without white space at its end and without a mark that separates it from nothing."""
    body = left.rstrip(" \t")
    if len(body) <= floor:
        return body
    if body[-1:] in tuple(",;:—") or (body[-1:] in ("-", "–") and body[-2:-1] in (" ", "\t")):
        body = body[:-1].rstrip(" \t")
    return body


def _length(pattern: re.Pattern[str], text: str) -> int:
    match = pattern.match(text)
    return match.end() if match else 0


def _mark(run: str) -> str:
    """The placeholder of a run of removed text; nothing for nothing."""
    if not run:
        return ""
    body = run.strip()
    if not body:
        return run
    start = run.index(body)
    return run[:start] + PLACEHOLDER + run[start + len(body) :]
