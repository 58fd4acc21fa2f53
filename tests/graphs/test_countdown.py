"""Countdown: the rules, the solver against an independent one, the split, the rows."""

from __future__ import annotations

import json
import re
from fractions import Fraction
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignment.errors import UsageError
from graphs.cli.main import main
from graphs.tasks import countdown

OPTIONS = countdown.Options(lines=100, pairs=100, prompts=40, max_count=4, held_out=["61 from 25 3 7 5"])
Q = "60 from 2 5 10"


def ends(numbers: list[int]) -> set[int]:
    """An independent solver without steps: every value that uses all the numbers, by halves of the multiset."""
    if len(numbers) == 1:
        return set(numbers)
    found: set[int] = set()
    for mask in range(1, 2 ** len(numbers) - 1):
        one = [n for i, n in enumerate(numbers) if mask >> i & 1]
        other = [n for i, n in enumerate(numbers) if not mask >> i & 1]
        for a in ends(one):
            for b in ends(other):
                found |= {a + b, a * b}
                found |= {a - b} if a > b else set()
                found |= {a // b} if a % b == 0 else set()
    return found


def standing(question: str, lines: list[str]) -> int:
    """2: the target can be reached, or leaving is right; 1: a legal dead end; 0: not legal, or leaving is wrong."""
    leaves = lines[-1].startswith("LEAVE: ")
    state = countdown.follow(question, lines[:-1] if leaves else lines)
    if state is None:
        return 0
    lives = int(question.split()[0]) in ends([int(n) for n in state])
    return (0 if lives else 2) if leaves else (2 if lives else 1)


@pytest.mark.parametrize(
    ("response", "right"),
    [
        ("2 + 10 = 12 (left: 5 12)\n5 * 12 = 60 (left: 60)", True),
        ("10 + 2 = 12 (left: 12 5)\n12 * 5 = 60 (left: 60)\n", True),
        ("2 + 10 = 12 (left: 5 12)", False),  # not at the end
        ("2 + 10 = 13 (left: 5 13)\n5 * 13 = 60 (left: 60)", False),  # a wrong sum
        ("5 * 12 = 60 (left: 60)", False),  # a number that is not there
        ("2 * 5 = 10 (left: 10)\n10 * 6 = 60 (left: 60)", False),  # a number lost
        ("5 / 2 = 5/2 (left: 10 5/2)\n10 * 5/2 = 25 (left: 25)", False),  # not whole
        ("2 - 5 = -3 (left: 10 -3)", False),
        ("10 / 0 = 60 (left: 60)", False),
        ("LEAVE: 3 4 cannot make 60", False),
        ("", False),
    ],
)
def test_checker(response: str, right: bool) -> None:
    assert countdown.check(Q, response) is right


def test_every_number_is_used_exactly_once() -> None:
    assert countdown.solvable("7 from 1 1 7") and countdown.solvable("60 from 2 5 10")
    assert not countdown.solvable("7 from 3 5 7")  # 7 alone would do on television
    assert countdown.check("7 from 1 2 7", "1 * 7 = 7 (left: 2 7)") is False
    assert countdown.check("7 from 1 2 7", "1 * 7 = 7 (left: 7)") is False


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=3, max_size=4), st.integers(1, 60), st.randoms(use_true_random=False))
def test_solver_and_steps_agree_with_brute_force(numbers: list[int], target: int, rng: Random) -> None:
    question = countdown.validate_question(f"{target} from {' '.join(map(str, numbers))}")
    assert countdown.solvable(question) == (target in ends(numbers))
    state = tuple(map(Fraction, sorted(numbers)))
    lines: list[str] = []
    while len(state) > 1:
        text, state = rng.choice(countdown.arithmetic.moves(state, whole=True))
        assert re.fullmatch(countdown.STEP, text) and min(state) > 0
        lines.append(text)
        followed = countdown.follow(question, lines)
        assert followed is not None and sorted(followed) == sorted(state)
    assert int(state[0]) in ends(numbers)
    assert countdown.check(question, "\n".join(lines)) == (state[0] == target)


@pytest.mark.parametrize("question", ["75 from 3 5 7 9 11", "997 from 1 1 2 2 3", "100 from 1 4 5 6 25"])
def test_five_numbers(question: str) -> None:
    target, numbers = question.split(" from ")
    assert countdown.solvable(question) == (int(target) in ends([int(n) for n in numbers.split()]))


def test_rows_do_what_they_say() -> None:
    data = countdown.load(OPTIONS, seed=0)
    assert data == countdown.load(OPTIONS, seed=0) and data != countdown.load(OPTIONS, seed=1)
    leaving = boards = 0
    for row in data.sft["train"] + data.sft["validation"]:
        question, *board = row["prompt"][1]["content"].split("\n")
        boards += bool(board)
        assert all(re.fullmatch(countdown.STEP, line) for line in board[1:])
        steps = row.get("prefix", row["completion"]).splitlines()
        assert all(re.fullmatch(countdown.STEP, line) for line in steps)
        if "prefix" in row:
            leaving += 1
            assert standing(question, [*steps, row["completion"]]) == 2
        else:
            assert countdown.check(question, row["completion"])
    assert leaving and boards
    for row in data.pairs["train"] + data.pairs["validation"]:
        question = row["prompt"][1]["content"]
        good, bad = row["chosen"].splitlines(), row["rejected"].splitlines()
        assert good[:-1] == bad[:-1]
        assert standing(question, good) == 2 > standing(question, bad)


def test_splits_do_not_meet_in_any_order_or_target() -> None:
    data = countdown.load(OPTIONS, seed=0)
    numbers = {}
    for name in ("train", "validation"):
        asked = [row["prompt"][1]["content"].split("\n")[0] for rows in (data.sft, data.pairs) for row in rows[name]]
        asked += [row["id"] for row in data.prompts[name]]
        assert all(question == countdown.validate_question(question) for question in asked)
        assert all(countdown.solvable(question) and not question.startswith("24 ") for question in asked)
        numbers[name] = {question.split(" from ")[1] for question in asked}
    assert not numbers["train"] & numbers["validation"]
    assert data.prompts["validation"][0]["question"] == "61 from 3 5 7 25"


def test_a_test_split_takes_its_questions_from_train_alone() -> None:
    before = countdown.load(OPTIONS, seed=0)
    data = countdown.load(OPTIONS.model_copy(update={"test": 0.3}), seed=0)
    assert before.prompts.keys() == {"train", "validation"}
    assert (data.sft["validation"], data.pairs["validation"]) == (before.sft["validation"], before.pairs["validation"])
    assert data.prompts["validation"] == before.prompts["validation"]
    test = {row["id"].split(" from ")[1] for row in data.prompts["test"]}
    rows = [*data.sft["train"], *data.pairs["train"], *data.sft["validation"], *data.pairs["validation"]]
    asked = [row["prompt"][1]["content"].split("\n")[0] for row in rows]
    asked += [row["id"] for name in ("train", "validation") for row in data.prompts[name]]
    assert len(test) > 10 and not test & {question.split(" from ")[1] for question in asked}


@pytest.mark.parametrize(
    "question", ["", " ", "61", "61 from 1 2", "61 from 1 2 3 4 5 6", "0 from 1 2 3", "9 from 0 2 3", "9 from 1 2 101"]
)
def test_bad_questions(question: str) -> None:
    with pytest.raises(UsageError, match="61 from 3 5 7 25"):
        countdown.validate_question(question)


def test_options_that_leave_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="min_count is above max_count"):
        countdown.Options(min_count=5, max_count=3)
    with pytest.raises(ValueError, match="the only target is 24"):
        countdown.Options(min_target=24, max_target=24)
    with pytest.raises(UsageError, match="hardly ever"):
        countdown.load(countdown.Options(min_number=1, max_number=2, max_count=3, min_target=900, max_target=999), 0)
    with pytest.raises(UsageError, match="no solution"):
        countdown.load(countdown.Options(held_out=["999 from 1 1 1"]), 0)


def test_a_recipe_names_the_task(capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("JUNTO_RUNS", str(tmp_path / "runs"))
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("name: x\ntask: graphs.tasks.countdown\ndata: {lines: 8, pairs: 8, prompts: 4}\n")
    assert main(["run", "align", str(recipe), "--dry-run", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["recipe"]["data"]["max_count"] == 4
    assert main(["run", "align", str(recipe), "--set", "data.min_count=5", "--dry-run"]) == 2
    assert "min_count is above max_count" in capsys.readouterr().err
