"""Scorers whose rewards are known rules."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Rule = Callable[[list[bool]], float]
VALUES = {"good": 2.0, "right": 1.0, "bad": -1.5, "long": -0.25}


class RuleScorer:
    """Rewards by which of the lines "u0".."u11" a text still has; remembers every text that it scored."""

    def __init__(self, rule: Rule, d: int, name: str = "rule") -> None:
        self.rule, self.d, self.fingerprint = rule, d, name
        self.scored: list[str] = []

    def score(self, prompt: list[dict[str, str]], texts: list[str]) -> list[float]:
        self.scored += texts
        return [self.rule([f"u{unit}\n" in text for unit in range(self.d)]) for text in texts]

    @property
    def text(self) -> str:
        return "".join(f"u{unit}\n" for unit in range(self.d))


@pytest.fixture
def rule_scorer() -> type[RuleScorer]:
    return RuleScorer


@pytest.fixture
def prompt() -> list[dict[str, str]]:
    return [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]


class WordScorer:
    """A linear reward of words, with one pair that counts more together."""

    fingerprint = "words"
    note = ""

    def score(self, prompt, texts):
        return [sum(VALUES.get(w, 0.0) for w in t.split()) + ("good" in t and "right" in t) for t in texts]


@pytest.fixture
def words() -> WordScorer:
    return WordScorer()
