"""The recall benchmark: a linear model is recalled whole, and its parts on cases that can be counted by hand."""

from __future__ import annotations

import random
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import explain_recall as benchmark
from explain.anchors import Anchor, Decision
from explain.units import segment

WORDS = [f"word{i}" for i in range(40)]


class Linear:
    """A model of counts that is its coefficients."""

    def __init__(self, coefficients: np.ndarray) -> None:
        self.coef_ = coefficients[None]

    def predict_proba(self, counts: Any) -> np.ndarray:
        score = np.asarray(counts @ self.coef_[0])
        return np.column_stack([-score, score])


def bag(texts: list[str]) -> Any:
    from sklearn.feature_extraction.text import CountVectorizer

    return CountVectorizer(binary=True, lowercase=False).fit(texts)


def test_all_words_of_a_linear_model_are_recalled() -> None:
    rng = random.Random(0)
    texts = [" ".join(rng.sample(WORDS, 20)) for _ in range(6)]
    words = bag(texts)
    coefficients = np.zeros(len(words.vocabulary_))
    for i, word in enumerate(WORDS[:12]):
        coefficients[words.vocabulary_[word]] = (-1) ** i * (0.5 + i / 10)
    reward = benchmark.reward_of(words, Linear(coefficients))
    for seed, text in enumerate(texts):
        gold = benchmark.gold_units(segment(text, "words"), words, coefficients)
        assert 0 < len(gold) == len(set(text.split()) & set(WORDS[:12])) <= 10
        for lime in (benchmark.by_default(reward, text, seed), benchmark.as_in_the_paper(reward, text, seed, 500)):
            assert benchmark.recall(lime.weights, gold) == 1.0
        assert benchmark.recall([0.0] * 10 + [1.0] * 10, [{0}, {19}, {3, 12}]) == pytest.approx(2 / 3)


def test_recall_at_random_is_the_mean_over_all_choices() -> None:
    gold = [{0}, {1, 4}, {2, 3, 5}]
    shares = [sum(bool(set(top) & holders) for holders in gold) / 3 for top in combinations(range(6), 2)]
    assert benchmark.recall_at_random(6, gold, shown=2) == pytest.approx(np.mean(shares))


def test_the_sparse_model_has_few_words_in_every_sentence() -> None:
    rng = random.Random(1)
    texts = [" ".join(rng.sample(WORDS, 20)) for _ in range(300)]
    labels = np.array([int("word3" in text.split()) for text in texts])
    words, model = benchmark.sparse_model(texts, labels, most=3)
    assert (words.transform(texts) @ (model.coef_[0] != 0)).max() <= 3
    assert model.coef_[0][words.vocabulary_["word3"]] > 0


def test_precision_and_coverage_of_an_anchor() -> None:
    text = "a good film of its kind"
    units = segment(text, "words")
    reward = lambda prompt, texts: np.array([float("good" in text.split()) for text in texts])  # noqa: E731
    decision = Decision(0.5)
    assert benchmark.fresh_precision(reward, units, decision, (1,), 0, 200) == 1.0
    assert benchmark.fresh_precision(reward, units, decision, (0,), 0, 2000) == pytest.approx(0.5, abs=0.05)
    tokens = [set(one.split()) for one in ("a good one", "good", "a bad one", text)]
    assert benchmark.covered(units, Anchor((0, 1), 1.0, 0.25), tokens).tolist() == [True, False, False, True]
    assert benchmark.covered(units, Anchor((), 1.0, 1.0), tokens).all()


def test_data_that_are_absent_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark, "DATA", tmp_path)
    benchmark.main([])
    assert "skipped, there is no" in capsys.readouterr().out


@pytest.mark.skipif(not (benchmark.DATA / benchmark.TEXTS).is_file(), reason="rt-polarity is not here; set JUNTO_DATA")
def test_a_few_sentences_of_rt_polarity() -> None:
    texts, labels = benchmark.sentences(benchmark.DATA / benchmark.TEXTS)
    assert len(texts) == 10662 and labels.sum() == 5331  # as published
    found = benchmark.measure_recall(texts[2000:], labels[2000:], texts[:2000], explained=8, samples=500)
    assert found["sentences"] == 8
    assert found["recall"]["default"]["value"] > 0.9 > found["recall"]["random"]["value"]
