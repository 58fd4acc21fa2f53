"""Perplexity of texts: windows over their tokens, and figures per token, word and byte.

Every token is scored exactly once, whatever the stride. Disjoint windows behind a prefix are those of
lm-evaluation-harness (its rolling log-likelihoods; a test); overlapping ones are Hugging Face's strided windows, their
last one extended to the left, where that has a shorter context.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from alignment.statistics import Interval, bootstrap, paired_bootstrap


class Window(NamedTuple):
    """``ids`` of which those from place ``start`` on are scored; the ones before are context."""

    ids: list[int]
    start: int


class Document(NamedTuple):
    """A text that was scored: its log-likelihood in nats, and what it is shared out over. ``words`` are the pieces
    between runs of white space, as lm-evaluation-harness counts them; ``bytes`` are of UTF-8."""

    loglikelihood: float
    tokens: int
    words: int
    bytes: int


def windows(ids: Sequence[int], length: int, stride: int | None = None, prefix: int | None = None) -> list[Window]:
    """Windows in which a model reads at most ``length`` tokens (the last one scored is not read).

    The first window scores as many tokens as fit, each later one ``stride`` more (``length`` without it: disjoint
    windows), with as much context as there is room for. ``prefix``, a token that stands before the text, is not scored;
    without it the text's first token is not. Raises ValueError for a stride that is not between 1 and ``length``.
    """
    stride = length if stride is None else stride
    if not 1 <= stride <= length:
        raise ValueError(f"a stride of {stride} does not fit windows of {length} tokens; take one from 1 to {length}")
    text = list(ids) if prefix is None else [prefix, *ids]
    found = []
    done = 1  # the first has nothing before it
    while done < len(text):
        end = min(len(text), length + 1 if done == 1 else done + stride)
        begin = max(0, end - length - 1)
        found.append(Window(text[begin:end], done - begin))
        done = end
    return found


def document(text: str, loglikelihood: float, tokens: int) -> Document:
    return Document(loglikelihood, tokens, len(re.split(r"\s+", text)), len(text.encode()))


def figures(documents: Sequence[Document]) -> dict[str, Any]:
    """Of a corpus, with intervals over its documents: ``token_perplexity``, ``word_perplexity``, ``byte_perplexity``
    (exp of the mean loss), ``bits_per_byte``, which compares models with other tokenizers, ``loss`` (nats per token,
    where the others overflow) and ``mean_document_perplexity``, the mean of each document's own, which is another
    figure. Infinite where float64 cannot hold it. Raises ValueError where nothing was scored."""
    scored = [one for one in documents if one.tokens]
    if not scored:
        raise ValueError("there is no text of at least one token that could be scored")
    total, tokens, words, size = (np.array(column, float) for column in zip(*scored, strict=True))

    def loss(over: np.ndarray) -> Interval:
        found = paired_bootstrap(lambda rows: float(-total[rows].sum() / over[rows].sum()), len(scored))
        assert found is not None
        return found

    by_token, by_byte = loss(tokens), loss(size)
    return {
        # exp is monotone, so it takes the quantiles of a mean loss to those of the perplexity
        "token_perplexity": _mapped(by_token, _exp),
        "word_perplexity": _mapped(loss(words), _exp),
        "byte_perplexity": _mapped(by_byte, _exp),
        "bits_per_byte": _mapped(by_byte, lambda nats: nats / math.log(2)),
        "loss": by_token,
        "mean_document_perplexity": _mean([_exp(value) for value in -total / tokens]),
        "tokens": int(tokens.sum()),
        "documents": len(scored),
    }


def _mapped(interval: Interval, of: Callable[[float], float]) -> Interval:
    return interval | {key: of(interval[key]) for key in ("value", "low", "high")}


def _mean(values: Sequence[float]) -> Interval:
    if all(map(math.isfinite, values)):
        return bootstrap(values)
    return bootstrap([0.0] * len(values)) | {key: math.inf for key in ("value", "low", "high")}


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf
