"""Metrics of written texts: BLEU and chrF through sacrebleu, exact match, pass@k."""

from __future__ import annotations

import math
import re
import string
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from alignment.statistics import Interval, paired_bootstrap

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
    return corpus_interval(statistics(bleu_metric(tokenize, smooth, lowercase), predictions, references), resamples)


def chrf(
    predictions: Sequence[str], references: Sequence[Sequence[str]], word_order: int = 0, resamples: int = RESAMPLES
) -> dict[str, Any]:
    """Corpus chrF2 in percent, as ``bleu``; with ``word_order`` 2 chrF++ (Popovic 2015, 2017)."""
    return corpus_interval(statistics(chrf_metric(word_order), predictions, references), resamples)


def bleu_metric(tokenize: Tokenizer = "13a", smooth: Smoothing = "exp", lowercase: bool = False) -> Any:
    """sacrebleu's, with these settings."""
    from sacrebleu.metrics import BLEU

    return BLEU(lowercase=lowercase, tokenize=tokenize, smooth_method=smooth)


def chrf_metric(word_order: int = 0) -> Any:
    """sacrebleu's, with this setting."""
    from sacrebleu.metrics import CHRF

    return CHRF(word_order=word_order)


def sentence_bleu(
    prediction: str, references: Sequence[str], tokenize: Tokenizer = "13a", smooth: Smoothing = "exp"
) -> float:
    """BLEU of one text in percent, at most 100. Orders that the text is too short for are left out; the mean of such
    figures is not the corpus's BLEU."""
    from sacrebleu.metrics import BLEU

    found = BLEU(tokenize=tokenize, smooth_method=smooth, effective_order=True).sentence_score(prediction, references)
    return min(float(found.score), 100.0)


class Statistics(NamedTuple):
    """What a corpus's figure is computed from: of each item the counts, which add up, in the mean over its texts (so
    that smoothing, which hangs on their number, does not see how many there are). ``metric`` is sacrebleu's, and knows
    the settings and the number of references."""

    metric: Any
    items: dict[Any, np.ndarray]

    def score(self, counts: np.ndarray) -> float:
        return float(self.metric._compute_score_from_stats(list(counts)).score)


def statistics(
    metric: Any, predictions: Sequence[str], references: Sequence[Sequence[str]], items: Sequence[Any] | None = None
) -> Statistics:
    """``references``: of each prediction all of its own. ``items``: what each prediction belongs to, where an item has
    several; None: each is its own. Raises ValueError without texts, or for a text that has no reference."""
    name = type(metric).__name__
    if not predictions:
        raise ValueError(f"{name} needs at least one text")
    if len(references) != len(predictions) or not all(references):
        raise ValueError(f"{name} needs at least one reference for each text")
    most = max(map(len, references))
    # sacrebleu takes the first references of all texts, then the second ones; None where a text has fewer
    columns = [[own[i] if i < len(own) else None for own in references] for i in range(most)]
    counts = np.array(metric._extract_corpus_statistics(list(predictions), columns), dtype=float)
    found: dict[Any, list[np.ndarray]] = {}
    for item, row in zip(range(len(predictions)) if items is None else items, counts, strict=True):
        found.setdefault(item, []).append(row)
    return Statistics(metric, {item: np.mean(rows, axis=0) for item, rows in found.items()})


def corpus_interval(found: Statistics, resamples: int = RESAMPLES) -> dict[str, Any]:
    """The figure of all items with its interval over them, and the signature."""
    counts = np.array(list(found.items.values()))
    interval = _resampled(len(counts), lambda rows: found.score(counts[rows].sum(0)), resamples)
    return interval | {"signature": str(found.metric.get_signature())}


def paired_corpus(first: Statistics, second: Statistics, resamples: int = RESAMPLES) -> dict[str, Any]:
    """Both figures on the items that both have, and their difference, second minus first, with its interval: paired
    bootstrap resampling (Koehn 2004, EMNLP). Raises ValueError where they have none in common."""
    ids = [item for item in first.items if item in second.items]
    if not ids:
        raise ValueError("there is no item in common")
    one, other = (np.array([side.items[item] for item in ids]) for side in (first, second))
    return {
        "first": first.score(one.sum(0)),
        "second": second.score(other.sum(0)),
        "difference": _resampled(
            len(ids), lambda rows: second.score(other[rows].sum(0)) - first.score(one[rows].sum(0)), resamples
        ),
    }


def _resampled(n: int, statistic: Callable[[np.ndarray], float], resamples: int) -> Interval:
    found = paired_bootstrap(statistic, n, SEED, resamples)
    assert found is not None
    return found


_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
# behind a digit a hyphen is no sign, and behind a digit and a comma begins the next of a list
NUMBER = re.compile(rf"(?<![\d.])(?<!\d,)-?(?:{_DIGITS})|(?<=\d,)(?:{_DIGITS})")
# of arithmetic, between two numbers or brackets
SIGN = re.compile(r"(?<=[\d)])\s*([-+*/^=<>]+?)\s*(?=-?[\d.(])")


def exact_match(prediction: str, references: Sequence[str], normalize: bool = True) -> bool:
    """Whether the text is one of the references. ``normalize``: letters small, without punctuation, articles and
    surplus white space, as SQuAD does (Rajpurkar et al. 2016, section 6.1), but that numbers keep their signs and
    points (3.5 is not 35) and the signs of arithmetic between them (10-4 is not 10+4), and that texts of which nothing
    is left ("A", "...") are compared as they stand."""
    return any(_matches(prediction, reference, normalize) for reference in references)


def _matches(text: str, reference: str, normalize: bool) -> bool:
    both = (squad_normalized(text), squad_normalized(reference)) if normalize else ("", "")
    if not all(both):
        return text.strip() == reference.strip()
    return both[0] == both[1] and numbers(text) == numbers(reference) and SIGN.findall(text) == SIGN.findall(reference)


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
