"""What a command demands of figures: ``accuracy >= 0.5``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from alignment.errors import UsageError
from graphs.gate import SIGNS, Bound, bound
from graphs.source import did_you_mean


class Requirement(NamedTuple):
    """A bound of a metric."""

    metric: str
    bound: Bound

    def __str__(self) -> str:
        return f"{self.metric} {self.bound}"


def parsed(text: str) -> Requirement:
    """Raises UsageError for what is no requirement."""
    found = re.fullmatch(r"\s*([\w@.-]+?)\s*([<>].*)", text)
    try:
        limit = bound(found[2]) if found else None
    except ValueError:
        limit = None
    if found is None or limit is None or limit.of_sft:
        raise UsageError(f"{text!r} is no requirement; write it as 'accuracy >= 0.5'")
    return Requirement(found[1], limit)


def met(requirement: Requirement, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """``{"requirement", "value", "met"}``. Raises UsageError where the metric is not measured."""
    figure = metrics.get(requirement.metric)
    value = figure["value"] if isinstance(figure, dict) else figure
    if not isinstance(value, int | float):
        hint = did_you_mean(requirement.metric, list(metrics)) or f"; there are {', '.join(metrics)}"
        raise UsageError(f"{requirement} asks for a figure that is not measured{hint}")
    is_met = SIGNS[requirement.bound.sign](value, requirement.bound.number)
    return {"requirement": str(requirement), "value": float(value), "met": is_met}
