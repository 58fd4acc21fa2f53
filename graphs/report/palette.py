"""Colours of the report, in light and dark: one table, so that page and saved pictures agree.

Every text colour has a contrast of at least 4.5:1 on its paper (WCAG AA). The series colours follow Okabe and
Ito's colour-blind-safe order (blue, vermilion, green, purple, amber, slate); shape and words carry the same
information.
"""

from __future__ import annotations

LIGHT = {
    "paper": "#ffffff",
    "panel": "#f5f6f8",
    "ink": "#1a1e23",
    "soft": "#55606c",
    "rule": "#d3d9df",
    "good": "#0a6b3d",
    "bad": "#a3271f",
    "link": "#0b5394",
    "c1": "#0b62a8",
    "c2": "#b5460f",
    "c3": "#00745a",
    "c4": "#8a3f8a",
    "c5": "#7d5c00",
    "c6": "#4d5a66",
}

DARK = {
    "paper": "#14171a",
    "panel": "#1d2126",
    "ink": "#e7e9ec",
    "soft": "#a7b0ba",
    "rule": "#3a4149",
    "good": "#62d199",
    "bad": "#f2938a",
    "link": "#8bbdf0",
    "c1": "#6cb4ee",
    "c2": "#f2955f",
    "c3": "#4cc6a0",
    "c4": "#d694d3",
    "c5": "#d9b24a",
    "c6": "#b1bcc7",
}

SERIES = 6  # c1 to c6; further series start again at c1


def colour_class(index: int) -> str:
    """Class suffix of the index-th (from 0) series or expert: "1" to "6", in turn."""
    return str(index % SERIES + 1)


def resolve(style: str, colours: dict[str, str]) -> str:
    """A style sheet with var(--name) replaced by values: for picture viewers that know no CSS variables."""
    for name, value in colours.items():
        style = style.replace(f"var(--{name})", value)
    return style
