"""The table of ``benchmarks.council``, from lines that were sampled and councils that sat."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from agents.thought import vote
from alignment.statistics import bootstrap

SCORERS = ("random", "length", "logprob", "reward", "oracle")
LINES = 32  # in the pool of a question
ORDERS = 40  # in which they are taken, per number of lines

Row = dict[str, Any]


def shared_by(texts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Of the tree that ``texts`` form: by how many of them a token is shared, and how many tokens are so."""
    through = Counter(tuple(text[:end]) for text in texts for end in range(1, len(text) + 1))
    return sorted(map(list, Counter(through.values()).items()))


def tree_tokens(shared: Sequence[Sequence[int]], count: int, drawn: int) -> float:
    """Expected tokens of the tree of ``drawn`` of ``count`` texts: one that c of them share is missing where none of
    the c is drawn, with probability C(count - c, drawn) / C(count, drawn)."""
    return sum(n * (1 - math.comb(count - c, drawn) / math.comb(count, drawn)) for c, n in shared)


def choices() -> dict[str, Callable[[Sequence[Row], str], bool]]:
    """Arms that choose among sampled lines: from the lines and a scorer whether the chosen one is right."""

    def by(how: str) -> Callable[[Sequence[Row], str], bool]:
        def chosen(lines: Sequence[Row], scorer: str) -> bool:
            stay = [line for line in lines if line["ending"] is not None]
            if not stay:
                return False
            return stay[vote([s["ending"] for s in stay], [s["scores"][scorer][-1] for s in stay], how)]["solved"]

        return chosen

    return {
        "self-consistency": by("majority"),
        "best of n": by("best"),
        "weighted self-consistency": by("reward"),
        "pass@n": lambda lines, scorer: any(line["solved"] for line in lines),
    }


def curve(pools: Sequence[Row], choose: Callable[[Sequence[Row], str], bool], scorer: str, judge: bool) -> Any:
    """Per number of lines n = 1..LINES: tokens, and accuracy of each question; means over orders and seeds."""
    questions = list(dict.fromkeys(row["question"] for row in pools))
    right = np.zeros((LINES, len(questions)))
    tokens = np.zeros(LINES)
    counts = np.zeros(len(questions))
    for row in pools:
        at = questions.index(row["question"])
        counts[at] += 1
        rng = random.Random(f"{row['seed']}/{row['question']}")
        lines = row["lines"][1:]
        for _ in range(ORDERS):
            order = rng.sample(lines, len(lines))
            for n in range(1, LINES + 1):
                right[n - 1, at] += choose(order[:n], scorer) / ORDERS
        lengths = np.array([line["tokens"] for line in lines], dtype=float)
        tokens += row["prompt_tokens"] + lengths.mean() * np.arange(1, LINES + 1)
        if judge:
            tokens += [tree_tokens(row["judged"], LINES, n) for n in range(1, LINES + 1)]
    return tokens / len(pools), right / counts


def at_tokens(tokens: Any, right: Any, wanted: float) -> Any:
    """Accuracy per question at ``wanted`` tokens, between two numbers of lines in proportion."""
    place = float(np.interp(wanted, tokens, np.arange(len(tokens))))
    low, share = int(place), place - int(place)
    return right[low] if share == 0 else (1 - share) * right[low] + share * right[low + 1]


def table(pools: Sequence[Row], sittings: Sequence[Row], task: str) -> list[Row]:
    """Rows of accuracy with its interval over questions; councils with the paired difference to self-consistency and
    to best of n (reward) at their own tokens."""
    questions = list(dict.fromkeys(row["question"] for row in pools))
    curves = {
        (name, scorer): curve(pools, choose, scorer, scorer == "reward" and name not in ("self-consistency", "pass@n"))
        for name, choose in choices().items()
        for scorer in (SCORERS if name in ("best of n", "weighted self-consistency") else ("random",))
    }
    found = []
    greedy = [np.mean([r["lines"][0]["solved"] for r in pools if r["question"] == q]) for q in questions]
    cost = float(np.mean([r["prompt_tokens"] + r["lines"][0]["tokens"] for r in pools]))
    found.append(_row(task, "greedy", "", greedy, cost))
    budget = float(np.mean([s["tokens"] for s in sittings if s["arm"] == "council alone"]))
    for (name, scorer), (tokens, right) in curves.items():
        shown = scorer if name in ("best of n", "weighted self-consistency") else ""
        row = _row(task, name, shown, at_tokens(tokens, right, budget), budget)
        found.append(row | {"lines": round(float(np.interp(budget, tokens, np.arange(1, LINES + 1))), 1)})
    for name in dict.fromkeys(s["arm"] for s in sittings):
        mine = [s for s in sittings if s["arm"] == name]
        right = [np.mean([s["solved"] for s in mine if s["question"] == q]) for q in questions]
        spent = float(np.mean([s["tokens"] for s in mine]))
        row = _row(task, name.split("/")[0], mine[0]["scorer"], right, spent)
        for label, key in (("sc", ("self-consistency", "random")), ("best", ("best of n", "reward"))):
            tokens, others = curves[key]
            if tokens[0] <= spent <= tokens[-1]:  # elsewhere the lines that there are cost more, or less
                difference = bootstrap([a - b for a, b in zip(right, at_tokens(tokens, others, spent), strict=True)])
                row[f"over_{label}"] = [difference[k] for k in ("value", "low", "high")]
        found.append(row)
    return found


def _row(task: str, arm: str, scorer: str, right: Sequence[float], tokens: float) -> Row:
    interval = bootstrap(list(map(float, right)))
    about = {"task": task, "arm": arm, "scorer": scorer, "accuracy": interval["value"]}
    return about | {"low": interval["low"], "high": interval["high"], "tokens": round(tokens)}


def lines(rows: Sequence[Row]) -> list[str]:
    """The table for the terminal."""
    found = []
    for row in rows:
        extra = "".join(
            f"  {label} {100 * row[key][0]:+.1f} [{100 * row[key][1]:+.1f}, {100 * row[key][2]:+.1f}]"
            for key, label in (("over_sc", "over SC"), ("over_best", "over best of n"))
            if key in row
        )
        found.append(
            f"{row['task']:<10} {row['arm']:<36} {row['scorer']:<8} {100 * row['accuracy']:5.1f} "
            f"[{100 * row['low']:.1f}, {100 * row['high']:.1f}]  {row['tokens']} tokens{extra}"
        )
    return found
