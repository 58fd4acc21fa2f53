"""What training has done to the rest of a model: the evaluations that come with the project, before and after."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from alignment.engine import Engine
from alignment.perplexity import Document, figures
from alignment.statistics import Interval, paired_bootstrap, paired_wilson, wilson
from graphs.evaluation.answers import TOGETHER, answers, window_of
from graphs.evaluation.config import Evaluation, load_evaluation
from graphs.evaluation.items import load_items
from graphs.evaluation.measures import scored
from graphs.evaluation.run import SETS
from graphs.evaluation.subject import Subject
from graphs.tasks import Row

NAMES = ("plain-text", "knowledge", "sense")


def ability(engine: Engine, before: str, after: str, tell: Callable[[str], None]) -> dict[str, dict[str, Interval]]:
    """Of each set the figures of both roles and their paired ``difference``, the second minus the first: perplexity per
    token of plain prose, and shares of right answers, per character of the choice. Greedy and seedless."""
    found: dict[str, dict[str, Interval]] = {}
    for name in NAMES:
        evaluation, items = _set(name)
        if evaluation.window:
            evaluation = evaluation.model_copy(update={"window": min(evaluation.window, window_of(engine))})
        made = {}
        for role in (before, after):
            tell(f"{name}, {role}")
            subject = Subject(role, engine, role, {})
            size = TOGETHER[evaluation.kind]
            batches = [items[i : i + size] for i in range(0, len(items), size)]
            made[role] = [row for batch in batches for row in answers(subject, evaluation, 0, batch)]
        compare = _perplexities if evaluation.kind == "text" else _shares
        one, other, difference = compare(evaluation, items, made[before], made[after])
        found[name] = {before: one, after: other, "difference": difference}
    return found


@cache
def _set(name: str) -> tuple[Evaluation, list[Row]]:
    evaluation = load_evaluation(SETS / f"{name}.yaml")
    return evaluation, load_items(evaluation, SETS)


def _perplexities(evaluation: Evaluation, items: list[Row], *made: list[Row]) -> tuple[Any, Any, Any]:
    documents = [[Document(*(row[key] for key in Document._fields)) for row in rows] for rows in made]
    loss = [np.array([-one.loglikelihood for one in own]) for own in documents]
    tokens = np.array([one.tokens for one in documents[0]])

    def difference(rows: np.ndarray) -> float:
        first, second = (math.exp(min(own[rows].sum() / tokens[rows].sum(), 700.0)) for own in loss)
        return second - first

    first, second = (figures(own)["token_perplexity"] for own in documents)
    return first, second, paired_bootstrap(difference, len(tokens))


def _shares(evaluation: Evaluation, items: list[Row], *made: list[Row]) -> tuple[Any, Any, Any]:
    right = [
        [scored(evaluation, item, row)["accuracy_norm"] for item, row in zip(items, rows, strict=True)] for rows in made
    ]
    first, second = (wilson(sum(own), len(own)) for own in right)
    return first, second, paired_wilson(*right)
