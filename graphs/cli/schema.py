"""``junto schema``: JSON schemas of the YAML files that people write."""

from __future__ import annotations

from typing import Any

from alignment.errors import UsageError
from graphs.evaluation.config import Evaluation
from graphs.recipe import Recipe, load_task


def schema_of(what: str, task: str) -> dict[str, Any]:
    """That of a recipe, whose ``data`` are the options of ``task``, or of an evaluation. Raises UsageError."""
    if what == "evaluation":
        return Evaluation.model_json_schema()
    if what != "recipe":
        raise UsageError(f"there is no schema of {what!r}; there are those of recipe and evaluation")
    schema = Recipe.model_json_schema()
    options = load_task(task).Options.model_json_schema()
    schema["$defs"] |= options.pop("$defs", {})
    schema["properties"]["data"] = options
    return schema
