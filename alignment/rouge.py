"""ROUGE (Lin 2004, "ROUGE: a package for automatic evaluation of summaries").

Scores are those of the package ``rouge-score`` 0.1.2, the reference of the field, within 1e-9 (a test). What that one
leaves to chance (its intervals) or to others (several references, F with beta) is here too. Longest common
subsequences go by whole machine words (Hyyro 2004, "Bit-parallel LCS-length computation revisited"), not by cells.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

from alignment.statistics import Interval, bootstrap

VARIANTS = ("rouge1", "rouge2", "rougeL", "rougeLsum")
STEMMED = 4  # characters, from which on a word is stemmed

Tokenizer = Callable[[str], list[str]]


class Score(NamedTuple):
    precision: float
    recall: float
    f: float


NOTHING = Score(0.0, 0.0, 0.0)


def words(text: str) -> list[str]:
    """Runs of a-z and 0-9 of the lower-cased text. What is written in other letters vanishes: pass another tokenizer
    for a language that is, and say so beside the figure."""
    return re.findall("[a-z0-9]+", text.lower())


def stemmed_words(text: str) -> list[str]:
    """``words`` by Porter's stemmer (1980, in NLTK's form), those of more than three characters."""
    stem = _stemmer()
    return [stem(word) if len(word) >= STEMMED else word for word in words(text)]


def rouge(
    prediction: str,
    references: Sequence[str],
    variants: Sequence[str] = VARIANTS,
    tokenize: Tokenizer = words,
    beta: float = 1.0,
) -> dict[str, Score]:
    """Of each variant the score against that reference which gives the highest F.

    Variants: ``rougeN`` for any N (n-grams, clipped counts), ``rougeL`` (longest common subsequence of the whole text)
    and ``rougeLsum`` (the union of it over the lines of the text: split it into sentences, one a line, first).
    F = (1 + beta^2) P R / (R + beta^2 P) (Lin 2004, equation 4). Nothing on one side, or on both, scores 0. Raises
    ValueError without references, and for an unknown variant.
    """
    if not references:
        raise ValueError("ROUGE needs at least one reference")
    kinds = {name: _kind(name) for name in variants}
    # tokenized once for all variants
    sides = [_Text(text, tokenize) for text in (prediction, *references)]
    scores = {
        name: [_score(*score(sides[0], reference), beta) for reference in sides[1:]] for name, score in kinds.items()
    }
    return {name: max(of_each, key=lambda score: score.f) for name, of_each in scores.items()}


def corpus(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    variants: Sequence[str] = VARIANTS,
    tokenize: Tokenizer = words,
    beta: float = 1.0,
) -> dict[str, dict[str, Interval]]:
    """Of each variant the means of ``precision``, ``recall`` and ``f`` over texts, with seeded bootstrap intervals."""
    each = [rouge(p, r, variants, tokenize, beta) for p, r in zip(predictions, references, strict=True)]
    return {
        name: {part: bootstrap([getattr(scores[name], part) for scores in each]) for part in Score._fields}
        for name in variants
    }


class _Text:
    """The tokens of a text, and of its lines; computed once."""

    def __init__(self, text: str, tokenize: Tokenizer) -> None:
        self.tokens = tokenize(text)
        self.lines = [tokenize(part) for part in text.split("\n") if part]


def _kind(name: str) -> Callable[[_Text, _Text], tuple[int, int, int]]:
    """Hits, and the most there could be in the prediction and in the reference."""
    if name == "rougeL":
        return lambda p, r: (len(lcs(r.tokens, p.tokens)), len(p.tokens), len(r.tokens))
    if name == "rougeLsum":
        return lambda p, r: (_union_hits(p.lines, r.lines), sum(map(len, p.lines)), sum(map(len, r.lines)))
    if (found := re.fullmatch("rouge([1-9][0-9]*)", name)) is None:
        raise ValueError(f"there is no {name}; ROUGE has rouge1, rouge2 and so on, rougeL and rougeLsum")
    return lambda p, r: _ngram_hits(p.tokens, r.tokens, int(found[1]))


def _ngram_hits(prediction: list[str], reference: list[str], n: int) -> tuple[int, int, int]:
    of_prediction, of_reference = (
        Counter(zip(*(t[i:] for i in range(n)), strict=False)) for t in (prediction, reference)
    )
    return (of_prediction & of_reference).total(), of_prediction.total(), of_reference.total()


def _union_hits(prediction: list[list[str]], reference: list[list[str]]) -> int:
    """Tokens of the reference's lines that are in a longest common subsequence with some line of the prediction, each
    as often as both texts have it (Lin 2004, section 3.2)."""
    left_p, left_r = (Counter(token for one in side for token in one) for side in (prediction, reference))
    hits = 0
    for own in reference:
        for place in sorted({i for other in prediction for i in lcs(own, other)}):
            token = own[place]
            if left_p[token] > 0 and left_r[token] > 0:
                hits += 1
                left_p[token] -= 1
                left_r[token] -= 1
    return hits


def lcs(a: Sequence[Any], b: Sequence[Any]) -> list[int]:
    """The places in ``a`` of a longest common subsequence with ``b``, in order; of several, that which a walk back from
    the end finds that leaves a token of ``a`` out rather than one of ``b``, as ``rouge-score`` does: which one it is
    decides a union."""
    where: dict[Any, int] = {}
    for j, token in enumerate(b):
        where[token] = where.get(token, 0) | 1 << j
    full = (1 << len(b)) - 1
    # bit j of row i is 0 where the length for a[:i], b[:j + 1] is one above that for a[:i], b[:j]
    rows = [full]
    for token in a:
        row = rows[-1]
        same = row & where.get(token, 0)
        rows.append(((row + same) | (row - same)) & full)

    def length(i: int, j: int) -> int:
        low = (1 << j) - 1
        return j - (rows[i] & low).bit_count()

    found: list[int] = []
    i, j = len(a), len(b)
    while i and j:
        if a[i - 1] == b[j - 1]:
            found.append(i - 1)
            i, j = i - 1, j - 1
        elif length(i, j - 1) > length(i - 1, j):
            j -= 1
        else:
            i -= 1
    return found[::-1]


def _score(hits: int, of_prediction: int, of_reference: int, beta: float) -> Score:
    if not hits:
        return NOTHING
    precision, recall = hits / of_prediction, hits / of_reference
    return Score(precision, recall, (1 + beta**2) * precision * recall / (recall + beta**2 * precision))


@cache
def _stemmer() -> Callable[[str], str]:
    from nltk.stem.porter import PorterStemmer

    return cache(PorterStemmer().stem)
