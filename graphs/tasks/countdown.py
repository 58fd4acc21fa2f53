"""Countdown: reach a target from three to five numbers, one operation per step.

The rules are those of Stream of Search (Gandhi et al. 2024, arXiv 2404.03683), which takes the numbers round of the
television game and asks for every number to be used: each number is used exactly once, and so is each result but the
last. As on television, every result is a positive whole number: a difference is above 0 and a quotient has no
remainder. A question is ``61 from 3 5 7 25``; a response is steps ``25 - 5 = 20 (left: 3 7 20)`` until only the
target is left, or steps that went wrong and a line ``LEAVE: reason``.

Questions are split by their multiset of numbers, whatever the target and the order. None has the target 24, so that
nothing of the Game of 24's test is learned here.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from pydantic import Field, field_validator, model_validator

from alignment.errors import UsageError
from graphs.tasks import TaskData, arithmetic, generated
from graphs.tasks.arithmetic import LEAVE, STEP, Game, State

__all__ = ["LEAVE", "STEP", "Options", "check", "follow", "load", "prompt", "solvable", "validate_question"]

NOT_A_TARGET = 24
EXAMPLE = '"61 from 3 5 7 25"'
LARGEST_NUMBER, LARGEST_TARGET = 100, 999  # as on television

conclusion = arithmetic.conclusion


class Options(generated.Sizes):
    """What Countdown is learned from."""

    min_count: int = Field(3, ge=3, le=5, description="fewest numbers of a question")
    max_count: int = Field(4, ge=3, le=5, description="most numbers of a question")
    min_number: int = Field(1, ge=1, le=LARGEST_NUMBER, description="smallest number")
    max_number: int = Field(25, ge=2, le=LARGEST_NUMBER, description="largest number")
    min_target: int = Field(10, ge=1, le=LARGEST_TARGET, description="smallest target; 24 is never one")
    max_target: int = Field(100, ge=1, le=LARGEST_TARGET, description="largest target")

    @field_validator("held_out")
    @classmethod
    def _normal_form(cls, questions: list[str]) -> list[str]:
        return generated.normal_forms(questions, validate_question)

    @model_validator(mode="after")
    def _ranges(self) -> Options:
        for what in ("count", "number", "target"):
            if getattr(self, f"min_{what}") > getattr(self, f"max_{what}"):
                raise ValueError(f"min_{what} is above max_{what}")
        if self.min_target == self.max_target == NOT_A_TARGET:
            raise ValueError("the only target is 24, which is the Game of 24's; take graphs.tasks.game24, or others")
        return self


# -- the task's contract ----------------------------------------------------------------------------------


def load(options: Options, seed: int, base: Path | None = None) -> TaskData:
    """Generated rows; the same options and seed give the same rows. Raises UsageError where the options leave no
    question for a split, or where a question that is held out by name has no solution."""
    for question in options.held_out:
        if not solvable(question):
            raise UsageError(f'data.held_out has "{question}", which has no solution; take another')
    maker = generated.Maker(
        draw=lambda rng: draw(rng, options),
        key=lambda question: question.split(" from ")[1],
        line=lambda rng, question: arithmetic.line_row(rng, *_read(question), options.wrong),
        pair=lambda rng, question: arithmetic.pair(rng, *_read(question)),
        peers=lambda rng, question: arithmetic.board(rng, *_read(question)),
        prompt=prompt,
    )
    return generated.generate(maker, options, seed)


def prompt(question: str, board: Sequence[str] = (), persona: str = "") -> list[dict[str, str]]:
    """The messages for one expert. ``board``: steps that peers have shared."""
    return generated.messages("Make the target; use each number once.", question, board, persona)


def check(question: str, response: str) -> bool | None:
    """Whether every line is a legal step and only the target is left in the end."""
    state, game = _read(question)
    return arithmetic.solves(state, response, game)


def refute(question: str, steps: Sequence[str], finished: bool = False) -> str | None:
    """What is wrong with the last of ``steps``; None where it is legal and, at the end of a line, leaves the target."""
    state, game = _read(question)
    return arithmetic.refute(state, steps, game, finished)


def reachable(question: str, steps: Sequence[str]) -> bool:
    """Whether all ``steps`` are legal and the target can still be reached after them."""
    state = follow(question, steps)
    return state is not None and arithmetic.alive(state, _read(question)[1])


def validate_question(question: str) -> str:
    """``TARGET from`` three to five numbers of 1..100, ascending, the target of 1..999; raises UsageError otherwise."""
    match = re.fullmatch(r"\s*([0-9]{1,3})\s+from\s+([0-9]{1,3}(?:[\s,]+[0-9]{1,3}){2,4})\s*", question)
    if match:
        numbers = sorted(int(word) for word in match[2].replace(",", " ").split())
        target = int(match[1])
        if numbers[0] >= 1 and numbers[-1] <= LARGEST_NUMBER and target >= 1:
            return f"{target} from {' '.join(map(str, numbers))}"
    wrong = f"{question!r} is no Countdown question" if question.strip() else "the question is empty"
    raise UsageError(f"{wrong}; give a target and three to five numbers of 1..100, for example {EXAMPLE}")


# -- the game ---------------------------------------------------------------------------------------------


def follow(question: str, lines: Sequence[str]) -> State | None:
    """The numbers left after ``lines``, or None when a line is not a legal step."""
    return arithmetic.follow(_read(question)[0], lines, whole=True)


def solvable(question: str) -> bool:
    """Whether the target of a question in normal form can be reached."""
    return arithmetic.alive(*_read(question))


def draw(rng: random.Random, options: Options) -> str:
    """A question that can be solved: its target is where random steps ended. Raises UsageError when the ranges of the
    numbers and of the target hardly ever go together."""
    for _ in range(1000):
        count = rng.randint(options.min_count, options.max_count)
        numbers = sorted(rng.randint(options.min_number, options.max_number) for _ in range(count))
        state: State = tuple(map(Fraction, numbers))
        while len(state) > 1:
            state = rng.choice(arithmetic.moves(state, whole=True))[1]
        if options.min_target <= state[0] <= options.max_target and state[0] != NOT_A_TARGET:
            return f"{state[0]} from {' '.join(map(str, numbers))}"
    raise UsageError("these numbers hardly ever make a target of data.min_target..max_target; widen the ranges")


def _read(question: str) -> tuple[State, Game]:
    target, numbers = question.split(" from ")
    return arithmetic.start(numbers), Game(Fraction(target), whole=True)
