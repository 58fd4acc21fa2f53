"""LIME's and Anchors' own experiments on rt-polarity: ``python -m benchmarks.explain_recall [--json]``.

- LIME (Ribeiro, Singh and Guestrin, KDD 2016, section 5.2): a logistic regression is made so sparse that it goes by ten
  words of a sentence at most; which share of those it goes by is among the ten units of largest weight? Of ours, as
  they come and from 15,000 masks, as many as the paper's code draws; beside ten words at random. Sentences have 15
  words or more, or ten of them would say little.
- Anchors (the same, AAAI 2018, section 4): the black box is a small neural network on words. Precision is that of fresh
  perturbations that keep the anchor, coverage the share of test sentences that hold its words.

scikit-learn is all that it takes, and alibi for the anchors. The data (Pang and Lee 2005) are looked for in JUNTO_DATA,
or ../shared/data; where they are absent, one sentence says so. About two minutes on one core.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from math import comb
from pathlib import Path
from typing import Any

import numpy as np

from alignment.statistics import bootstrap
from benchmarks.explain_errors import drawn_table
from explain.anchors import Anchor, AnchorExplanation, Decision
from explain.api import as_scorer, explain
from explain.ask import Rewards
from explain.lime import LimeExplanation, fit_lime
from explain.perturb import renderer
from explain.result import TextExplanation
from explain.units import Units, segment

DATA = Path(os.environ.get("JUNTO_DATA") or Path(__file__).parents[2] / "shared" / "data")
TEXTS = "sentence-polarity/sentence_polarity.zip"
TEST = 2000  # sentences held out, as many as the paper's train sets
LEAST_WORDS = 15
SHOWN = 10  # K
PAPER_SAMPLES = 15_000
EXPLAINED, ANCHORED = 400, 200  # sentences; the paper explains 400
PERTURBED = 1000  # fresh ones per anchor

Json = dict[str, Any]
Reward = Callable[[Any, list[str]], Any]


# -- data and models --------------------------------------------------------------------------------------


def sentences(path: Path) -> tuple[list[str], np.ndarray]:
    """The sentences in an order that says nothing about them, and whether each is positive."""
    with zipfile.ZipFile(path) as archive:
        by_label = [archive.read(f"sentence_polarity/rt-polarity.{name}").decode("latin-1") for name in ("neg", "pos")]
    texts = [(line.strip(), label) for label, text in enumerate(by_label) for line in text.split("\n") if line.strip()]
    order = np.random.default_rng(0).permutation(len(texts))
    return [texts[i][0] for i in order], np.array([texts[i][1] for i in order])


def sparse_model(texts: Sequence[str], labels: np.ndarray, most: int = SHOWN) -> tuple[Any, Any]:
    """Words as the paper's code counts them, and a logistic regression with an L1 penalty, raised until no sentence has
    more than ``most`` words with a weight."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    words = CountVectorizer(binary=True, lowercase=False)
    counts = words.fit_transform(texts)
    for strength in np.arange(0.1, 0.0, -0.005):
        model = LogisticRegression(l1_ratio=1.0, solver="liblinear", C=strength, random_state=0).fit(counts, labels)
        if (counts @ (model.coef_[0] != 0)).max() <= most:
            return words, model
    raise ValueError(f"no penalty leaves {most} words of every sentence")


def black_box(texts: Sequence[str], labels: np.ndarray) -> tuple[Any, Any]:
    """The same words, and a network of one hidden layer."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.neural_network import MLPClassifier

    words = CountVectorizer(binary=True, lowercase=False, min_df=2)
    model = MLPClassifier((50,), early_stopping=True, random_state=0).fit(words.fit_transform(texts), labels)
    return words, model


def reward_of(words: Any, model: Any) -> Reward:
    """The probability that a text is positive."""
    return lambda prompt, texts: model.predict_proba(words.transform(texts))[:, 1]


# -- recall -----------------------------------------------------------------------------------------------


def gold_units(units: Units, words: Any, coefficients: np.ndarray) -> list[set[int]]:
    """For each word of the text that has a weight, the units that hold it."""
    analyze, number = words.build_analyzer(), words.vocabulary_
    holders: dict[str, set[int]] = {}
    for i in range(len(units)):
        for word in analyze(units[i]):
            if word in number and coefficients[number[word]] != 0:
                holders.setdefault(word, set()).add(i)
    return list(holders.values())


def recall(weights: Sequence[float], gold: Sequence[set[int]], shown: int = SHOWN) -> float:
    """The share of the gold words of which a unit is among the ``shown`` of largest weight."""
    top = set(np.argsort(-np.abs(np.array(weights)), kind="stable")[:shown].tolist())
    return sum(bool(top & holders) for holders in gold) / len(gold)


def recall_at_random(d: int, gold: Sequence[set[int]], shown: int = SHOWN) -> float:
    """What ``shown`` of d units at random recall in the mean."""
    return sum(1 - comb(d - len(holders), shown) / comb(d, shown) for holders in gold) / len(gold)


def by_default(reward: Reward, text: str, seed: int) -> LimeExplanation:
    """Our weights of words, as they come."""
    found = explain(reward, "", text, units="words", seed=seed)
    assert isinstance(found, TextExplanation)
    return found.lime


def as_in_the_paper(reward: Reward, text: str, seed: int, samples: int = PAPER_SAMPLES) -> LimeExplanation:
    ask = Rewards(as_scorer(reward), [], segment(text, "words"))
    return fit_lime(drawn_table(ask, samples, seed))


def measure_recall(texts: Sequence[str], labels: np.ndarray, test: Sequence[str], explained: int, samples: int) -> Json:
    words, model = sparse_model(texts, labels)
    reward = reward_of(words, model)
    rows: dict[str, list[float]] = {"default": [], "paper": [], "random": []}
    masks, golds = [], []
    long = [text for text in test if len(text.split()) >= LEAST_WORDS]
    with_gold = [(text, gold) for text in long if (gold := gold_units(segment(text, "words"), words, model.coef_[0]))]
    for seed, (text, gold) in enumerate(progress(with_gold[:explained], "recall")):
        lime = by_default(reward, text, seed)
        rows["default"].append(recall(lime.weights, gold))
        rows["paper"].append(recall(as_in_the_paper(reward, text, seed, samples).weights, gold))
        rows["random"].append(recall_at_random(len(lime.weights), gold))
        masks.append(lime.draws)
        golds.append(len(gold))
    return {
        "sentences": len(golds),
        "model_words": int((model.coef_[0] != 0).sum()),
        "gold_words": float(np.mean(golds)),
        "default_masks": float(np.mean(masks)),
        "paper_masks": samples,
        "recall": {name: bootstrap(values) for name, values in rows.items()},
    }


# -- anchors ----------------------------------------------------------------------------------------------


def fresh_precision(reward: Reward, units: Units, decision: Decision, kept: Sequence[int], seed: int, n: int) -> float:
    """Of n texts that keep these units, and each other one with probability 1/2, the share that decides as the whole
    text does."""
    masks = np.random.default_rng([seed, n]).random((n, len(units))) < 0.5
    masks[:, list(kept)] = True
    render = renderer("remove", units)
    whole, *others = decision.of(np.asarray(reward(None, [units.text, *(render(mask.tolist()) for mask in masks)])))
    return float(np.mean(np.array(others) == whole))


def covered(units: Units, anchor: Anchor, tokens: Sequence[set[str]]) -> np.ndarray:
    """bool per text of which the tokens are given: whether it has all words of the anchor."""
    wanted = {units[i].strip() for i in anchor.units}
    return np.array([wanted <= own for own in tokens])


def measure_anchors(
    texts: Sequence[str], labels: np.ndarray, test: Sequence[str], test_labels: np.ndarray, anchored: int, n: int
) -> Json:
    words, model = black_box(texts, labels)
    reward = reward_of(words, model)
    decided = Decision(0.5).of(np.asarray(reward(None, list(test))))
    tokens = [set(text.split()) for text in test]
    precisions, coverages, rules, sizes, missing = [], [], [], [], 0
    for seed, text in enumerate(progress(test[:anchored], "anchors")):
        found = anchors_of(reward, text, seed)
        if not found.anchors:
            missing += 1
            continue
        best = found.anchors[0]
        applies = covered(found.units, best, tokens)
        precisions.append(fresh_precision(reward, found.units, found.decision, best.units, seed, n))
        coverages.append(float(applies.mean()))
        rules.append(float((decided[applies] == found.holds).mean()))
        sizes.append(len(best.units))
    return {
        "sentences": len(precisions) + missing,
        "without_anchor": missing,
        "black_box_accuracy": float(np.mean(decided == test_labels)),
        "precision": bootstrap(precisions),
        "least_precision": float(np.min(precisions)),
        "at_least_0.95": float(np.mean(np.array(precisions) >= 0.95)),
        "coverage": bootstrap(coverages),
        "precision_on_covered_sentences": bootstrap(rules),
        "units": float(np.mean(sizes)),
        "empty": int(np.sum(np.array(sizes) == 0)),
        "coverage_unless_empty": float(np.mean([c for c, size in zip(coverages, sizes, strict=True) if size] or [0.0])),
    }


def anchors_of(reward: Reward, text: str, seed: int) -> AnchorExplanation:
    found = explain(reward, "", text, units="words", method="anchor", tau=0.5, seed=seed)
    assert isinstance(found, TextExplanation) and found.anchor is not None
    return found.anchor


# -- both -------------------------------------------------------------------------------------------------


def progress(items: Sequence[Any], what: str) -> Iterator[Any]:
    """The items, with a line on stderr every ten seconds."""
    began = last = time.monotonic()
    for done, item in enumerate(items):
        if time.monotonic() - last >= 10:
            last = time.monotonic()
            print(f"{what}: {done}/{len(items)}, {done / (last - began):.1f}/s", file=sys.stderr, flush=True)
        yield item


def measure(
    path: Path, explained: int = EXPLAINED, samples: int = PAPER_SAMPLES, anchored: int = ANCHORED, n: int = PERTURBED
) -> Json:
    texts, labels = sentences(path)
    train, test = slice(TEST, None), slice(0, TEST)
    return {
        "schema_version": 1,
        "lime": measure_recall(texts[train], labels[train], texts[test], explained, samples),
        "anchors": measure_anchors(texts[train], labels[train], texts[test], labels[test], anchored, n),
    }


def interval(value: Json) -> str:
    return f"{value['value']:.3f} ({value['low']:.3f} to {value['high']:.3f})"


def lines(found: Json) -> Iterable[str]:
    lime, anchors = found["lime"], found["anchors"]
    yield (
        f"rt-polarity, {lime['sentences']} sentences of {LEAST_WORDS} words or more, a sparse model of "
        f"{lime['model_words']} words, {lime['gold_words']:.1f} of them in a sentence: recall at {SHOWN}"
    )
    yield f"  Junto, as it comes ({lime['default_masks']:.0f} masks): {interval(lime['recall']['default'])}"
    yield f"  Junto, {lime['paper_masks']} masks: {interval(lime['recall']['paper'])}"
    yield f"  at random: {interval(lime['recall']['random'])}"
    yield (
        f"anchors of {anchors['sentences']} sentences, a network of accuracy {anchors['black_box_accuracy']:.3f}; "
        f"none found for {anchors['without_anchor']}, empty for {anchors['empty']}, {anchors['units']:.1f} words"
    )
    share = anchors["at_least_0.95"]
    yield (
        f"  precision on fresh perturbations: {interval(anchors['precision'])}, 0.95 or more for {100 * share:.0f} %, "
        f"{anchors['least_precision']:.3f} at least"
    )
    unless = anchors["coverage_unless_empty"]
    yield f"  coverage of the test sentences: {interval(anchors['coverage'])}, {unless:.3f} of those that are not empty"
    yield f"  precision on those that are covered: {interval(anchors['precision_on_covered_sentences'])}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.explain_recall", description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout in place of the lines")
    given = parser.parse_args(arguments)
    if not (DATA / TEXTS).is_file():
        print(f"rt-polarity: skipped, there is no {DATA / TEXTS}; set JUNTO_DATA")
        return
    found = measure(DATA / TEXTS)
    print(json.dumps(found, indent=1) if given.json else "\n".join(lines(found)))


if __name__ == "__main__":
    main()
