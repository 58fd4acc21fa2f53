"""Whether leaving helps, on lines made here: a perfect, a blind and a misleading critic."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.leaving import Sampled, Step, at_tokens, calibrate, gains, replay


def sampled(solved: bool, values: list[float], tokens: int = 10) -> Sampled:
    steps = tuple(Step(tokens, value, not solved) for value in values)
    return Sampled(steps, "right" if solved else "wrong", float(solved), solved)


def questions(count: int, critic: str, seed: int = 0, lines: int = 24) -> list[list[Sampled]]:
    rng = random.Random(seed)

    def one() -> Sampled:
        solved = rng.random() < 0.15
        truth = 1.0 if solved else -1.0
        value = {"perfect": truth, "blind": rng.gauss(0, 1), "wrong": -truth}[critic]
        return sampled(solved, [value, value, value])

    return [[one() for _ in range(lines)] for _ in range(count)]


def test_replay_by_hand() -> None:
    lines = [sampled(False, [-1, -1, -1]), sampled(True, [1, 1, 1]), sampled(False, [1, -1, -1])]
    assert replay(lines, None, "majority") == (False, 90)  # two votes to one
    assert replay(lines, 0.0, "majority") == (True, 60)  # 10 of the first, 30, 20 of the third, which leaves
    assert replay(lines[:1], 0.0, "majority") == (False, 10)  # everyone left
    # the last step of a line is its answer: nobody leaves after it
    assert replay([sampled(True, [1, 1, -9])], 0.0, "majority") == (True, 30)


def test_fewer_lines_for_the_same_tokens_by_hand() -> None:
    lines = [sampled(True, [1, 1, 1]), sampled(False, [1, 1, 1]), sampled(False, [1, 1, 1])]
    # one line and two (the first of equals wins) solve it, three do not; between them the mean
    wanted = {0: 0.0, 15: 0.5, 30: 1.0, 45: 1.0, 60: 1.0, 75: 0.5, 90: 0.0, 200: 0.0}
    for tokens, right in wanted.items():
        assert at_tokens(lines, tokens, "majority") == pytest.approx(right), tokens


def test_what_leaving_spares_does_not_come_back() -> None:
    """Leaving that saves half of the tokens and loses lines is measured against a council of half the size."""
    found = gains(questions(200, "blind", lines=12), 3, 0.0, "best", 0)
    assert sum(found["with"]) < sum(found["without"]) and sum(found["tokens"]) < 0.8 * sum(found["everyone"])


def test_a_perfect_critic_is_let_and_others_are_not() -> None:
    good = calibrate(questions(60, "perfect"), experts=3, how="best")
    assert good["threshold"] is not None and -1 < good["threshold"] <= 1
    assert good["difference"]["low"] > 0.05 and good["precision"] == good["recall"] == good["auc"] == 1
    assert 0.75 < good["base_rate"] < 0.95
    for critic in ("wrong", "blind"):
        bad = calibrate(questions(60, critic), experts=3, how="best")
        assert bad["threshold"] is None and "at equal tokens" in bad["reason"], critic
    assert calibrate(questions(60, "wrong"), experts=3)["auc"] == 0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(-2, 2))
def test_a_threshold_below_every_value_changes_nothing(seed: int, low: float) -> None:
    asked = questions(3, "blind", seed, lines=8)
    values = [step.value for lines in asked for one in lines for step in one.steps]
    found = gains(asked, 3, min([*values, low]), "majority", seed)
    assert found["with"] == pytest.approx(found["without"]) and found["tokens"] == found["everyone"]
    for lines in asked:  # and leaving never spends more
        assert replay(lines, low, "majority")[1] <= replay(lines, None, "majority")[1]


def test_few_questions_are_refused() -> None:
    with pytest.raises(ValueError, match="16 at least"):
        calibrate(questions(15, "perfect"), experts=3)
