"""The calculator and the checker of steps."""

from __future__ import annotations

import operator
import random
import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.tools import LONGEST, Calculator, CheckArithmetic, calculate, check_step
from graphs.tasks import arithmetic, chains

OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
NUMBERS = st.integers(0, 99).map(lambda n: (str(n), Fraction(n))) | st.decimals(0, 9, places=2, allow_nan=False).map(
    lambda d: (str(d), Fraction(d))
)


def grown(inner: st.SearchStrategy) -> st.SearchStrategy:
    signed = inner.map(lambda e: (f"-({e[0]})", -e[1]))
    pairs = st.tuples(inner, st.sampled_from("+-*/"), inner).filter(lambda e: e[1] != "/" or e[2][1] != 0)
    return signed | pairs.map(lambda e: (f"({e[0][0]}) {e[1]} ({e[2][0]})", OPERATORS[e[1]](e[0][1], e[2][1])))


@given(st.recursive(NUMBERS, grown, max_leaves=8).filter(lambda e: len(e[0]) <= LONGEST))
def test_values_are_exact(case: tuple[str, Fraction]) -> None:
    expression, value = case
    assert Fraction(calculate(expression)) == value


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("8 - 2 * 3", "2"),
        ("1/3 + 1/3", "2/3"),
        ("0.1 + 0.2", "0.3"),
        ("-0.5 * 0.5", "-0.25"),
        ("0.5 / 3", "1/6"),
        ("3 × 4 ÷ 2 − 1", "5"),
    ],
)
def test_how_results_are_written(expression: str, text: str) -> None:
    assert calculate(expression) == text


@given(
    st.text(max_size=250)
    | st.text("0123456789+-*/(). e_", max_size=250)
    | st.sampled_from("([-+").map(lambda c: c * 200)
)
def test_any_text_ends_in_a_value_or_a_sentence(text: str) -> None:
    for tool in (calculate, check_step):
        try:
            assert len(tool(text)) < 3000
        except ValueError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize(
    "text",
    ["9**9**9", "2 // 3", "7 % 2", "__import__('os')", "f(2)", "1e9", "1_0", "3 if 1 else 2", "", "(1", "2 3", "1/0"],
)
def test_what_is_no_arithmetic(text: str) -> None:
    with pytest.raises(ValueError, match="no arithmetic|division by zero|without units"):
        calculate(text)


@pytest.mark.parametrize(
    ("step", "found"),
    [
        ("3 * 4 = 12 apples", "right"),
        ("3 * 4 = 13 apples", "wrong: 3 * 4 is 12, not 13"),
        ("8 / 3 = 8/3 (left: 8/3 3)", "right"),
        ("10 - 4 = 6 (left: 5 5 7)", "wrong: 6 is not among the numbers left"),
        ("1 apple + 2 apples = 3 apples", "right"),
        ("5 apples + 3 pears = 8 apples", "wrong: apple and pear do not add up"),
        ("5 apples - 3 apples = 2 pears", "wrong: the left side is in apple, the right side in pear"),
        ("3 boxes * 4 apples = 12 apples", "right"),
        ("3 boxes * 4 apples = 12 pears", "wrong: the left side is in apple or box, the right side in pear"),
        ("3 apples * 4 apples = 12 apples", "wrong: apple times apple is not apple"),
        ("12 apples / 4 bags = 3 apples", "right"),
        ("12 apples / 3 apples = 4", "right"),
        ("12 apples / 3 apples = 4 apples", "wrong: the left side is in plain numbers, the right side in apple"),
        ("9 red berries + 1 red berry = 10 red berries", "right"),
    ],
)  # fmt: skip
def test_steps(step: str, found: str) -> None:
    assert check_step(step) == found


@given(st.integers(0, 2**32))
def test_the_steps_of_tasks_are_right_and_their_slips_are_found(seed: int) -> None:

    rng = random.Random(seed)
    question = chains.draw(rng, chains.Options())
    for a, op, b, value, unit in chains.steps(question):
        assert check_step(f"{a} {op} {b} = {value} {unit}") == "right"
        assert check_step(f"{a} {op} {b} = {value + 1} {unit}").startswith("wrong")
    state = arithmetic.start(" ".join(str(rng.randint(1, 13)) for _ in range(4)))
    text, _ = rng.choice(arithmetic.moves(state))
    assert check_step(text) == "right"
    assert check_step(re.sub(r"= (\S+)", "= 99991", text, count=1)).startswith("wrong")


def test_no_step() -> None:
    for text in ("3 * 4", "1 = 1 = 1", "x = 3", "1 + 1 = 2 (left: two)"):
        with pytest.raises(ValueError):
            check_step(text)


def test_they_are_tools_of_smolagents() -> None:
    assert Calculator()("2 * 3", sanitize_inputs_outputs=True) == "6"
    assert CheckArithmetic()(step="2 * 3 = 6") == "right"
