"""The Game of 24: the puzzles, the split, the rows, the checker."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignment.errors import UsageError
from graphs.tasks import game24

OPTIONS = game24.Options(lines=300, pairs=200, prompts=200, held_out=["4 7 8 8"])
DATA = Path(os.environ.get("JUNTO_DATA", Path(__file__).parents[3] / "shared" / "data"))


def reaches(numbers: list[Fraction]) -> bool:
    """An independent solver, without steps or texts."""
    if len(numbers) == 1:
        return numbers[0] == 24
    for i, a in enumerate(numbers):
        for j, b in enumerate(numbers):
            if i != j:
                rest = [n for k, n in enumerate(numbers) if k not in (i, j)]
                results = {a + b, a - b, a * b} | ({a / b} if b else set())
                if any(reaches([*rest, r]) for r in results):
                    return True
    return False


def test_there_are_1362_puzzles() -> None:
    assert len(game24.puzzles(4)) == 1362
    assert len(game24.puzzles(3)) == 111


def test_the_papers_list_is_recovered() -> None:
    path = DATA / "game24" / "24.csv"
    if not path.exists():
        pytest.skip(f"no data at {path}; set JUNTO_DATA")
    rows = [game24.validate_question(row["Puzzles"]) for row in csv.DictReader(path.open())]
    assert sorted(rows) == sorted(game24.puzzles(4))
    assert sorted(game24.test_puzzles()) == sorted(rows[900:1000])


def test_splits_do_not_meet() -> None:
    parts = {name: set(puzzles) for name, puzzles in game24.split(OPTIONS).items()} | {
        "test": set(game24.test_puzzles())
    }
    assert len(parts["test"]) == 100 and "4 7 8 8" in parts["validation"]
    assert not parts["train"] & parts["validation"] and not (parts["train"] | parts["validation"]) & parts["test"]
    data = game24.load(OPTIONS, seed=0)
    for name in ("train", "validation"):
        asked = {row["prompt"][1]["content"].split("\n")[0] for rows in (data.sft, data.pairs) for row in rows[name]}
        assert asked | {row["id"] for row in data.prompts[name]} <= parts[name]
    assert {row["id"] for row in data.prompts["test"]} == parts["test"]


def test_a_seed_keeps_its_rows() -> None:
    """As they were before the arithmetic was shared with Countdown: runs that are kept can be run again."""
    data = game24.load(OPTIONS, seed=0)
    text = json.dumps([data.sft, data.pairs, {name: data.prompts[name] for name in ("train", "validation")}])
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "addb3b0eb801c943"


def test_a_test_puzzle_cannot_be_held_out_by_name() -> None:
    with pytest.raises(UsageError, match="test puzzles"):
        game24.split(game24.Options(held_out=[game24.test_puzzles()[0]]))


def test_rows_do_what_they_say() -> None:
    data = game24.load(OPTIONS, seed=0)
    assert data == game24.load(OPTIONS, seed=0) and data != game24.load(OPTIONS, seed=1)
    leaving = 0
    for row in data.sft["train"]:
        question = row["prompt"][1]["content"].split("\n")[0]
        if "prefix" in row:
            leaving += 1
            state = game24.follow(question, row["prefix"].splitlines())
            assert state is not None and not reaches(list(state)) and row["completion"].startswith("LEAVE: ")
        else:
            assert game24.check(question, row["completion"])
    assert 0.05 < leaving / len(data.sft["train"]) < 0.3
    for row in data.pairs["train"]:
        question = row["prompt"][1]["content"]
        good, bad = row["chosen"].splitlines(), row["rejected"].splitlines()
        assert good[:-1] == bad[:-1] and good[-1] != bad[-1]
        assert standing(question, good) > standing(question, bad)


def standing(question: str, lines: list[str]) -> int:
    """2: 24 can be reached, or leaving is right; 1: a legal dead end; 0: not legal, or leaving is wrong."""
    if lines[-1].startswith("LEAVE"):
        state = game24.follow(question, lines[:-1])
        return 0 if state is None or reaches(list(state)) else 2
    state = game24.follow(question, lines)
    return 0 if state is None else 2 if reaches(list(state)) else 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 13), min_size=3, max_size=4), st.randoms(use_true_random=False))
def test_moves_are_exact_and_read_back(numbers: list[int], rng: object) -> None:
    question = " ".join(map(str, sorted(numbers)))
    state = game24._state(question)
    assert game24.alive(state) == reaches([Fraction(n) for n in numbers])
    lines: list[str] = []
    while len(state) > 1:
        text, state = rng.choice(game24.moves(state))  # type: ignore[attr-defined]
        lines.append(text)
        followed = game24.follow(question, lines)
        assert followed is not None and sorted(followed) == sorted(state)
    assert game24.check(question, "\n".join(lines)) == (state[0] == 24)


@pytest.mark.parametrize(
    ("response", "right"),
    [
        ("8 - 7 = 1 (left: 4 8 1)\n4 - 1 = 3 (left: 8 3)\n8 * 3 = 24 (left: 24)", True),
        ("8 - 7 = 1 (left: 1 4 8)\n4 - 1 = 3 (left: 3 8)\n3 * 8 = 24 (left: 24)\n", True),
        ("8 - 7 = 1 (left: 4 8 1)\n4 - 1 = 3 (left: 8 3)", False),
        ("8 - 7 = 2 (left: 4 8 2)\n4 * 2 = 8 (left: 8 8)\n8 * 8 = 24 (left: 24)", False),
        ("24 = 24 (left: 24)", False),
        ("8 / 0 = 24 (left: 24)", False),
        ("4 * 8 = 24 (left: 24)", False),
        ("LEAVE: 2 9 cannot make 24", False),
        ("", False),
    ],
)
def test_checker(response: str, right: bool) -> None:
    assert game24.check("4 7 8 8", response) is right


@pytest.mark.parametrize("question", ["", "  ", "1 2", "1 2 3 4 5", "0 1 2 3", "1 2 3 14", "a b c d", "1 2 3 -4"])
def test_bad_questions(question: str) -> None:
    with pytest.raises(UsageError, match="4 7 8 8"):
        game24.validate_question(question)


def test_refute_names_what_is_wrong() -> None:
    right = ["8 - 7 = 1 (left: 4 8 1)", "4 - 1 = 3 (left: 8 3)", "8 * 3 = 24 (left: 24)"]
    for i in range(3):
        assert game24.refute("4 7 8 8", right[: i + 1]) is None and game24.reachable("4 7 8 8", right[: i + 1])
    wrong = {
        "8 - 7 = 2 (left: 4 8 2)": "8 - 7 is 1, not 2",
        "8 - 7 = 1 (left: 8 8 1)": "what is left is 4 8 1, not 8 8 1",
        "9 - 7 = 2 (left: 4 8 2)": "9 - 7 cannot be done with 4 7 8 8",
        "ANSWER: 24": "'ANSWER: 24' is no step",
    }
    for step, said in wrong.items():
        assert game24.refute("4 7 8 8", [step]) == said and not game24.reachable("4 7 8 8", [step])
    dead = ["4 + 8 = 12 (left: 7 8 12)", "12 - 8 = 4 (left: 7 4)"]
    assert game24.refute("4 7 8 8", dead) is None and not game24.reachable("4 7 8 8", dead)
    assert game24.refute("4 7 8 8", [*dead, "7 * 4 = 28 (left: 28)"]) == "28 is not 24"


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6))
def test_refute_agrees_with_the_rules(seed: int) -> None:
    import random

    rng = random.Random(seed)
    start = game24._state(rng.choice(game24.puzzles(4)))
    question = " ".join(map(str, start))
    text, state = rng.choice(game24.moves(start))
    assert game24.refute(question, [text]) is None
    assert game24.reachable(question, [text]) == game24.alive(state)
    bad = game24.arithmetic.illegal(rng, start, text, game24.GAME)
    assert game24.refute(question, [bad])


def test_judged_lines_have_the_score_of_the_oracle() -> None:
    rows = game24.load(game24.Options(lines=4, pairs=60, prompts=4, judged=True, wide=0.3), seed=0).pairs["train"]
    lengths, scores, claims = set(), [], []
    for row in rows:
        question = row["prompt"][1]["content"]
        for text, score in zip(row["responses"], row["scores"], strict=True):
            assert score == game24.reachable(question, text.split("\n")), (question, text)
            lengths.add(text.count("\n"))
            claims += [score] if text.endswith(" = 24 (left: 24)") else []
        scores += row["scores"]
        assert len(set(row["responses"])) == len(row["responses"])
    assert lengths >= {0, 1, 2} and 0.2 < sum(scores) / len(scores) < 0.5
    assert 0.3 < sum(claims) / len(claims) < 0.9  # neither is a line right because it says so


def test_wide_puzzles_are_none_of_the_1362() -> None:
    rows = game24.load(game24.Options(lines=100, pairs=4, prompts=4, wide=1.0), seed=0).sft["train"]
    for row in rows:
        question = row["prompt"][1]["content"].split("\n")[0]
        assert question not in game24.puzzles(4) and game24.reachable(question, [])


def test_of_several_puzzles_the_hard_one_is_learned_from() -> None:
    def shares(hard: int) -> list[float]:
        rows = game24.load(game24.Options(lines=80, pairs=4, prompts=4, wide=0.5, three=0, board=0, hard=hard), 0).sft
        return sorted(game24._sound_share(row["prompt"][1]["content"]) for row in rows["train"])

    once, four = shares(1), shares(4)
    assert all(a >= b for a, b in zip(once, four, strict=True)) and sum(four) < 0.7 * sum(once)


def test_results_of_wrong_steps_are_learned_and_their_choice_is_not() -> None:
    options = {"lines": 300, "pairs": 4, "prompts": 4, "wrong": 0.5}
    plain, both = (game24.load(game24.Options(**options, results=r), 0).sft["train"] for r in (False, True))
    for a, b in zip(plain, both, strict=True):
        assert a["completion"] == b["completion"] and a["prompt"] == b["prompt"]
        if "prefix" in a:
            assert "".join(text for text, _ in b["prefix"]) == a["prefix"]
            for text, learned in b["prefix"]:
                assert learned == text.startswith(" = ")
