"""The Game of 24 (Tree of Thoughts, arXiv 2305.10601): reach 24 from four numbers, one operation per step.

A step is ``10 - 4 = 6 (left: 5 6 6)``; a response is steps, one a line, until only 24 is left, or steps that
went wrong and a line ``LEAVE: reason``. Puzzles are multisets of 1..13; arithmetic is exact (fractions are
written ``8/3``). Of all 1,820 multisets of four, 1,362 can be solved.

The paper's 100 test puzzles (rows 900-999 of the authors' list, by human solve rate) are held as hashes:
the generator leaves them out and can recover them, and no file or text of the project names one.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cache
from itertools import combinations_with_replacement
from pathlib import Path

from pydantic import Field, field_validator

from alignment.config import Settings
from alignment.errors import UsageError
from graphs.tasks import Row, TaskData, arithmetic, generated
from graphs.tasks.arithmetic import LEAVE, STEP, Game, State, moves

__all__ = ["LEAVE", "STEP", "Options", "alive", "check", "follow", "load", "moves", "prompt", "validate_question"]

GAME = Game(Fraction(24))
WIDE = 20  # largest number of the puzzles that are only learned from
_state = arithmetic.start
conclusion = arithmetic.conclusion


class Options(Settings):
    """What the quickstart learns from. Sizes are numbers of generated rows."""

    lines: int = Field(1000, ge=4, description="supervised rows")
    pairs: int = Field(600, ge=4, description="preference pairs of steps; where judged, puzzles")
    prompts: int = Field(256, ge=2, description="puzzles for PPO, repeated in a new order when they run out")
    wrong: float = Field(0.15, ge=0, le=1, description="share of supervised rows that end in LEAVE")
    three: float = Field(0.5, ge=0, le=1, description="share of rows from three-number puzzles")
    board: float = Field(0.15, ge=0, le=1, description="share of supervised rows that show peers' steps")
    wide: float = Field(0.0, ge=0, le=1, description=f"share of rows from puzzles with a number of 14..{WIDE}")
    hard: int = Field(
        1,
        ge=1,
        description="puzzles that are drawn for each row to learn from: the one of which the fewest first steps keep "
        "24 reachable is taken",
    )
    results: bool = Field(False, description="whether the results of steps that go wrong are learned as well")
    judged: bool = Field(
        False,
        description="whether pairs are puzzles with some thirty beginnings of lines each, whose score is 1 where 24 "
        "can be reached, or 0",
    )
    validation: float = Field(0.2, gt=0, lt=1, description="share of the puzzles held out, by multiset")
    held_out: list[str] = Field(default_factory=list, description="puzzles that are always held out")

    @field_validator("held_out")
    @classmethod
    def _normal_form(cls, puzzles: list[str]) -> list[str]:
        return generated.normal_forms(puzzles, validate_question)


# -- the game ---------------------------------------------------------------------------------------------


def alive(state: State) -> bool:
    """Whether 24 can still be reached."""
    return arithmetic.alive(state, GAME)


@cache
def puzzles(count: int = 4) -> tuple[str, ...]:
    """Every solvable multiset of ``count`` numbers of 1..13, in ascending order: 1,362 for four, 111 for three."""
    all_sets = combinations_with_replacement(range(1, 14), count)
    return tuple(" ".join(map(str, s)) for s in all_sets if alive(tuple(map(Fraction, s))))


def test_puzzles() -> list[str]:
    """The paper's test puzzles, recovered from their hashes."""
    hashes = set(Path(__file__).with_name("game24_test_hashes.txt").read_text().split())
    return [puzzle for puzzle in puzzles(4) if _hash(puzzle) in hashes]


def split(options: Options) -> dict[str, list[str]]:
    """Puzzles of three and four numbers by multiset: ``train`` and ``validation``; the test puzzles are in neither."""
    test = set(test_puzzles())
    held_out = set(options.held_out)
    named_tests = sorted(held_out & test)
    if named_tests:
        raise UsageError(f"data.held_out names {len(named_tests)} of the paper's test puzzles; take others")
    parts: dict[str, list[str]] = {"train": [], "validation": []}
    for puzzle in (*puzzles(3), *puzzles(4)):
        if puzzle in test:
            continue
        share = int(_hash(puzzle, "validation"), 16) / 16**16
        parts["validation" if puzzle in held_out or share < options.validation else "train"].append(puzzle)
    return parts


def follow(question: str, lines: Sequence[str]) -> State | None:
    """The numbers left after ``lines``, or None when a line is not a legal step."""
    return arithmetic.follow(_state(question), lines)


def check(question: str, response: str) -> bool | None:
    """Whether every line is a legal step and only 24 is left in the end."""
    return arithmetic.solves(_state(question), response, GAME)


def refute(question: str, steps: Sequence[str], finished: bool = False) -> str | None:
    """What is wrong with the last of ``steps``; None where it is legal and, at the end of a line, leaves 24."""
    return arithmetic.refute(_state(question), steps, GAME, finished)


def reachable(question: str, steps: Sequence[str]) -> bool:
    """Whether all ``steps`` are legal and 24 can still be reached after them."""
    state = follow(question, steps)
    return state is not None and alive(state)


def validate_question(question: str) -> str:
    """Three or four whole numbers of 1..13, ascending; raises UsageError otherwise."""
    words = question.replace(",", " ").split()
    if not words:
        raise UsageError('the question is empty; give three or four numbers, for example "4 7 8 8"')
    if len(words) not in (3, 4) or not all(w.isdecimal() and 1 <= int(w) <= 13 for w in words):
        raise UsageError(f'{question!r} is no puzzle; give three or four numbers of 1..13, for example "4 7 8 8"')
    return " ".join(map(str, sorted(map(int, words))))


def prompt(question: str, board: Sequence[str] = (), persona: str = "") -> list[dict[str, str]]:
    """The messages for one expert. ``board``: steps that peers have shared."""
    return generated.messages("Make 24.", question, board, persona)


# -- rows -------------------------------------------------------------------------------------------------


def load(options: Options, seed: int, base: Path | None = None) -> TaskData:
    """Rows generated from the puzzles alone; the same options and seed give the same rows."""
    parts = split(options)
    sft, pairs, prompts = {}, {}, {}
    for name, share in (("train", 1.0), ("validation", 0.1)):
        rng = random.Random(f"{seed}/{name}")
        by_size = {n: [p for p in parts[name] if p.count(" ") == n - 1] for n in (3, 4)}

        def one(rng: random.Random = rng, by_size: dict[int, list[str]] = by_size, name: str = name) -> str:
            if name == "train" and options.wide and rng.random() < options.wide:
                return _wide(rng)
            return rng.choice(by_size[3 if rng.random() < options.three else 4])

        def draw(one: Callable[[], str] = one, name: str = name) -> str:
            drawn = [one() for _ in range(options.hard if name == "train" else 1)]
            return drawn[0] if len(drawn) == 1 else min(drawn, key=_sound_share)

        sft[name] = [_line(rng, draw(), options) for _ in range(max(4, int(options.lines * share)))]
        pairs[name] = [_pair(rng, draw(), options) for _ in range(max(4, int(options.pairs * max(share, 0.2))))]
        prompts[name] = _prompts(rng, by_size, options)
    test = test_puzzles()
    random.Random("test").shuffle(test)  # or the first of them would be those of small numbers
    prompts["test"] = [{"id": p, "question": p, "prompt": prompt(p)} for p in test]
    # held-out puzzles that the recipe names come first, so that they are among those that are evaluated
    prompts["validation"].sort(key=lambda row: row["id"] not in options.held_out)
    note = (
        f"{len(parts['train'])} puzzles to learn from, {len(parts['validation'])} held out for validation, "
        f"{len(test)} test puzzles of the Tree of Thoughts paper in neither"
    )
    return TaskData(sft, pairs, prompts, [note])


@cache
def _sound_share(puzzle: str) -> float:
    """The share of first steps that keep 24 reachable, of those that are plain."""
    sound, lost = (len(arithmetic.plain_moves(_state(puzzle), alive, GAME)) for alive in (True, False))
    return sound / (sound + lost)


def _wide(rng: random.Random) -> str:
    """A solvable puzzle of four numbers of which one is above 13, so that it is none of the 1,362."""
    while True:
        numbers = sorted([*(rng.randint(1, WIDE) for _ in range(3)), rng.randint(14, WIDE)])
        if alive(tuple(map(Fraction, numbers))):
            return " ".join(map(str, numbers))


def _prompts(rng: random.Random, by_size: dict[int, list[str]], options: Options) -> list[Row]:
    three = rng.sample(by_size[3], min(len(by_size[3]), int(options.prompts * options.three)))
    # there are few puzzles of three numbers: no more of four than keeps the share
    most = round(len(three) / options.three * (1 - options.three)) if options.three else options.prompts
    four = rng.sample(by_size[4], min(len(by_size[4]), options.prompts - len(three), most))
    rows = [{"id": p, "question": p, "prompt": prompt(p)} for p in three + four]
    rng.shuffle(rows)
    return rows


def _line(rng: random.Random, puzzle: str, options: Options) -> Row:
    state = _state(puzzle)
    board = arithmetic.board(rng, state, GAME) if rng.random() < options.board else []
    return {"prompt": prompt(puzzle, board), **arithmetic.line_row(rng, state, GAME, options.wrong, options.results)}


def _pair(rng: random.Random, puzzle: str, options: Options) -> Row:
    made = arithmetic.judged if options.judged else arithmetic.pair
    return {"prompt": prompt(puzzle), **made(rng, _state(puzzle), GAME)}


def _hash(puzzle: str, salt: str = "test") -> str:
    return hashlib.sha256(f"game24/{salt}/{puzzle}".encode()).hexdigest()[:16]
