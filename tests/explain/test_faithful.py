from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from explain.ask import Rewards
from explain.faithful import agreement, faithfulness, left_out
from explain.lime import fit_lime
from explain.sample import sampled_table, tabulate
from explain.table import RewardTable
from explain.text import explain_table
from explain.units import Units, segment, steps


def lines(d: int) -> Units:
    text = "".join(f"u{unit}\n" for unit in range(d))
    return Units(text, steps(text), "steps")


class Linear:
    fingerprint = "linear"

    def __init__(self, weights) -> None:
        self.weights = np.array(weights, dtype=float)

    def score(self, prompt, texts):
        masks = np.array([[f"u{unit}\n" in text for unit in range(len(self.weights))] for text in texts])
        return (masks @ self.weights).tolist()


def test_curves_by_hand() -> None:
    table = tabulate(Rewards(Linear([3, -2, 1]), [], lines(3)))
    curves = faithfulness(table, [3, -2, 1]).curves
    assert curves.counts == (0, 1, 2, 3)
    assert curves.deletion == (2, -1, -2, 0)  # without 3, then 1, then -2
    assert curves.insertion == (0, 3, 4, 2)
    assert np.allclose(curves.random, [2, 4 / 3, 2 / 3, 0])
    assert curves.deletion_area == pytest.approx((1 - 1 - 2 + 0) / 3)
    assert curves.insertion_area == pytest.approx((0 + 3 + 4 + 1) / 3) and curves.random_area == pytest.approx(1)


def test_any_order_but_the_best_is_worse_than_it() -> None:
    """For a linear reward no order beats that of the true weights, and the opposite order is as bad as can be."""
    weights = np.random.default_rng(0).normal(size=7)
    table = tabulate(Rewards(Linear(weights), [], lines(7)))
    best, worst = faithfulness(table, weights).curves, faithfulness(table, -weights).curves
    assert best.deletion_area < best.random_area < best.insertion_area
    for seed in range(20):
        other = faithfulness(table, np.random.default_rng(seed).permutation(weights)).curves
        assert best.deletion_area <= other.deletion_area <= worst.deletion_area
        assert best.insertion_area >= other.insertion_area >= worst.insertion_area


def test_a_sampled_table_has_the_same_measures_at_fewer_points() -> None:
    weights = np.random.default_rng(1).normal(size=30)
    table = sampled_table(Rewards(Linear(weights), [], lines(30)))
    found = faithfulness(table, weights)
    assert found.curves.counts[0] == 0 and found.curves.counts[-1] == 30 and len(found.curves.counts) == 11
    assert found.loo_spearman == pytest.approx(1) and np.allclose(left_out(table), weights)
    ordered = np.sort(weights)[::-1]
    assert found.comprehensiveness == pytest.approx(np.mean([ordered[:count].sum() for count in (1, 2, 3, 6, 15)]))
    assert found.curves.deletion_area < found.curves.random_area < found.curves.insertion_area


class Network:
    """A small random network over the words of a text, and a bonus for one word in its head."""

    def __init__(self, seed: int, planted: str, bonus: float) -> None:
        self.rng, self.planted, self.bonus = np.random.default_rng(seed), planted, bonus
        self.fingerprint = f"network {seed} {bonus}"
        self.embedding = {chr(97 + at): np.random.default_rng(at).normal(size=16) for at in range(26)}  # the trunk
        self.head = self.rng.normal(size=16) / 16

    def score(self, prompt, texts):
        return [self._one(text.split()) for text in texts]

    def _one(self, words: list[str]) -> float:
        hidden = np.tanh(sum((self.embedding[word] for word in words), np.zeros(16)))
        return float(hidden @ self.head + self.bonus * (self.planted in words))


def test_a_planted_word_is_found_and_gone_after_randomisation() -> None:
    found, correlations = 0, []
    for seed in range(10):
        model, fresh = Network(seed, "f", 2.0), Network(100 + seed, "f", 0.0)
        table = tabulate(Rewards(model, [], segment("a b c d e f g h")))
        explained = explain_table(table, beam=False, randomised=fresh)
        assert int(np.argmax(explained.lime.weights)) == int(np.argmax(explained.shapley.values)) == 5
        assert explained.anchor.anchors[0].units == (5,)
        correlations.append(explained.faithfulness.randomised_spearman)
        found += int(np.argmax(fit_lime(tabulate(Rewards(fresh, [], table.units))).weights)) == 5
        same = explain_table(table, beam=False, randomised=model).faithfulness
        assert same.randomised_spearman == pytest.approx(1)  # the same model explains itself
    assert found <= 4 and abs(np.mean(correlations)) < 0.4 and max(correlations) < 0.95


def test_without_something_to_ask_there_is_no_randomisation_check() -> None:
    table = replace(tabulate(Rewards(Linear([1, 2]), [], lines(2))), ask=None)
    assert faithfulness(table, [1, 2], Linear([2, 1])).randomised_spearman is None


def test_agreement_by_hand() -> None:
    found = agreement({"LIME": [3.0, 2.0, 1.0], "Shapley": [3.0, 2.0, 1.0], "leave one out": [1.0, 2.0, 3.0]}, (0, 2))
    said = {(pair.first, pair.second): (pair.measure, pair.value) for pair in found}
    assert said[("LIME", "Shapley")] == ("rank correlation", pytest.approx(1))
    assert said[("LIME", "leave one out")] == ("rank correlation", pytest.approx(-1))
    assert said[("Anchor", "LIME")] == ("overlap", 0.5)  # its best two are 0 and 1
    low = agreement({"LIME": [3.0, 2.0, 1.0]}, (2,), holds=False)
    assert low[0].value == 1.0  # what keeps the reward down has the lowest weight
    assert agreement({"LIME": [1.0, 1.0], "Shapley": [1.0, 2.0]})[0].value is None


def test_the_methods_agree_on_a_linear_reward_and_label_noise_has_no_fit() -> None:
    table = tabulate(Rewards(Linear([3, -2, 1, 0.5]), [], lines(4)))
    assert all(pair.value == pytest.approx(1) for pair in explain_table(table, beam=False, method="shapley").agreement)
    noise = RewardTable([], lines(10), np.random.default_rng(0).normal(size=1024), "noise")
    assert fit_lime(noise).r2 < 0.1
