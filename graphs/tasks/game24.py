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
import re
from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from itertools import combinations_with_replacement
from pathlib import Path

from pydantic import Field, field_validator

from alignment.config import Settings
from alignment.errors import UsageError
from graphs.tasks import Row, TaskData

TARGET = Fraction(24)
NUMBER = r"-?[0-9]+(?:/[0-9]+)?"
STEP = rf"{NUMBER} [-+*/] {NUMBER} = {NUMBER} \(left: {NUMBER}(?: {NUMBER})*\)"
LEAVE = "LEAVE: "

State = tuple[Fraction, ...]  # the numbers left: those not yet used in their order, then the last result


class Options(Settings):
    """What the quickstart learns from. Sizes are numbers of generated rows."""

    lines: int = Field(1000, ge=4, description="supervised rows")
    pairs: int = Field(600, ge=4, description="preference pairs of steps")
    prompts: int = Field(256, ge=2, description="puzzles for PPO, repeated in a new order when they run out")
    wrong: float = Field(0.15, ge=0, le=1, description="share of supervised rows that end in LEAVE")
    three: float = Field(0.5, ge=0, le=1, description="share of rows from three-number puzzles")
    board: float = Field(0.15, ge=0, le=1, description="share of supervised rows that show peers' steps")
    validation: float = Field(0.2, gt=0, lt=1, description="share of the puzzles held out, by multiset")
    held_out: list[str] = Field(default_factory=list, description="puzzles that are always held out")

    @field_validator("held_out")
    @classmethod
    def _normal_form(cls, puzzles: list[str]) -> list[str]:
        try:
            return [validate_question(puzzle) for puzzle in puzzles]
        except UsageError as error:
            raise ValueError(str(error)) from error


# -- the game ---------------------------------------------------------------------------------------------


def moves(state: State) -> list[tuple[str, State]]:
    """Every legal step from ``state``: its text and the numbers that are then left."""
    found: dict[str, State] = {}
    for i in range(len(state)):
        for j in range(len(state)):
            if i == j:
                continue
            a, b = state[i], state[j]
            rest = [state[k] for k in range(len(state)) if k not in (i, j)]
            for op in "+*-/":
                if (op in "+*" and i > j) or (op == "/" and b == 0):
                    continue
                value = {"+": a + b, "*": a * b, "-": a - b}[op] if op != "/" else a / b
                left = (*rest, value)
                found.setdefault(_step(a, op, b, value, left), left)
    return list(found.items())


def plain_moves(state: State, want_alive: bool) -> list[tuple[str, State]]:
    """Steps that keep 24 reachable, or lose it; those with whole results where there are any, then with positive."""
    found = [(text, left) for text, left in moves(state) if alive(left) == want_alive]
    positive = [m for m in found if min(m[1]) >= 0]
    whole = [m for m in positive if all(n.denominator == 1 for n in m[1])]
    return whole or positive or found


def alive(state: State) -> bool:
    """Whether 24 can still be reached."""
    return _alive(tuple(sorted(state)))


@cache
def _alive(state: State) -> bool:
    if len(state) == 1:
        return state[0] == TARGET
    return any(_alive(left) for left in {tuple(sorted(left)) for _, left in moves(state)})


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
    state = _state(question)
    for line in lines:
        if not re.fullmatch(STEP, line):
            return None
        match = [left for text, left in moves(state) if _same_step(text, line)]
        if not match:
            return None
        state = match[0]
    return state


def check(question: str, response: str) -> bool | None:
    """Whether every line is a legal step and only 24 is left in the end."""
    lines = [line.strip() for line in response.strip().splitlines() if line.strip()]
    return bool(lines) and follow(question, lines) == (TARGET,)


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
    system = "Make 24." + (f" {persona}" if persona else "")
    peers = "\nPeers:\n" + "\n".join(board) if board else ""
    return [{"role": "system", "content": system}, {"role": "user", "content": question + peers}]


# -- rows -------------------------------------------------------------------------------------------------


def load(options: Options, seed: int, base: Path | None = None) -> TaskData:
    """Rows generated from the puzzles alone; the same options and seed give the same rows."""
    parts = split(options)
    sft, pairs, prompts = {}, {}, {}
    for name, share in (("train", 1.0), ("validation", 0.1)):
        rng = random.Random(f"{seed}/{name}")
        by_size = {n: [p for p in parts[name] if p.count(" ") == n - 1] for n in (3, 4)}

        def draw(rng: random.Random = rng, by_size: dict[int, list[str]] = by_size) -> str:
            return rng.choice(by_size[3 if rng.random() < options.three else 4])

        sft[name] = [_line(rng, draw(), options) for _ in range(max(4, int(options.lines * share)))]
        pairs[name] = [_pair(rng, draw()) for _ in range(max(4, int(options.pairs * max(share, 0.2))))]
        prompts[name] = _prompts(rng, by_size, options)
    # held-out puzzles that the recipe names come first, so that they are among those that are evaluated
    prompts["validation"].sort(key=lambda row: row["id"] not in options.held_out)
    note = (
        f"{len(parts['train'])} puzzles to learn from, {len(parts['validation'])} held out for validation, "
        f"{len(test_puzzles())} test puzzles of the Tree of Thoughts paper in neither"
    )
    return TaskData(sft, pairs, prompts, [note])


def _prompts(rng: random.Random, by_size: dict[int, list[str]], options: Options) -> list[Row]:
    three = rng.sample(by_size[3], min(len(by_size[3]), int(options.prompts * options.three)))
    # there are few puzzles of three numbers: no more of four than keeps the share
    most = round(len(three) / options.three * (1 - options.three)) if options.three else options.prompts
    four = rng.sample(by_size[4], min(len(by_size[4]), options.prompts - len(three), most))
    rows = [{"id": p, "question": p, "prompt": prompt(p)} for p in three + four]
    rng.shuffle(rows)
    return rows


def _line(rng: random.Random, puzzle: str, options: Options) -> Row:
    """A supervised row. Steps that go wrong stand in ``prefix``, where no loss is taken: only leaving is learned."""
    board = _board(rng, puzzle) if rng.random() < options.board else []
    row: Row = {"prompt": prompt(puzzle, board)}
    if rng.random() < options.wrong:
        lines, state = _wrong_line(rng, puzzle)
        row["prefix"] = "".join(f"{line}\n" for line in lines)
        row["completion"] = LEAVE + _reason(state)
    else:
        row["completion"] = "\n".join(_walk(rng, _state(puzzle), want_alive=True))
    return row


def _walk(rng: random.Random, state: State, want_alive: bool) -> list[str]:
    """Random steps to the end, all of them alive or all of them dead."""
    lines: list[str] = []
    while len(state) > 1:
        text, state = rng.choice(plain_moves(state, want_alive))
        lines.append(text)
    return lines


def _wrong_line(rng: random.Random, puzzle: str) -> tuple[list[str], State]:
    """Steps that lose 24 at a random point and go on until one or two numbers are left."""
    lines: list[str] = []
    state = _state(puzzle)
    stop = rng.choice((1, 2))
    while len(state) > stop:
        dead, sound = plain_moves(state, False), plain_moves(state, True)
        must_die = len(state) == stop + 1
        pool = dead if dead and (must_die or not sound or rng.random() < 0.5) else sound
        text, state = rng.choice(pool)
        lines.append(text)
    return (lines, state) if not alive(state) else _wrong_line(rng, puzzle)


def _reason(state: State) -> str:
    left = _numbers(state)
    return f"{left} is not 24" if len(state) == 1 else f"{left} cannot make 24"


def _board(rng: random.Random, puzzle: str) -> list[str]:
    """A step from each of one or two peers' lines, which may be sound or not."""
    return [rng.choice(_peer_line(rng, puzzle)) for _ in range(rng.choice((1, 2)))]


def _peer_line(rng: random.Random, puzzle: str) -> list[str]:
    return _walk(rng, _state(puzzle), want_alive=True) if rng.random() < 0.5 else _wrong_line(rng, puzzle)[0]


def _pair(rng: random.Random, puzzle: str) -> Row:
    """After the same steps: a step that keeps 24 reachable against one that does not, or that is not legal.

    One pair in five is about leaving: right when 24 is lost, wrong while it can be reached.
    """
    state = _state(puzzle)
    if rng.random() < 0.1:
        lines, state = _wrong_line(rng, puzzle)
        if len(state) == 1:  # go back one step, so that going on is possible
            lines, state = lines[:-1], follow(puzzle, lines[:-1]) or state
        if not alive(state):
            return _pair_row(puzzle, lines, LEAVE + _reason(state), rng.choice(plain_moves(state, False))[0])
        state = _state(puzzle)
    lines = []
    for _ in range(rng.randrange(len(state) - 1)):
        text, state = rng.choice(plain_moves(state, True))
        lines.append(text)
    good = rng.choice(plain_moves(state, True))
    dead = [text for text, _ in plain_moves(state, False)]
    kind = rng.random()
    if kind < 0.1:
        bad = LEAVE + _reason(state)
    elif kind < 0.45 or not dead:
        bad = _illegal(rng, state, good[0])
    else:
        bad = rng.choice(dead)
    return _pair_row(puzzle, lines, good[0], bad)


def _illegal(rng: random.Random, state: State, good: str) -> str:
    """A line that looks like a step and breaks the rules: a wrong result, or numbers that are not there."""
    a, op, b, value, left = _parse(rng.choice(plain_moves(state, rng.random() < 0.5) or moves(state))[0])
    if rng.random() < 0.5:  # the wished-for result of another operation
        value, left = _parse(good)[3:]
        line = _step(a, op, b, value, left)
    else:
        wrong = value + rng.choice((-3, -2, -1, 1, 2, 3))
        line = _step(a, op, b, wrong, (*left[:-1], wrong))
    return line if not any(_same_step(text, line) for text, _ in moves(state)) else _illegal(rng, state, good)


def _pair_row(puzzle: str, lines: list[str], chosen: str, rejected: str) -> Row:
    return {
        "prompt": prompt(puzzle),
        "chosen": "\n".join([*lines, chosen]),
        "rejected": "\n".join([*lines, rejected]),
    }


# -- text -------------------------------------------------------------------------------------------------


def _numbers(values: Sequence[Fraction]) -> str:
    return " ".join(map(str, values))


def _step(a: Fraction, op: str, b: Fraction, value: Fraction, left: State) -> str:
    return f"{a} {op} {b} = {value} (left: {_numbers(left)})"


def _parse(line: str) -> tuple[Fraction, str, Fraction, Fraction, State]:
    a, op, b, _, value = line.split(" (")[0].split(" ")
    left = line.split("(left: ")[1].rstrip(")").split(" ")
    return Fraction(a), op, Fraction(b), Fraction(value), tuple(map(Fraction, left))


def _same_step(legal: str, line: str) -> bool:
    """Equal but for the order of a sum's or product's terms, the order of the numbers left, and 6/3 for 2."""
    try:
        a, op, b, value, left = _parse(line)
    except (ValueError, ZeroDivisionError):
        return False
    terms = {(a, b), (b, a)} if op in "+*" else {(a, b)}
    x, legal_op, y, result, rest = _parse(legal)
    return op == legal_op and (x, y) in terms and value == result and sorted(left) == sorted(rest)


def _state(question: str) -> State:
    return tuple(sorted(Fraction(word) for word in question.split()))


def _hash(puzzle: str, salt: str = "test") -> str:
    return hashlib.sha256(f"game24/{salt}/{puzzle}".encode()).hexdigest()[:16]
