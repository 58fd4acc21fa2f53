"""The tests of an audit against numbers worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from explain.audit_stats import critical, effect, holm, independent_columns, mean_effect, regress


def test_holm_by_hand() -> None:
    # sorted .005 .01 .03 .04, times 4 3 2 1, and never falling: .02 .03 .06 .06
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.6]) == [1.0, 1.0] and holm([]) == []


def test_a_mean_by_hand() -> None:
    values = [1.0, 3.0] * 10  # mean 2, variance 20 / 19
    found = mean_effect(values)
    assert found is not None and found.n == 20
    assert (found.value, found.se) == pytest.approx((2.0, math.sqrt(1 / 19)))
    assert found.high - found.value == pytest.approx(2.093024 * found.se)  # t with 19 degrees, from the table
    assert mean_effect(values[:19]) is None


def test_what_has_no_spread_is_no_more_certain_than_its_signs() -> None:
    always, never = mean_effect([0.1] * 20), mean_effect([0.0] * 20)
    assert always is not None and never is not None
    assert (always.se, always.p) == (0.0, 2.0**-19) and (never.value, never.p) == (0.0, 1.0)


def test_regression_on_a_constant_is_the_mean_with_hc3_errors_by_hand() -> None:
    y = np.arange(25.0)
    [found] = regress(np.ones((25, 1)), y) or []
    assert found.value == pytest.approx(12.0)
    # leverage 1/25; HC3: sum of (residual / (1 - 1/25))^2, over 25^2
    assert found.se == pytest.approx(math.sqrt(((y - 12) ** 2).sum()) / (24 / 25) / 25)


def test_regression_does_not_depend_on_which_answer_stands_first() -> None:
    rng = np.random.default_rng(0)
    x, y, flip = rng.normal(size=(60, 3)), rng.normal(size=60), rng.choice([-1.0, 1.0], 60)
    one, other = regress(x, y), regress(x * flip[:, None], y * flip)
    assert one is not None and other is not None
    for a, b in zip(one, other, strict=True):
        assert (a.value, a.se, a.p) == pytest.approx((b.value, b.se, b.p))


def test_robust_errors_are_right_where_the_usual_ones_are_not() -> None:
    """Noise that grows with x: over 400 data sets the interval covers the truth about 95 times of 100."""
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(400):
        x = rng.normal(size=(80, 1))
        [found] = regress(x, x[:, 0] + rng.normal(size=80) * x[:, 0] ** 2) or []
        covered += found.low <= 1.0 <= found.high
    assert 0.92 <= covered / 400 <= 0.99


def test_an_exact_fit_has_no_error_and_too_few_rows_no_fit() -> None:
    x = np.random.default_rng(2).normal(size=(40, 2))
    first, second = regress(x, 3 * x[:, 0]) or []
    assert (first.value, first.se) == (pytest.approx(3.0), 0.0) and (second.value, second.p) == (0.0, 1.0)
    assert regress(x[:21], x[:21, 0]) is None and regress(x[:, :0], x[:, 0]) is None


def test_columns_that_cannot_be_told_apart_are_left_out() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(2, 50))
    rare = np.zeros(50)
    rare[:19] = 1.0
    x = np.column_stack([a, np.zeros(50), 2 * a, rare, b, a + b])
    assert independent_columns(x, x != 0) == [0, 4]


def test_the_bound_of_bonferroni() -> None:
    assert critical(0.05, 1, 10**6) == pytest.approx(1.96, abs=1e-3)
    assert critical(0.05, 10, 10**6) == pytest.approx(2.807, abs=1e-3)  # the normal's 0.9975 quantile
    assert effect(0.0, 1.0, 50, 51).p == pytest.approx(1.0)
