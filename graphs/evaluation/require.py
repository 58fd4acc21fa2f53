"""What a gate demands of figures: ``accuracy >= 0.5``."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from alignment.errors import UsageError
from graphs.source import did_you_mean

SIGNS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


class Requirement(NamedTuple):
    """``metric`` compared by ``sign`` with ``limit``."""

    metric: str
    sign: str
    limit: float

    def __str__(self) -> str:
        return f"{self.metric} {self.sign} {self.limit:g}"


def parsed(text: str) -> Requirement:
    """Raises UsageError for what is no requirement."""
    found = re.fullmatch(r"\s*([\w@.-]+?)\s*(>=|<=|>|<)\s*(-?[\d.]+(?:e-?\d+)?)\s*", text)
    try:
        return Requirement(found[1], found[2], float(found[3])) if found else _refuse(text)
    except ValueError:
        return _refuse(text)


def _refuse(text: str) -> Requirement:
    raise UsageError(f"{text!r} is no requirement; write it as 'accuracy >= 0.5'")


def met(requirement: Requirement, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """``{"requirement", "value", "met"}``. Raises UsageError where the metric is not measured."""
    figure = metrics.get(requirement.metric)
    value = figure["value"] if isinstance(figure, dict) else figure
    if not isinstance(value, int | float):
        hint = did_you_mean(requirement.metric, list(metrics)) or f"; there are {', '.join(metrics)}"
        raise UsageError(f"{requirement} asks for a figure that is not measured{hint}")
    return {
        "requirement": str(requirement),
        "value": float(value),
        "met": SIGNS[requirement.sign](value, requirement.limit),
    }
