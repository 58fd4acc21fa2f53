from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from explain.faithful import faithfulness, spearman
from explain.lime import fit_lime
from explain.masks import all_masks, lime_distances, lime_kernel, lime_probabilities
from explain.table import RewardTable
from explain.units import segment


def table_of(rewards: np.ndarray) -> RewardTable:
    d = rewards.size.bit_length() - 1
    return RewardTable([], segment("".join(f"u{unit}\n" for unit in range(d))), rewards, "numbers")


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(-10, 10), min_size=1, max_size=12), st.floats(-10, 10))
def test_a_linear_reward_gives_its_weights_back(weights: list[float], bias: float) -> None:
    table = table_of(bias + all_masks(len(weights)) @ np.array(weights))
    lime = fit_lime(table)
    assert np.allclose(lime.weights, weights, rtol=0, atol=1e-10)
    assert lime.intercept == pytest.approx(bias, abs=1e-9)
    assert lime.reward == pytest.approx(bias + sum(weights), abs=1e-9)
    assert lime.baseline == pytest.approx(bias, abs=1e-9)


def test_a_constant_reward_gives_nothing() -> None:
    lime = fit_lime(table_of(np.full(8, 2.5)))
    assert np.allclose(lime.weights, 0, atol=1e-12)
    assert lime.r2 is None and lime.prediction == pytest.approx(2.5)


def test_kernel_and_probabilities_by_hand() -> None:
    masks = np.array([[1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]], dtype=bool)
    assert lime_distances(masks).tolist() == [0.0, 50.0, 100.0]  # 100 (1 - sqrt(kept share))
    assert np.allclose(lime_kernel(lime_distances(masks)), np.exp([0.0, -2.0, -8.0]))
    # One removed unit of four: probability 1/4 for the size, 1/4 for the unit.
    assert lime_probabilities(masks, num_samples=2).tolist() == [1 / 2, 1 / 32, 1 / 8]
    for d in range(1, 13):
        assert lime_probabilities(all_masks(d)).sum() == pytest.approx(1.0, abs=1e-12)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_exact_fit_is_what_lime_text_samples_towards() -> None:
    from lime.lime_text import LimeTextExplainer
    from sklearn.linear_model import LinearRegression

    words, d = list("abcdef"), 6

    def reward(kept: np.ndarray) -> np.ndarray:  # an interaction, a negated pair and a linear term
        return 2.0 * (kept[:, 0] & kept[:, 3]) - 1.0 * (kept[:, 1] | kept[:, 2]) + 0.5 * kept[:, 5]

    def predict(texts: list[str]) -> np.ndarray:
        return reward(np.array([[word in text.split() for word in words] for text in texts]))[:, None]

    runs = []
    for seed in range(6):
        explainer = LimeTextExplainer(bow=False, random_state=seed, class_names=["reward"], feature_selection="none")
        found = explainer.explain_instance(
            " ".join(words), predict, labels=(0,), num_features=d, model_regressor=LinearRegression()
        )
        weights = dict(found.local_exp[0])
        runs.append([weights[unit] for unit in range(d)])
    mean, error = np.mean(runs, axis=0), np.std(runs, axis=0, ddof=1) / np.sqrt(len(runs))
    exact = np.array(fit_lime(table_of(reward(all_masks(d)))).weights)
    assert error.max() < 0.02  # sharp enough to see a wrong weight
    assert (np.abs(exact - mean) < 5 * error + 1e-3).all()


def test_sides_are_independent_in_the_fit() -> None:
    """Unit 0 of a function of unit 1 alone gets no weight: masks of equal size are exchangeable."""
    lime = fit_lime(table_of((all_masks(4)[:, 1] * 3.0) ** 2))
    assert np.allclose(lime.weights, [0, 9, 0, 0], atol=1e-9)


def test_faithfulness_of_a_linear_reward_by_hand() -> None:
    table = table_of(1.0 + all_masks(4) @ np.array([3.0, -2.0, 1.0, 0.5]))
    measured = faithfulness(table, [3.0, -2.0, 1.0, 0.5])
    assert measured.counts == (1, 2)
    assert measured.comprehensiveness == pytest.approx((3.0 + 4.0) / 2)  # r(x) - r(without the best 1 or 2)
    assert measured.sufficiency == pytest.approx(((2.5 - 3.0) + (2.5 - 4.0)) / 2)  # r(x) - r(only these)
    assert measured.loo_spearman == pytest.approx(1.0)


@pytest.mark.parametrize("constant", [table_of(np.full(8, 1.0)), table_of(np.array([2.0, 1.0]))])
def test_no_rank_correlation_without_variation(constant: RewardTable) -> None:
    assert faithfulness(constant, fit_lime(constant).weights).loo_spearman is None


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=2, max_size=12))
def test_spearman_agrees_with_scipy_also_with_ties(pairs: list[tuple[int, int]]) -> None:
    from scipy.stats import spearmanr

    a, b = np.array(pairs, dtype=float).T
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        assert spearman(a, b) is None
    else:
        assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic, abs=1e-9)
