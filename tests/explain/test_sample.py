from __future__ import annotations

import json

import numpy as np
import pytest

from explain.ask import Rewards
from explain.lime import fit_lime
from explain.masks import all_masks, draw_masks, lime_distances, lime_kernel, lime_probabilities
from explain.regress import wls
from explain.sample import default_budget, sampled_table
from explain.table import RewardTable, exact_table
from explain.units import Units, steps


def lines(d: int) -> Units:
    text = "".join(f"u{unit}\n" for unit in range(d))
    return Units(text, steps(text), "steps")


class MaskScorer:
    """A reward of bool[n, d]; remembers the sizes of its batches, and fails beyond `limit` as if out of memory."""

    fingerprint = "masks"

    def __init__(self, rule, d: int, limit: int = 10**9, error: type[Exception] = MemoryError) -> None:
        self.rule, self.d, self.limit, self.error = rule, d, limit, error
        self.batches: list[int] = []

    def score(self, prompt, texts):
        if len(texts) > self.limit:
            raise self.error("no room")
        self.batches.append(len(texts))
        return self.rule(np.array([[f"u{unit}\n" in text for unit in range(self.d)] for text in texts])).tolist()


def sampled(rule, d: int, seed: int = 0, budget: int | None = None) -> RewardTable:
    return sampled_table(Rewards(MaskScorer(rule, d), [], lines(d)), seed, budget)


def quadratic(d: int, seed: int):
    rng = np.random.default_rng(seed)
    linear, pairs = rng.normal(size=d), np.triu(rng.normal(size=(d, d)), 1) / 2
    return lambda masks: masks @ linear + np.einsum("ni,ij,nj->n", masks * 1.0, pairs, masks * 1.0)


def test_masks_are_drawn_as_lime_draws_them() -> None:
    masks = draw_masks(6, 30_000, np.random.default_rng(0))
    removed = np.bincount((~masks).sum(axis=1), minlength=7)
    assert removed[0] == 0 and np.abs(removed[1:] / 30_000 - 1 / 6).max() < 0.011  # 5 standard deviations
    assert np.abs(masks.mean(axis=0) - 5 / 12).max() < 0.015


def test_a_linear_reward_is_found_by_the_first_sample() -> None:
    weights = np.random.default_rng(1).normal(size=40)
    table = sampled(lambda masks: 0.5 + masks @ weights, 40)
    lime = fit_lime(table)
    assert np.abs(np.array(lime.weights) - weights).max() < 1e-10 and lime.intercept == pytest.approx(0.5, abs=1e-10)
    assert lime.draws == 401 and not lime.exact  # ten per unit, and the text itself
    assert max(lime.standard_errors or [1]) < 1e-10 and lime.held_out_r2 == pytest.approx(1.0)


def test_the_errors_cover_the_exact_weights() -> None:
    """The exact fit of 14 units against samples: in 95 % of cases within 1.96 standard errors."""
    d, rule = 14, quadratic(14, 0)
    exact = np.array(fit_lime(RewardTable([], lines(d), rule(all_masks(d)), "exact")).weights)
    z = []
    for seed in range(12):
        lime = fit_lime(sampled(rule, d, seed, 600))
        z.append((np.array(lime.weights) - exact) / np.array(lime.standard_errors))
    assert 0.88 < np.mean(np.abs(z) < 1.96) < 0.99
    assert 0.8 < np.std(z) < 1.25


def test_the_sample_grows_until_it_is_sharp_or_spent() -> None:
    def noise(masks: np.ndarray) -> np.ndarray:
        codes = masks @ (1 << np.arange(20))
        return np.sin(codes * 12.9898) * 43758.5453 % 1.0  # nothing that a line can follow

    easy, hard = sampled(quadratic(20, 1), 20), sampled(noise, 20)
    assert int(easy.draws.sum()) - 1 in (200, 400, 800) and int(hard.draws.sum()) - 1 == default_budget(20) == 2000
    assert max(fit_lime(easy).standard_errors) <= 0.1 * max(map(abs, fit_lime(easy).weights))
    assert fit_lime(easy).held_out_r2 > 0.5 > 0.2 > fit_lime(hard).held_out_r2


def test_a_seed_gives_one_table_whatever_the_batches_and_json_keeps_it() -> None:
    rule = quadratic(16, 2)
    whole, small = MaskScorer(rule, 16), MaskScorer(rule, 16, limit=7)
    tables = [sampled_table(Rewards(scorer, [], lines(16)), seed=3) for scorer in (whole, small)]
    written = [json.dumps(table.to_json()) for table in tables]
    assert written[0] == written[1] != json.dumps(sampled(rule, 16, seed=4).to_json())
    again = RewardTable.from_json(json.loads(written[0]))
    assert (again.masks == tables[0].masks).all() and (again.draws == tables[0].draws).all()
    assert fit_lime(again) == fit_lime(tables[0])
    assert len(np.unique(again.masks, axis=0)) == len(again.masks)
    assert again.masks[0].all() and again.baseline == 0
    assert again.reward == pytest.approx(rule(np.ones((1, 16)))[0])
    assert again.keeping(np.flatnonzero(again.masks[7]).tolist()) == again.rewards[7]
    with pytest.raises(ValueError, match="lacks a mask"):
        [again.keeping([unit]) for unit in range(16)]
    assert tables[0].keeping([3]) == pytest.approx(rule(np.eye(16)[3:4])[0])  # that one asks


class OutOfMemoryError(RuntimeError):
    """torch's, known by its name."""


@pytest.mark.parametrize("error", [MemoryError, OutOfMemoryError])
def test_batches_shrink_when_memory_runs_out(error: type[Exception]) -> None:
    scorer = MaskScorer(quadratic(6, 0), 6, limit=5, error=error)
    table = exact_table(Rewards(scorer, [], lines(6)))
    assert np.allclose(table.rewards, quadratic(6, 0)(all_masks(6)))
    assert scorer.batches == [4] * 16  # 64, 32, 16, 8 did not fit, and are not tried again
    with pytest.raises(error):
        exact_table(Rewards(MaskScorer(quadratic(6, 0), 6, limit=0, error=error), [], lines(6)))


def test_other_errors_are_not_taken_for_memory() -> None:
    scorer = MaskScorer(quadratic(6, 0), 6, limit=5, error=KeyError)
    with pytest.raises(KeyError):
        exact_table(Rewards(scorer, [], lines(6)))


def test_a_budget_that_determines_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="budget of 20 masks is too small for 15 units; give 150 or more"):
        sampled(quadratic(15, 0), 15, budget=20)


def test_a_constant_reward_gives_nothing_at_once() -> None:
    lime = fit_lime(sampled(lambda masks: np.full(len(masks), 1.5), 30))
    assert np.abs(lime.weights).max() < 1e-9 and lime.draws == 301
    assert lime.r2 is None and lime.held_out_r2 is None


def test_length_alone_is_told_from_what_is_said() -> None:
    text = "one\ntwo words\nthree more words\n"
    units = Units(text, steps(text), "steps")
    share = np.array([1, 2, 3]) / 6
    grows = fit_lime(RewardTable([], units, 2.0 * (all_masks(3) @ share), "x"))
    assert grows.length.slope == pytest.approx(2.0) and grows.length.r2 == pytest.approx(1.0)
    assert np.allclose(grows.length.beyond, 0, atol=1e-12)
    content = fit_lime(RewardTable([], units, 2.0 * (all_masks(3) @ share) + all_masks(3)[:, 0] - 0.5, "x"))
    assert content.length.beyond[0] > 0.5 and content.length.r2 < 0.9


def test_twenty_texts_have_limes_weights_within_its_sampling_error() -> None:
    """LimeTextExplainer's own 5000 draws, against the exact fit, in units of the error that theory gives them."""
    from lime.lime_text import LimeTextExplainer
    from sklearn.linear_model import LinearRegression

    z = []
    for number in range(20):
        d = 3 + number % 8
        words, rule = [f"w{unit}" for unit in range(d)], quadratic(d, number)

        def predict(texts, words=words, rule=rule):
            return rule(np.array([[word in text.split() for word in words] for text in texts]))[:, None]

        explainer = LimeTextExplainer(
            bow=False, random_state=number, class_names=["reward"], feature_selection="none", split_expression=r"\s+"
        )
        found = explainer.explain_instance(
            " ".join(words), predict, labels=(0,), num_features=d, model_regressor=LinearRegression()
        )
        theirs = np.array([weight for _, weight in sorted(found.local_exp[0])])
        masks, rewards = all_masks(d), rule(all_masks(d))
        exact = np.array(fit_lime(RewardTable([], lines(d), rewards, "exact")).weights)
        draws = 5000 * lime_probabilities(masks)
        errors = wls(masks * 1.0, rewards, lime_kernel(lime_distances(masks)), draws).errors
        assert errors.max() < 0.1
        z += ((theirs - exact) / errors).tolist()
    assert np.abs(z).max() < 5 and 0.75 < np.std(z) < 1.25
