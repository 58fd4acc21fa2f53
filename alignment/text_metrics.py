"""Metrics of written texts: BLEU and chrF through sacrebleu, exact match, pass@k."""

from __future__ import annotations

import math
import re
import string
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from alignment.statistics import Interval, share

Tokenizer = Literal["13a", "intl", "char", "none", "zh"]
Smoothing = Literal["exp", "floor", "add-k", "none"]
SEED = 12345  # sacrebleu's own
RESAMPLES = 1000


def bleu(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    tokenize: Tokenizer = "13a",
    smooth: Smoothing = "exp",
    lowercase: bool = False,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """Corpus BLEU in percent with its interval, and sacrebleu's ``signature``, without which it says little.

    ``references``: of each prediction all of its own; texts may differ in how many they have. Texts are as people
    write them, not tokenized. Papineni et al. 2002; Post 2018, arXiv 1804.08771. Raises ValueError without texts, or
    for a text that has no reference.
    """
    from sacrebleu.metrics import BLEU

    metric = BLEU(lowercase=lowercase, tokenize=tokenize, smooth_method=smooth)
    return _corpus("BLEU", metric, predictions, references, resamples)


def chrf(
    predictions: Sequence[str], references: Sequence[Sequence[str]], word_order: int = 0, resamples: int = RESAMPLES
) -> dict[str, Any]:
    """Corpus chrF2 in percent, as ``bleu``; with ``word_order`` 2 chrF++ (Popovic 2015, 2017)."""
    from sacrebleu.metrics import CHRF

    return _corpus("chrF", CHRF(word_order=word_order), predictions, references, resamples)


def sentence_bleu(
    prediction: str, references: Sequence[str], tokenize: Tokenizer = "13a", smooth: Smoothing = "exp"
) -> float:
    """BLEU of one text in percent, at most 100. Orders that the text is too short for are left out; the mean of such
    figures is not the corpus's BLEU."""
    from sacrebleu.metrics import BLEU

    found = BLEU(tokenize=tokenize, smooth_method=smooth, effective_order=True).sentence_score(prediction, references)
    return min(float(found.score), 100.0)


def _corpus(
    name: str, metric: Any, predictions: Sequence[str], references: Sequence[Sequence[str]], resamples: int
) -> dict[str, Any]:
    if not predictions:
        raise ValueError(f"{name} needs at least one text")
    if len(references) != len(predictions) or not all(references):
        raise ValueError(f"{name} needs at least one reference for each text")
    most = max(map(len, references))
    # sacrebleu takes the first references of all texts, then the second ones; None where a text has fewer
    columns = [[own[i] if i < len(own) else None for own in references] for i in range(most)]
    found = metric.corpus_score(list(predictions), columns)
    statistics = np.array(metric._extract_corpus_statistics(list(predictions), columns), dtype=float)
    rng = np.random.default_rng(SEED)
    draws = rng.integers(0, len(predictions), (resamples, len(predictions)))
    scores = [metric._compute_score_from_stats(list(statistics[rows].sum(0))).score for rows in draws]
    low, high = np.quantile(scores, [0.025, 0.975])
    return {
        "value": float(found.score),
        "low": float(low),
        "high": float(high),
        "n": len(predictions),
        "level": 0.95,
        "method": f"percentile bootstrap over texts, {resamples} resamples",
        "signature": str(metric.get_signature()),
    }


_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
# behind a digit a hyphen is no sign, and behind a digit and a comma begins the next of a list
NUMBER = re.compile(rf"(?<![\d.])(?<!\d,)-?(?:{_DIGITS})|(?<=\d,)(?:{_DIGITS})")


def exact_match(prediction: str, references: Sequence[str], normalize: bool = True) -> bool:
    """Whether the text is one of the references. ``normalize``: letters small, without punctuation, articles and
    surplus white space, as SQuAD does (Rajpurkar et al. 2016, section 6.1), but that numbers keep their signs and
    points (3.5 is not 35), and that texts of which nothing is left ("A", "...") are compared as they stand."""
    return any(_matches(prediction, reference, normalize) for reference in references)


def _matches(text: str, reference: str, normalize: bool) -> bool:
    both = (squad_normalized(text), squad_normalized(reference)) if normalize else ("", "")
    if not all(both):
        return text.strip() == reference.strip()
    return both[0] == both[1] and numbers(text) == numbers(reference)


def numbers(text: str) -> list[float]:
    """The numbers in a text: 1,000 is one, 1,2,3 are three, and the hyphen of 3-4 is no sign."""
    return [float(found.replace(",", "")) for found in NUMBER.findall(text)]


def squad_normalized(text: str) -> str:
    """Small letters, no ASCII punctuation, no English articles, single spaces."""
    without = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", without).split())


def pass_at_k(samples: int, right: int, k: int) -> float:
    """The probability that one of ``k`` samples is right, estimated without bias from ``samples`` of which ``right``
    are: 1 - C(n - c, k) / C(n, k) (Chen et al. 2021, arXiv 2107.03374, equation 1). Raises ValueError where k is not
    between 1 and n, or c not between 0 and n."""
    if not 1 <= k <= samples or not 0 <= right <= samples:
        raise ValueError(f"pass@{k} of {right} right samples among {samples} does not exist")
    return 1.0 - math.comb(samples - right, k) / math.comb(samples, k)


def pass_at_k_of(counts: Sequence[tuple[int, int]], k: int) -> Interval:
    """The mean of ``pass_at_k`` over questions, each with its numbers of samples and of right ones."""
    return share([pass_at_k(samples, right, k) for samples, right in counts])
