"""Word chains: stories worked by hand, the checker, the split, the rows."""

from __future__ import annotations

import json
import operator
import re
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignment.errors import UsageError
from graphs.cli.main import main
from graphs.tasks import chains

STORY = (
    "Ana has 12 pencils. She buys 3 boxes of 4 pencils. She gives 5 pencils to Ben. She trades each pencil for 2 "
    "stickers. How many stickers does Ana have?"
)
LINES = ["3 * 4 = 12 pencils", "12 + 12 = 24 pencils", "24 - 5 = 19 pencils", "19 * 2 = 38 stickers", "ANSWER: 38"]
OTHER = (
    "Hugo has 18 beads. He gives 2 beads to each of 3 friends. He puts the beads into 4 equal bags and keeps one bag. "
    "He finds 6 beads. He loses 1 beads. He gets 7 beads from Eva. How many beads does Hugo have?"
)
OTHER_LINES = [
    "3 * 2 = 6 beads", "18 - 6 = 12 beads", "12 / 4 = 3 beads", "3 + 6 = 9 beads", "9 - 1 = 8 beads",
    "8 + 7 = 15 beads", "ANSWER: 15",
]  # fmt: skip
OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
OPTIONS = chains.Options(lines=200, pairs=300, prompts=60, held_out=[STORY])


def test_stories_worked_by_hand() -> None:
    assert chains.solution(STORY) == LINES and chains.check(STORY, "\n".join(LINES))
    assert chains.solution(OTHER) == OTHER_LINES and chains.check(OTHER, "\n".join(OTHER_LINES) + "\n")


@pytest.mark.parametrize(
    ("at", "line", "right"),
    [
        (0, "4 * 3 = 12 pencils", True),
        (2, "24 - 5 = 18 pencils", False),
        (2, "5 - 24 = 19 pencils", False),
        (2, "24 - 4 = 20 pencils", False),
        (3, "19 * 2 = 38 pencils", False),  # the trade changes the unit
        (3, "19 * 2 = 38", False),
        (3, "2 * 19 = 38 stickers", True),
        (4, "ANSWER: 19", False),
        (4, "ANSWER: 38 stickers", False),
        (4, "LEAVE: it is wrong", False),
        (4, "", False),
    ],
)
def test_checker(at: int, line: str, right: bool) -> None:
    assert chains.check(STORY, "\n".join([*LINES[:at], line, *LINES[at + 1 :]])) is right


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6))
def test_a_story_computed_otherwise_has_the_same_answer(seed: int, count: int) -> None:
    """Reads the numbers by position and the verb by one word, without the templates."""
    rng = Random(seed)
    story = chains.draw(rng, chains.Options(min_steps=count, max_steps=count))
    assert chains.validate_question(f"  {story} ".replace(" ", "  ")) == story
    first, *events = [part for part in story.split(". ") if not part.startswith("How many")]
    have = int(re.findall(r"\d+", first)[0])
    for event in events:
        numbers = [int(n) for n in re.findall(r"\d+", event)]
        verb = event.split()[1]
        change = numbers[0] * (numbers[1] if len(numbers) > 1 else 1)
        have = {
            "buys": have + change, "finds": have + change, "gets": have + change, "gives": have - change,
            "loses": have - change, "puts": have / numbers[0], "trades": have * numbers[0],
        }[verb]  # fmt: skip
    lines = chains.solution(story)
    assert len(lines) == count + 1 and lines[-1] == f"ANSWER: {have:g}"
    for line in lines[:-1]:
        assert re.fullmatch(chains.STEP, line)
        a, op, b, _, value, _ = line.split()
        assert OPERATORS[op](int(a), int(b)) == int(value)
    assert chains.check(story, "\n".join(lines)) and not chains.check(story, "\n".join(lines[:-1]))
    for at in [*range(count + 1)] * 5:
        text = chains.slip(story)(rng, at)
        assert re.fullmatch(chains.STEP if at < count else r"ANSWER: [1-9]\d*", text)
        assert not chains.check(story, "\n".join([*lines[:at], text, *lines[at + 1 :]]))


def test_rows_do_what_they_say() -> None:
    data = chains.load(OPTIONS, seed=0)
    assert data == chains.load(OPTIONS, seed=0) and data != chains.load(OPTIONS, seed=1)
    leaving = boards = 0
    for row in data.sft["train"] + data.sft["validation"]:
        question, *board = row["prompt"][1]["content"].split("\n")
        boards += bool(board)
        assert all(re.fullmatch(chains.STEP, line) for line in board[1:])
        right = chains.solution(question)
        if "prefix" in row:
            leaving += 1
            lines = row["prefix"].splitlines()
            assert all(re.fullmatch(chains.STEP, line) for line in lines)
            assert lines[:-1] == right[: len(lines) - 1] and not chains.same_line(right[len(lines) - 1], lines[-1])
            assert row["completion"] == f"LEAVE: it should be {right[len(lines) - 1]}"
        else:
            assert chains.check(question, row["completion"])
            assert all(re.fullmatch(chains.STEP, line) for line in row["completion"].splitlines()[:-1])
            assert 3 <= len(right) - 1 <= 6
    assert leaving and boards
    for row in data.pairs["train"] + data.pairs["validation"]:
        right = chains.solution(row["prompt"][1]["content"])
        good, bad = row["chosen"].splitlines(), row["rejected"].splitlines()
        assert good[:-1] == bad[:-1]
        assert sound(right, good) and not sound(right, bad)


def sound(right: list[str], lines: list[str]) -> bool:
    """Whether the lines begin the solution, or leave where they went wrong."""
    goes_on = len(lines) <= len(right) and all(map(chains.same_line, right, lines))
    if lines[-1].startswith("LEAVE: "):
        return not all(map(chains.same_line, right, lines[:-1]))
    return goes_on


def test_splits_do_not_meet_under_other_names() -> None:
    renamed = STORY.replace("Ana", "Dan").replace("She", "He").replace("Ben", "Eva").replace("stickers", "shells")
    renamed = renamed.replace("gives 5 pencils to Eva", "loses 5 pencils").replace("3 boxes of 4", "4 boxes of 3")
    assert chains.key(renamed) == chains.key(STORY) != chains.key(OTHER)
    data = chains.load(OPTIONS, seed=0)
    keys = {}
    for name in ("train", "validation"):
        asked = [row["prompt"][1]["content"].split("\n")[0] for rows in (data.sft, data.pairs) for row in rows[name]]
        asked += [row["id"] for row in data.prompts[name]]
        keys[name] = {chains.key(question) for question in asked}
    assert not keys["train"] & keys["validation"]
    assert data.prompts["validation"][0]["question"] == STORY


@pytest.mark.parametrize(
    ("question", "says"),
    [
        (" ", "the question is empty"),
        ("What is 3 + 4?", "is no story"),
        ("Ana has 3 pencils.She finds 1 pencils. How many pencils does Ana have?", "is no story"),
        ("Ana has 3 pencils. How many pencils does Ana have?", "at least one event"),
        ("Ana has 3 pencils. She finds 2 apples. How many pencils does Ana have?", "does not go with 3 pencils"),
        ("Ana has 3 pencils. He finds 2 pencils. How many pencils does Ana have?", "does not go with"),
        ("Ana has 3 pencils. She loses 3 pencils. How many pencils does Ana have?", "is not one of 1..999"),
        ("Ana has 3 pencils. She eats 1 pencils. How many pencils does Ana have?", "is no sentence"),
        ("Ana has 3 pencils. She finds 1 pencils. How many apples does Ana have?", "must end with"),
        (
            "Ana has 3 pencils. She puts the pencils into 2 equal bags and keeps one bag. How many pencils does Ana "
            "have?",
            "no multiple of 2",
        ),
    ],
)
def test_bad_questions(question: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        chains.validate_question(question)


def test_a_recipe_names_the_task(capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("JUNTO_RUNS", str(tmp_path / "runs"))
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("name: x\ntask: graphs.tasks.chains\ndata: {lines: 8, pairs: 8, prompts: 4}\n")
    assert main(["run", "align", str(recipe), "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["recipe"]["data"]["max_steps"] == 6
    assert main(["run", "align", str(recipe), "--set", "data.max_steps=7", "--dry-run"]) == 2
    assert '"data.max_steps" is 7; expected at most 6' in capsys.readouterr().err


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_refute_sees_arithmetic_and_reachable_sees_the_story(seed: int) -> None:
    rng = Random(seed)
    question = chains.draw(rng, chains.Options())
    right = chains.solution(question)
    for i in range(len(right)):
        assert chains.refute(question, right[: i + 1]) is None and chains.reachable(question, right[: i + 1])
        wrong = [*right[:i], chains.slip(question)(rng, i)]
        assert not chains.reachable(question, wrong)
        if i == len(right) - 1:
            assert chains.refute(question, wrong) == f"the last result is {right[-2].split(' ')[4]}"
        else:
            a, op, b, _, value, _ = wrong[-1].split(" ")
            true = OPERATORS[op](int(a), int(b))
            assert (chains.refute(question, wrong) is None) == (true == int(value))


def test_refute_by_hand() -> None:
    assert chains.refute("", ["7 / 2 = 3 apples"]) == "7 / 2 is 7/2, not 3"
    assert chains.refute("", ["3 * 4 = 12 apples", "ANSWER: 13"]) == "the last result is 12"
    assert chains.refute("", ["ANSWER: 13"]) is None
