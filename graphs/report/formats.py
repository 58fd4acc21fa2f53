"""Numbers and texts as a reader sees them. A missing or undefined value is a dash."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable
from typing import Any

DASH = "–"
MINUS = "−"

# Control characters and lone surrogates: not allowed in XML, and not encodable or not visible in HTML.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


def clean(text: str) -> str:
    """The text with every character that XML forbids replaced by U+FFFD."""
    return _FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", text)


def finite(value: Any) -> float | None:
    """The value as a float, or None if it is not a finite number (bool is not a number here)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def decimals(magnitude: float) -> int:
    """Decimal places that give three significant digits at this magnitude, between 0 and 4."""
    if magnitude == 0:
        return 2
    return min(4, max(0, 2 - math.floor(math.log10(abs(magnitude)))))


def fixed(value: float, places: int) -> str:
    """The value with so many decimals, thousands separated, a true minus, and no negative zero."""
    text = f"{value:,.{places}f}"
    if text.startswith("-"):
        text = text[1:] if not text.strip("-0.,") else MINUS + text[1:]
    return text


def number(value: Any) -> str:
    """Three significant digits; integers in full; very large and very small values with an exponent."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and abs(value) < 10**12:
        return fixed(value, 0)
    real = finite(value)
    if real is None:
        return DASH
    if real != 0 and not 5e-5 <= abs(real) < 1e9:
        mantissa, exponent = f"{real:.2e}".split("e")
        return f"{mantissa}e{int(exponent)}".replace("-", MINUS)
    return fixed(real, decimals(real))


def percent(value: Any) -> str:
    """A share (0 to 1) in percent, one decimal."""
    real = finite(value)
    return DASH if real is None else fixed(100 * real, 1) + "%"


def points(value: Any) -> str:
    """A difference of shares in percentage points, signed, one decimal."""
    real = finite(value)
    return DASH if real is None else signed(fixed(100 * real, 1)) + " pp"


def signed(text: str) -> str:
    """A formatted number with a plus where it is positive."""
    return text if text.startswith(MINUS) or not text.strip("0.,") else "+" + text


def duration(value: Any) -> str:
    """Seconds as "8.4 s", "3 min 05 s" or "2 h 07 min"."""
    real = finite(value)
    if real is None or real < 0:
        return DASH
    if real < 59.95:
        return f"{real:.1f} s"
    whole = round(real)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def is_interval(value: Any) -> bool:
    """Whether a JSON value is an interval: {"value", "low", "high", ...}."""
    return isinstance(value, dict) and {"value", "low", "high"} <= value.keys()


def interval(value: Any, form: Callable[[Any], str] | None = None) -> tuple[str, str]:
    """An interval as ("estimate", "low to high"); without a form, the three share their decimals."""
    if not is_interval(value):
        return (form or number)(value), DASH
    parts = [finite(value[key]) for key in ("value", "low", "high")]
    if form is None:
        known = [abs(part) for part in parts if part is not None]
        places = decimals(max(known, default=0.0))
        texts = [DASH if part is None else fixed(part, places) for part in parts]
    else:
        texts = [form(part) for part in parts]
    return texts[0], DASH if DASH in texts[1:] else f"{texts[1].removesuffix(' pp')} to {texts[2]}"


# Advance widths in DejaVu Sans, the widest of the fonts that the report asks for, rounded up by class.
_WIDTHS = [(" iljI.,:;'|!", 0.33), ('ftr()[]-"/', 0.42), ("mwMW@%—…", 1.0)]
_EMS = {char: ems for chars, ems in _WIDTHS for char in chars}


def width(text: str) -> float:
    """About how wide a text is set, in ems; rather too wide than too narrow."""
    return sum(
        _EMS.get(c) or (1.0 if unicodedata.east_asian_width(c) in "WF" else 0.7 if c.isupper() else 0.63) for c in text
    )


def wrap(text: str, room: float, lines: int) -> list[str]:
    """At most so many lines, each at most ``room`` ems wide; an ellipsis ends a text that is cut."""
    rows: list[str] = [""]
    for word in text.split():
        if rows[-1] and width(rows[-1] + " " + word) > room:
            rows.append("")
        elif rows[-1]:
            rows[-1] += " "
        for char in word:  # breaks a word that is longer than a line
            if width(rows[-1] + char) > room:
                rows.append("")
            rows[-1] += char
        if len(rows) > lines:
            break
    if len(rows) <= lines:
        return rows
    last = rows[lines - 1]
    while last and width(last + "…") > room:
        last = last[:-1]
    return [*rows[: lines - 1], last.rstrip() + "…"]
