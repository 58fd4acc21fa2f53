"""Does leaving by score help? Measured on lines that were all written to their end, without a model.

Every line is a row of steps with tokens and values. A council that leaves by score is replayed on them: each expert has
one line, which ends, without a vote, at the first unfinished step whose value is below the threshold. It is compared
with a council of fewer experts, whom nobody makes leave, that spends the same tokens. Who takes up a peer's line after
leaving (``rejoin``) is not replayed.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agents.thought import vote
from alignment.statistics import auc, bootstrap

ORDERS = 40  # in which the lines of a question are taken; accuracies are means over them
CANDIDATES = 19  # thresholds that are tried, at equal steps of the values' distribution
FEWEST = 16  # questions: the threshold is picked on one half of them and measured on the other


@dataclass(frozen=True)
class Step:
    """``value``: what decides about leaving; ``dead``: whether the line is lost from here on."""

    tokens: int
    value: float
    dead: bool


@dataclass(frozen=True)
class Sampled:
    """A line to its end. ``ending`` is what its vote is for, None where it came to none; ``score`` weighs the vote."""

    steps: tuple[Step, ...]
    ending: str | None
    score: float
    solved: bool


Asked = Sequence[Sampled]  # the lines of one question


def replay(lines: Asked, threshold: float | None, how: str) -> tuple[bool, int]:
    """Whether a council of these lines solves the question, and the tokens that it spends. ``threshold`` None: nobody
    leaves."""
    spent = 0
    stayed: list[Sampled] = []
    for one in lines:
        low = (i for i, step in enumerate(one.steps[:-1]) if threshold is not None and step.value < threshold)
        left = next(low, None)
        spent += sum(step.tokens for step in one.steps[: None if left is None else left + 1])
        if left is None and one.ending is not None:
            stayed.append(one)
    if not stayed:
        return False, spent
    winner = vote([one.ending or "" for one in stayed], [one.score for one in stayed], how)
    return stayed[winner].solved, spent


def at_tokens(lines: Asked, tokens: float, how: str) -> float:
    """How probably a council without leaving solves the question for ``tokens``: it has the first of ``lines``, and
    one more with the probability at which it spends so many on average."""
    right, spent = 0.0, 0
    for count in range(1, len(lines) + 1):
        more, cost = replay(lines[:count], None, how)
        if cost >= tokens:
            return right + (more - right) * (tokens - spent) / (cost - spent)
        right, spent = float(more), cost
    return right


def gains(questions: Sequence[Asked], experts: int, threshold: float, how: str, seed: int) -> dict[str, list[float]]:
    """Per question, means over orders: accuracy ``with`` and ``without`` leaving at the same tokens, the ``tokens``
    that were spent, and those of ``everyone``, had nobody left."""
    found: dict[str, list[float]] = {"with": [], "without": [], "tokens": [], "everyone": []}
    for number, lines in enumerate(questions):
        rng = random.Random(f"{seed}/{number}")
        sums = [0.0] * len(found)
        for _ in range(ORDERS):
            order = rng.sample(list(lines), min(experts, len(lines)))
            solved, spent = replay(order, threshold, how)
            sums[0] += solved
            sums[1] += at_tokens(order, spent, how)
            sums[2] += spent
            sums[3] += replay(order, None, how)[1]
        for key, total in zip(found, sums, strict=True):
            found[key].append(total / ORDERS)
    return found


def calibrate(questions: Sequence[Asked], experts: int, how: str = "reward", seed: int = 0) -> dict[str, Any]:
    """Picks the threshold on one half of the questions and measures it on the other. ``threshold`` is None unless the
    difference at equal tokens, paired, is above 0 and its lower bound is not below 0. Raises ValueError for fewer than
    ``FEWEST`` questions."""
    if len(questions) < FEWEST:
        raise ValueError(f"{len(questions)} questions are too few to measure on; take {FEWEST} at least")
    fit, held = questions[::2], questions[1::2]
    values = sorted(step.value for lines in fit for one in lines for step in one.steps[:-1])
    tried = sorted({values[len(values) * i // (CANDIDATES + 1)] for i in range(1, CANDIDATES + 1)}) if values else []
    gain = {threshold: _mean_gain(gains(fit, experts, threshold, how, seed)) for threshold in tried}
    best = max(gain, key=gain.__getitem__, default=None)
    found: dict[str, Any] = {"threshold": None, "tried": best, "questions": len(questions), "experts": experts}
    found |= _departures(held, best)
    if best is None:
        return found | {"reason": "no line had an unfinished step", "difference": None}
    if gain[best] <= 0:
        reason = f"no threshold of {len(tried)} raises accuracy at equal tokens on the questions that it is picked on"
        return found | {"reason": reason, "difference": None}
    measured = gains(held, experts, best, how, seed + 1)
    difference = bootstrap([a - b for a, b in zip(measured["with"], measured["without"], strict=True)])
    found |= {key: sum(each) / len(each) for key, each in measured.items()} | {"difference": difference}
    points = {key: 100 * difference[key] for key in ("value", "low", "high")}
    said = (
        f"at equal tokens leaving below {best:+.2f} changes accuracy by {points['value']:+.1f} points "
        f"({points['low']:+.1f} to {points['high']:+.1f}) on {len(held)} held-out questions"
    )
    return found | {"threshold": best if difference["value"] > 0 <= difference["low"] else None, "reason": said}


def _mean_gain(found: dict[str, list[float]]) -> float:
    return (sum(found["with"]) - sum(found["without"])) / len(found["with"])


def _departures(questions: Sequence[Asked], threshold: float | None) -> dict[str, float | None]:
    """Of unfinished steps: how many are dead, and how well values tell; of departures at ``threshold``: how many were
    right (precision), and which share of the dead steps they are (recall)."""
    steps = [step for lines in questions for one in lines for step in one.steps[:-1]]
    dead = [step for step in steps if step.dead]
    sound = [step for step in steps if not step.dead]
    leave = [step for step in steps if threshold is not None and step.value < threshold]
    right = sum(step.dead for step in leave)
    return {
        "steps": len(steps),
        "base_rate": len(dead) / len(steps) if steps else None,
        "auc": auc([-s.value for s in dead], [-s.value for s in sound]) if dead and sound else None,
        "precision": right / len(leave) if leave else None,
        "recall": right / len(dead) if dead else None,
    }
