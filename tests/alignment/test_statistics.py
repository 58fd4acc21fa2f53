from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignment import statistics


def test_wilson_by_hand() -> None:
    # 8 of 10: centre (0.8 + z^2/20) / (1 + z^2/10), z = 1.959964
    interval = statistics.wilson(8, 10)
    assert (interval["low"], interval["high"]) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert statistics.wilson(0, 20)["low"] == 0 and statistics.wilson(0, 20)["high"] > 0.1


def test_equal_shares_have_an_interval() -> None:
    """Four questions of which each was answered right in one of two samples."""
    found = statistics.share([0.5] * 4)
    assert found == statistics.wilson(2, 4) and found["low"] < 0.2 and found["high"] > 0.8
    assert statistics.share([0.5, 0.5, 0.25])["method"].startswith("expanded percentile")


def test_paired_wilson_on_a_published_table() -> None:
    """Bentur et al. 2009, from Fagerland, Lydersen & Laake, Statistical Analysis of Contingency Tables, chapter 8."""
    first = [True] * 2 + [False] * 19
    second = [True, False] + [True] * 7 + [False] * 12
    interval = statistics.paired_wilson(second, first)
    assert interval["value"] == pytest.approx(-6 / 21)
    assert (interval["low"], interval["high"]) == pytest.approx((-0.507, -0.026), abs=2e-3)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_paired_wilson_is_antisymmetric_and_never_a_point(pairs: list[tuple[bool, bool]]) -> None:
    first, second = [a for a, _ in pairs], [b for _, b in pairs]
    there, back = statistics.paired_wilson(first, second), statistics.paired_wilson(second, first)
    assert (there["low"], there["high"]) == pytest.approx((-back["high"], -back["low"]))
    assert -1 <= there["low"] <= there["value"] <= there["high"] <= 1 and there["high"] - there["low"] > 0.01


def test_auc_by_hand() -> None:
    # pairs: 3>1, 3>2, 2>1 are right, 2=2 counts half: 3.5 of 4
    assert statistics.auc([3, 2], [1, 2]) == pytest.approx(3.5 / 4)
    assert statistics.auc([1.0], [1.0]) == 0.5


@given(st.lists(st.integers(0, 5), min_size=1, max_size=12), st.lists(st.integers(0, 5), min_size=1, max_size=12))
def test_auc_is_the_share_of_pairs(a: list[int], b: list[int]) -> None:
    share = np.mean([1.0 if x > y else 0.5 if x == y else 0.0 for x in a for y in b])
    assert statistics.auc(a, b) == pytest.approx(share)


@pytest.mark.parametrize(("n", "samples", "seed", "least", "most"), [(60, 200, 0, 176, 199), (8, 400, 1, 372, 388)])
def test_bootstrap_covers_the_mean(n: int, samples: int, seed: int, least: int, most: int) -> None:
    """The 95 % interval holds the true mean in about 95 % of samples (of 8, the plain percentile one in 89 %)."""
    rng = np.random.default_rng(seed)
    inside = 0
    for i in range(samples):
        interval = statistics.bootstrap(rng.normal(3.0, 2.0, n), seed=i, resamples=400)
        inside += interval["low"] <= 3.0 <= interval["high"]
    assert least <= inside <= most


def test_the_tails_of_few_rows_are_those_of_student() -> None:
    # t(0.975, 7) = 2.364624; its interval is from the deviation over n - 1, the resampled means' from that over n
    assert statistics.tails(8)[0] == pytest.approx(NormalDist().cdf(-2.364624 * (8 / 7) ** 0.5), rel=1e-5)
    assert statistics.tails(10**6)[0] == pytest.approx(0.025, rel=1e-4)
    assert statistics.tails(1) == pytest.approx([0.025, 0.975])


def test_correlation_of_a_constant_is_undefined() -> None:
    assert statistics.correlation([1, 1, 1], [1, 2, 3]) is None
    assert statistics.correlation([1, 2, 3], [2, 4, 6]) == pytest.approx(1.0)


def test_spearman_by_hand() -> None:
    # ranks 1 2.5 2.5 4 and 1 2 3 4, less their mean 2.5: products 2.25 + 2.25, squares 4.5 and 5
    assert statistics.spearman([1, 5, 5, 9], [-3, 0, 10, 11]) == pytest.approx(4.5 / np.sqrt(4.5 * 5))
    assert statistics.spearman([1, 2, 3], [1, 10, 1e6]) == pytest.approx(1.0)


def test_a_bootstrap_leaves_out_where_the_statistic_is_undefined() -> None:
    x, y = [0.0, 1.0, 2.0], [0.0, 1.0, 0.0]

    def slope(i: np.ndarray) -> float | None:
        return statistics.correlation([x[j] for j in i], [y[j] for j in i])

    interval = statistics.paired_bootstrap(slope, 3)  # of three rows, many resamples are constant
    assert interval is not None and -1 <= interval["low"] <= 0 <= interval["high"] <= 1
    assert statistics.paired_bootstrap(lambda i: None, 3) is None
