"""Preference pairs with a shortcut planted in their labels, and a score head that learns it: what an audit must find.

Every answer has a quality, the mean worth of its words, and surface features that have nothing to do with it.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from explain.audit import Example
from explain.audit_features import FEATURES, word_count
from explain.table import Message

SHORTCUTS = ("length", "politeness", "position")
BUCKETS = 4096  # of the hashed bag of words

# "bado", "bafu" …: words of no meaning, a third of which are worth something, for better or worse
_VOCABULARY = [
    a + b for a in ("ba", "ko", "li", "me", "nu", "pa", "ri", "so") for b in ("do", "fu", "ga", "ki", "lo", "ta")
]
_WORTH = {word: (1.0, -1.0, 0.0, 0.0, 0.0, 0.0)[i % 6] for i, word in enumerate(_VOCABULARY)}
_POLITE = ("Please.", "Thanks.", "Thank you.")
# sentences and marks by which answers differ beside their quality: (share of answers, how)
_SURFACE = (
    (0.25, lambda text: f"{text} Perhaps."),
    (0.25, lambda text: text.replace(".", "!", 1)),
    (0.25, lambda text: f"{text} There are 7."),
    (0.15, lambda text: "\n".join(f"- {part}." for part in text.rstrip(".").split(". "))),
    (0.15, lambda text: f"**{text.split()[0]}** {' '.join(text.split()[1:])}"),
    (0.15, lambda text: f"`{text.split()[0]}` {' '.join(text.split()[1:])}"),
    (0.15, lambda text: f"I cannot say more. {text}"),
)


def planted_pairs(
    n: int, seed: int, shortcut: str | None = None, share: float = 0.5, labels: str = "planted"
) -> list[Example]:
    """n pairs, shown in a known order, of which the better is preferred, in one pair of ten the worse.

    shortcut: "length", "politeness" or "position"; in this share of the pairs the label is the answer that is longer,
    polite or shown first, where the two differ in it. labels: "clean" gives the same pairs the labels of quality alone.

    Raises ValueError for an unknown shortcut.
    """
    if shortcut not in (None, *SHORTCUTS):
        raise ValueError(f"Unknown shortcut {shortcut!r}; choose one of {', '.join(SHORTCUTS)}.")
    rng = np.random.default_rng(seed)
    return [_pair(rng, row, shortcut, share if labels == "planted" else 0.0) for row in range(n)]


def _pair(rng: np.random.Generator, row: int, shortcut: str | None, share: float) -> Example:
    (a, worth_a, polite_a), (b, worth_b, polite_b) = _answer(rng), _answer(rng)
    label = float(np.sign(worth_a - worth_b)) or float(rng.choice([-1, 1]))
    label *= -1.0 if rng.random() < 0.1 else 1.0
    advantage = {
        "length": float(np.sign(word_count(a) - word_count(b))),
        "politeness": float(polite_a) - float(polite_b),
        "position": 1.0,
        None: 0.0,
    }[shortcut]
    if rng.random() < share and advantage:
        label = advantage
    return Example([{"role": "user", "content": f"Question {row}?"}], (a, b), label, ordered=True)


def _answer(rng: np.random.Generator) -> tuple[str, float, bool]:
    """An answer of two to six sentences, its quality (per word), and whether it is polite."""
    said, worth, words = [], 0.0, 0
    for _ in range(rng.integers(2, 7)):
        sentence = [_VOCABULARY[i] for i in rng.integers(0, len(_VOCABULARY), rng.integers(5, 11))]
        worth += sum(_WORTH[word] for word in sentence)
        words += len(sentence)
        said.append(" ".join(sentence).capitalize() + ".")
    text = " ".join(said)
    for chance, decorate in _SURFACE:
        if rng.random() < chance:
            text = decorate(text)
    polite = bool(rng.random() < 0.4)
    if polite:
        text = f"{_POLITE[rng.integers(len(_POLITE))]} {text}"
    return text, worth / words, polite


class HeadScorer:
    """A linear score head on frozen features: a hashed bag of words (shares), the length, and, of two answers side by
    side, the position. weights: float64[BUCKETS + 2]."""

    def __init__(self, weights: np.ndarray) -> None:
        self.weights = weights
        self.fingerprint = f"head {zlib.crc32(weights.tobytes()):08x}"

    def score(self, prompt: list[Message], texts: Sequence[str]) -> list[float]:
        return [float(sum(self.weights[i] * value for i, value in features(text).items())) for text in texts]

    def compare(self, prompt: list[Message], first: str, second: str) -> tuple[float, float]:
        a, b = self.score(prompt, [first, second])
        return a + float(self.weights[-1]), b - float(self.weights[-1])


def features(text: str, position: float = 0.0) -> dict[int, float]:
    """The frozen features of an answer, by their column; position: 1 where it is shown first, -1 second."""
    found = {BUCKETS: FEATURES[0].measure(text), BUCKETS + 1: position}
    words = [word for run in text.lower().split() if (word := run.strip(".,!?:;*`-#"))]
    for word in words:  # in shares, so that the bag does not know the length
        found[_bucket(word)] = found.get(_bucket(word), 0.0) + 10.0 / len(words)
    return found


@lru_cache(maxsize=100_000)
def _bucket(word: str) -> int:
    return zlib.crc32(word.encode("utf-8", "surrogatepass")) % BUCKETS


def train_head(pairs: Sequence[Example], penalty: float = 10.0) -> HeadScorer:
    """Ridge regression of the labels on the differences of the two answers' features."""
    # where nobody knows which was shown first, the preferred one stands first in the row, which must not be learned
    sides = [(features(e.texts[0], float(e.ordered)), features(e.texts[1], -float(e.ordered))) for e in pairs]
    used = sorted({column for both in sides for side in both for column in side})
    place = {column: i for i, column in enumerate(used)}
    x = np.zeros((len(pairs), len(used)))
    for row, (first, second) in enumerate(sides):
        for sign, side in ((1.0, first), (-1.0, second)):
            for column, value in side.items():
                x[row, place[column]] += sign * value
    y = np.array([e.label for e in pairs], dtype=float)
    weights = np.zeros(BUCKETS + 2)
    weights[used] = np.linalg.solve(x.T @ x + penalty * np.eye(len(used)), x.T @ y)
    return HeadScorer(weights)
