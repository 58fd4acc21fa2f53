"""From explanations of many texts to the data set: which units a reward model rewards, and which texts to read.

Ribeiro, Singh and Guestrin, "Why Should I Trust You?" (KDD 2016), section 4: the submodular pick, SP-LIME. Nothing is
fitted here; an explanation is a list of units and their weights, in any unit of text.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from explain.audit_stats import Effect, holm, mean_effect
from explain.lime import LimeExplanation

Weighted = Sequence[tuple[str, float]]  # the units of one text and what each adds to its reward

_EDGES = ".,;:!?…\"'“”‘’()[]{}*_`#。！？，、"


@dataclass(frozen=True)
class UnitWeight:
    """A unit over the data set: in how many texts it stands, its mean weight there, with an interval and Holm's p where
    there are enough texts to test (`effect`, `p`), and its importance, sqrt of the sum of |weight| (SP-LIME's I_j)."""

    unit: str
    texts: int
    mean: float
    effect: Effect | None
    p: float | None
    importance: float


@dataclass(frozen=True)
class Picks:
    """Texts in the order in which they were picked, by number, and the share of all importance that they cover."""

    texts: tuple[int, ...]
    coverage: tuple[float, ...]  # after each pick


@dataclass(frozen=True)
class Picked:
    """A picked text: what it answers, its units in their order with their weights, and the share of all importance that
    it and those picked before it cover."""

    question: str
    units: tuple[tuple[str, float], ...]
    coverage: float


def weighted(explanation: LimeExplanation) -> list[tuple[str, float]]:
    """The (unit, weight) list of a LIME explanation of one text."""
    units = explanation.units
    return [(units[i], weight) for i, weight in enumerate(explanation.weights)]


def plain(unit: str) -> str:
    """What makes two units one: case, white space and punctuation at the edges do not count."""
    return " ".join(unit.casefold().split()).strip(_EDGES).strip()


def matrix(explanations: Sequence[Weighted]) -> tuple[np.ndarray, list[str]]:
    """SP-LIME's W float64[texts, units] and the units, by alphabet. A unit that stands in a text several times has the
    sum of its weights there; one without a letter or digit is left out.

    Raises ValueError where a weight is not a finite number.
    """
    rows: list[dict[str, float]] = []
    for explanation in explanations:
        row: dict[str, float] = defaultdict(float)
        for unit, weight in explanation:
            if any(map(str.isalnum, unit)):
                row[plain(unit)] += weight
        rows.append(row)
    names = sorted({name for row in rows for name in row})
    place = {name: column for column, name in enumerate(names)}
    found = np.zeros((len(rows), len(names)))
    for number, row in enumerate(rows):
        for name, weight in row.items():
            found[number, place[name]] = weight
    if not np.isfinite(found).all():
        raise ValueError("An explanation holds a weight that is not a finite number; explain that text again.")
    return found, names


def aggregate(explanations: Sequence[Weighted]) -> list[UnitWeight]:
    """Every unit over the data set, the most important first. Weights should be of one scale: of one reward model."""
    weights, names = matrix(explanations)
    there = np.zeros(weights.shape, dtype=bool)
    place = {name: column for column, name in enumerate(names)}
    for number, explanation in enumerate(explanations):
        there[number, [place[plain(unit)] for unit, _ in explanation if plain(unit) in place]] = True
    effects = [mean_effect(column[mask]) for column, mask in zip(weights.T, there.T, strict=True)]
    tested = [i for i, effect in enumerate(effects) if effect is not None]
    adjusted = dict(zip(tested, holm([e.p for e in effects if e is not None]), strict=True))
    found = [
        UnitWeight(
            unit=name,
            texts=int(there[:, i].sum()),
            mean=float(weights[there[:, i], i].mean()),
            effect=effects[i],
            p=adjusted.get(i),
            importance=float(np.sqrt(np.abs(weights[:, i]).sum())),
        )
        for i, name in enumerate(names)
    ]
    return sorted(found, key=lambda unit: -unit.importance)


def pick(explanations: Sequence[Weighted], budget: int) -> Picks:
    """The texts that together show most of what matters, greedily: within 1 - 1/e of the best choice, since coverage
    is submodular (Nemhauser et al. 1978). Fewer than `budget` where the others would show nothing new.

    Raises ValueError for a budget below 1.
    """
    if budget < 1:
        raise ValueError(f"The budget is {budget}; pick at least one text.")
    weights, _ = matrix(explanations)
    importance = np.sqrt(np.abs(weights).sum(axis=0))
    covers = np.abs(weights) > 1e-9 * np.abs(weights).max(initial=0.0)  # less is what a fit rounds
    seen = np.zeros(weights.shape[1], dtype=bool)
    picked: list[int] = []
    coverage: list[float] = []
    while len(picked) < budget and len(weights):
        gains = (covers & ~seen) @ importance
        best = int(gains.argmax())  # the first of equals
        if gains[best] <= 0:
            break
        picked.append(best)
        seen |= covers[best]
        coverage.append(float(importance[seen].sum() / importance.sum()))
    return Picks(tuple(picked), tuple(coverage))


def rewarded(units: Iterable[UnitWeight], level: float = 0.005) -> tuple[list[UnitWeight], list[UnitWeight]]:
    """Units whose mean weight is above 0, and below it, by Holm's p at the level; each the strongest first."""
    sure = [unit for unit in units if unit.p is not None and unit.p < level]
    up = sorted((unit for unit in sure if unit.mean > 0), key=lambda unit: -unit.mean)
    down = sorted((unit for unit in sure if unit.mean < 0), key=lambda unit: unit.mean)
    return up, down
