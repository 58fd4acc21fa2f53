"""Object tracking: questions worked by hand, an independent simulation, the split, the rows."""

from __future__ import annotations

import json
import re
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignment.errors import UsageError
from graphs.cli.main import main
from graphs.tasks import tracking

SETUP = "Bob is in the hall. Ann is in the garden. The cup is in the hall. The ball is in the hall. "
STORY = (
    SETUP + "Bob puts the ball into the cup. Bob picks up the cup. Bob walks to the garden. Bob turns the cup upside "
    "down and back. Bob walks to the attic. Which room is the ball in?"
)
LINES = [
    "Bob in hall, Ann in garden, cup in hall, ball in cup",
    "Bob in hall, Ann in garden, cup with Bob, ball in cup",
    "Bob in garden, Ann in garden, cup with Bob, ball in cup",
    "Bob in garden, Ann in garden, cup with Bob, ball in garden",
    "Bob in attic, Ann in garden, cup with Bob, ball in garden",
    "ANSWER: garden",
]
OTHER = (
    SETUP + "Bob picks up the ball. Bob walks to the garden. Bob gives the ball to Ann. Ann walks to the hall. Ann "
    "puts the ball into the cup. Ann takes the ball out of the cup. Ann puts down the ball. Which room is the ball in?"
)
OTHER_LINES = [
    "Bob in hall, Ann in garden, cup in hall, ball with Bob",
    "Bob in garden, Ann in garden, cup in hall, ball with Bob",
    "Bob in garden, Ann in garden, cup in hall, ball with Ann",
    "Bob in garden, Ann in hall, cup in hall, ball with Ann",
    "Bob in garden, Ann in hall, cup in hall, ball in cup",
    "Bob in garden, Ann in hall, cup in hall, ball with Ann",
    "Bob in garden, Ann in hall, cup in hall, ball in hall",
    "ANSWER: hall",
]
OPTIONS = tracking.Options(lines=150, pairs=300, prompts=60, held_out=[STORY])


def test_questions_worked_by_hand() -> None:
    assert tracking.solution(STORY) == LINES and tracking.check(STORY, "\n".join(LINES))
    assert tracking.solution(OTHER) == OTHER_LINES and tracking.check(OTHER, "\n".join(OTHER_LINES) + "\n")


@pytest.mark.parametrize(
    ("at", "line", "right"),
    [
        (0, "ball in cup, cup in hall, Ann in garden, Bob in hall", True),
        (0, "Bob in hall, Ann in garden, cup in hall, ball in hall", False),
        (0, "Bob in hall, cup in hall, ball in cup", False),  # Ann is missing
        (0, "Bob in hall, Ann in garden, cup in hall, ball in cup, ball in cup", False),
        (3, "Bob in garden, Ann in garden, cup with Bob, ball in cup", False),
        (4, "Bob in attic, Ann in garden, cup with Bob, ball in attic", False),
        (5, "ANSWER: attic", False),
        (5, "LEAVE: it is wrong", False),
        (5, "", False),
    ],
)
def test_checker(at: int, line: str, right: bool) -> None:
    assert tracking.check(STORY, "\n".join([*LINES[:at], line, *LINES[at + 1 :]])) is right


def simulate(question: str) -> str:
    """Another tracker: every thing has its own room, carried about by lists of who has what."""
    *told, asked = re.findall(r"\S[^.?]*[.?]", question)
    room: dict[str, str] = {}
    has: dict[str, set[str]] = {}

    def carried(name: str) -> set[str]:
        return {name}.union(*(carried(thing) for thing in has.get(name, set())))

    def let_go(thing: str) -> None:
        for things in has.values():
            things.discard(thing)

    for sentence in told:
        words = sentence.rstrip(".").split()
        if "is" in words:
            room[words[-5]] = words[-1]
            continue
        who = words[0]
        if words[1] == "walks":
            for name in carried(who):
                room[name] = words[-1]
        elif words[1] == "turns":
            has[words[3]] = set()
        else:
            thing = words[4] if words[2] in ("up", "down") else words[3]
            let_go(thing)
            owner = words[-1] if words[1] == "gives" or "into" in words else None if words[2] == "down" else who
            if owner:
                has.setdefault(owner, set()).add(thing)
            assert room[thing] == room[who] == room.get(owner or who)
    return room[asked.split()[-2]]


def test_the_simulation_knows_the_examples() -> None:
    assert (simulate(STORY), simulate(OTHER)) == ("garden", "hall")


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), *[st.integers(1, 3)] * 3, st.integers(2, 4), st.integers(1, 12))
def test_a_simulation_finds_the_same_room(
    seed: int, people: int, containers: int, objects: int, rooms: int, count: int
) -> None:
    sizes = {"people": people, "containers": containers, "objects": objects, "rooms": rooms}
    options = tracking.Options(**sizes, min_moves=count, max_moves=count)
    rng = Random(seed)
    question = tracking.draw(rng, options)
    assert tracking.validate_question(f" {question}\n".replace(" ", "  ")) == question
    lines = tracking.solution(question)
    assert len(lines) == count + 1 and lines[-1] == f"ANSWER: {simulate(question)}"
    assert all(re.fullmatch(tracking.STEP, line) for line in lines[:-1])
    assert all(line.count(",") == people + containers + objects - 1 for line in lines[:-1])
    assert tracking.check(question, "\n".join(lines)) and not tracking.check(question, "\n".join(lines[:-1]))
    for at in [*range(count + 1)] * 3:
        text = tracking.slip(question)(rng, at)
        assert re.fullmatch(tracking.STEP if at < count else "ANSWER: [a-z]+", text)
        assert not tracking.check(question, "\n".join([*lines[:at], text, *lines[at + 1 :]]))


def test_rows_do_what_they_say() -> None:
    data = tracking.load(OPTIONS, seed=0)
    assert data == tracking.load(OPTIONS, seed=0) and data != tracking.load(OPTIONS, seed=1)
    leaving = boards = 0
    for row in data.sft["train"] + data.sft["validation"]:
        question, *board = row["prompt"][1]["content"].split("\n")
        boards += bool(board)
        assert all(re.fullmatch(tracking.STEP, line) for line in board[1:])
        right = tracking.solution(question)
        if "prefix" in row:
            leaving += 1
            lines = row["prefix"].splitlines()
            assert all(re.fullmatch(tracking.STEP, line) for line in lines)
            assert lines[:-1] == right[: len(lines) - 1] and not tracking.same_line(right[len(lines) - 1], lines[-1])
            assert row["completion"] == f"LEAVE: it should be {right[len(lines) - 1]}"
        else:
            assert tracking.check(question, row["completion"])
            assert all(re.fullmatch(tracking.STEP, line) for line in row["completion"].splitlines()[:-1])
    assert leaving and boards
    for row in data.pairs["train"] + data.pairs["validation"]:
        right = tracking.solution(row["prompt"][1]["content"])
        good, bad = row["chosen"].splitlines(), row["rejected"].splitlines()
        assert good[:-1] == bad[:-1]
        assert sound(right, good) and not sound(right, bad)


def test_the_first_room_is_seldom_the_answer() -> None:
    rng = Random(0)
    questions = [tracking.draw(rng, tracking.Options()) for _ in range(200)]
    first = [tracking.read(question)[0][question.split()[-2]] for question in questions]
    same = sum(simulate(question) == room for question, room in zip(questions, first, strict=True))
    assert same / len(questions) < 0.5


def sound(right: list[str], lines: list[str]) -> bool:
    """Whether the lines begin the solution, or leave where they went wrong."""
    if lines[-1].startswith("LEAVE: "):
        return not all(map(tracking.same_line, right, lines[:-1]))
    return len(lines) <= len(right) and all(map(tracking.same_line, right, lines))


def test_splits_do_not_meet_under_other_names() -> None:
    renamed = STORY
    for old, new in (("Bob", "Dev"), ("cup", "jar"), ("ball", "pen"), ("hall", "cellar"), ("garden", "hall")):
        renamed = renamed.replace(old, new)
    swapped = renamed.replace("Dev is in the cellar. Ann is in the hall.", "Ann is in the hall. Dev is in the cellar.")
    assert swapped != renamed
    assert tracking.key(swapped) == tracking.key(renamed) == tracking.key(STORY) != tracking.key(OTHER)
    assert tracking.key(STORY.replace("attic", "hall")) != tracking.key(STORY)
    data = tracking.load(OPTIONS, seed=0)
    keys = {}
    for name in ("train", "validation"):
        asked = [row["prompt"][1]["content"].split("\n")[0] for rows in (data.sft, data.pairs) for row in rows[name]]
        asked += [row["id"] for row in data.prompts[name]]
        keys[name] = {tracking.key(question) for question in asked}
    assert not keys["train"] & keys["validation"]
    assert data.prompts["validation"][0]["question"] == STORY


@pytest.mark.parametrize(
    ("question", "says"),
    [
        ("", "the question is empty"),
        ("Where is the ball?", "must end by asking"),
        (SETUP + "Which room is the ball in?", "has no move"),
        (SETUP + "Ann picks up the ball. Which room is the ball in?", "is not possible there"),
        (SETUP + "Bob puts the key into the cup. Which room is the ball in?", "is not possible there"),
        (SETUP + "Bob walks to the hall. Which room is the ball in?", "is not possible there"),
        (SETUP + "Bob eats the ball. Which room is the ball in?", "is no move of this task"),
        (SETUP + "Bob picks up the ball. Which room is the key in?", "must end by asking"),
        ("The Bob is in the hall. Bob walks to the attic. Which room is the ball in?", "must end by asking"),
        (SETUP + SETUP + "Bob picks up the ball. Which room is the ball in?", "for the second time"),
    ],
)
def test_bad_questions(question: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        tracking.validate_question(question)


def test_a_recipe_names_the_task(capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("JUNTO_RUNS", str(tmp_path / "runs"))
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("name: x\ntask: graphs.tasks.tracking\ndata: {lines: 8, pairs: 8, prompts: 4}\n")
    assert main(["run", "align", str(recipe), "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["recipe"]["data"]["max_moves"] == 6
    assert main(["run", "align", str(recipe), "--set", "data.min_moves=7", "--dry-run"]) == 2
    assert "min_moves is above max_moves" in capsys.readouterr().err
