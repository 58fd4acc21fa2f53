"""Games of reaching a target: each number is used exactly once, one operation per step, exact arithmetic.

A step is ``10 - 4 = 6 (left: 5 6 6)``; fractions are written ``8/3``. The Game of 24 and Countdown share these steps,
their solver and the lines and pairs that are learned from. Not a task itself.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import gcd
from typing import Any

from graphs.tasks import Row

NUMBER = r"-?[0-9]+(?:/[0-9]+)?"
STEP = rf"{NUMBER} [-+*/] {NUMBER} = {NUMBER} \(left: {NUMBER}(?: {NUMBER})*\)"
LEAVE = "LEAVE: "
JUDGED = {4: 7, 3: 4, 2: 2}  # legal steps that are judged after a place, by how many numbers are left there
SLIPS = 2  # and those that are not legal
FOLLOWED = 2  # of those that keep the target reachable, after which more are judged

State = tuple[Fraction, ...]  # the numbers left: those not yet used in their order, then the last result


@dataclass(frozen=True)
class Game:
    """What is to be reached. ``whole``: every result must be a positive whole number, as in Countdown."""

    target: Fraction
    whole: bool = False


# -- the game ---------------------------------------------------------------------------------------------


def moves(state: State, whole: bool = False) -> list[tuple[str, State]]:
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
                if whole and (value <= 0 or value.denominator != 1):
                    continue
                left = (*rest, value)
                found.setdefault(step_text(a, op, b, value, left), left)
    return list(found.items())


def plain_moves(state: State, want_alive: bool, game: Game) -> list[tuple[str, State]]:
    """Steps that keep the target reachable, or lose it; of these the whole ones if any, otherwise the positive."""
    found = [(text, left) for text, left in moves(state, game.whole) if alive(left, game) == want_alive]
    positive = [m for m in found if min(m[1]) >= 0]
    whole = [m for m in positive if all(n.denominator == 1 for n in m[1])]
    return whole or positive or found


def alive(state: Sequence[Fraction], game: Game) -> bool:
    """Whether the target can still be reached."""
    # whole numbers, and numerators with their denominators, are several times as fast as Fraction
    if game.whole:
        return _alive(tuple(sorted(map(int, state))), int(game.target), _whole)
    return _alive(tuple(sorted(map(Fraction.as_integer_ratio, state))), game.target.as_integer_ratio(), _ratios)


@lru_cache(1 << 18)
def _alive(state: tuple, target: Any, results: Callable[[Any, Any], set]) -> bool:
    if len(state) == 1:
        return state[0] == target
    for i in range(len(state)):
        for j in range(i):
            values = results(state[i], state[j])
            if len(state) == 2:
                return target in values
            rest = state[:j] + state[j + 1 : i] + state[i + 1 :]
            if any(_alive(tuple(sorted((*rest, value))), target, results) for value in values):
                return True
    return False


def _whole(a: int, b: int) -> set[int]:
    """What one operation makes of two positive whole numbers, of that what is positive and whole."""
    found = {a + b, a * b, a - b, b - a}
    found |= {x // y for x, y in ((a, b), (b, a)) if not x % y}
    return {value for value in found if value > 0}


def _ratios(a: tuple[int, int], b: tuple[int, int]) -> set[tuple[int, int]]:
    """What one operation makes of two fractions, in lowest terms."""
    (p, q), (r, s) = a, b
    found = {(p * s + r * q, q * s), (p * r, q * s), (p * s - r * q, q * s), (r * q - p * s, q * s)}
    if r:
        found.add((p * s, q * r))
    if p:
        found.add((r * q, s * p))
    return {_lowest(*one) for one in found}


def _lowest(numerator: int, denominator: int) -> tuple[int, int]:
    divisor = gcd(numerator, denominator) * (-1 if denominator < 0 else 1)
    return numerator // divisor, denominator // divisor


def follow(state: State, lines: Sequence[str], whole: bool = False) -> State | None:
    """The numbers left after ``lines``, or None when a line is not a legal step."""
    for line in lines:
        if not re.fullmatch(STEP, line):
            return None
        match = [left for text, left in moves(state, whole) if same_step(text, line)]
        if not match:
            return None
        state = match[0]
    return state


def solves(state: State, response: str, game: Game) -> bool:
    """Whether every line of ``response`` is a legal step and only the target is left in the end."""
    lines = [line.strip() for line in response.strip().splitlines() if line.strip()]
    return bool(lines) and follow(state, lines, game.whole) == (game.target,)


def refute(start: State, steps: Sequence[str], game: Game, finished: bool) -> str | None:
    """What is wrong with the last of ``steps``, as far as it shows without looking ahead; None where it is legal and,
    at the end of a line, leaves the target alone."""
    state = follow(start, steps[:-1], game.whole)
    if state is None:
        return "an earlier step is not legal"
    try:
        a, op, b, value, left = parse_step(steps[-1])
    except (ValueError, IndexError, ZeroDivisionError):
        return f"{steps[-1]!r} is no step"
    for text, after in moves(state, game.whole):
        if same_step(text, steps[-1]):
            if len(after) > 1:
                return f"{len(after)} numbers are left" if finished else None
            return None if after[0] == game.target else f"{after[0]} is not {game.target}"
        x, legal_op, y, result, _ = parse_step(text)
        if (legal_op, x, y) == (op, a, b):
            wrong = f"{a} {op} {b} is {result}, not {value}"
            return wrong if value != result else f"what is left is {_numbers(after)}, not {_numbers(left)}"
    return f"{a} {op} {b} cannot be done with {_numbers(state)}"


def conclusion(answer: str) -> str:
    """What is left in the end, as the answer itself says: lines that claim to reach the same stand together."""
    return answer.rstrip().rpartition("(left: ")[2].rstrip(")")


# -- what is learned from ---------------------------------------------------------------------------------


def line_row(rng: random.Random, state: State, game: Game, wrong: float, results: bool = False) -> Row:
    """``completion`` of a supervised row: steps to the target, or, with the probability ``wrong``, a line LEAVE.

    Steps that go wrong stand in ``prefix``, where no loss is taken: only leaving is learned; and, with ``results``,
    what their operations give and what is left then, but never to choose them.
    """
    if rng.random() < wrong:
        lines, end = wrong_line(rng, state, game)
        pieces = [piece for line in lines for piece in _operation_and_result(line)]
        prefix: Any = pieces if results else "".join(text for text, _ in pieces)
        return {"prefix": prefix, "completion": leave(end, game)}
    return {"completion": "\n".join(walk(rng, state, True, game))}


def walk(rng: random.Random, state: State, want_alive: bool, game: Game) -> list[str]:
    """Random steps to the end, all of them alive or all of them dead."""
    lines: list[str] = []
    while len(state) > 1:
        text, state = rng.choice(plain_moves(state, want_alive, game))
        lines.append(text)
    return lines


def wrong_line(rng: random.Random, start: State, game: Game) -> tuple[list[str], State]:
    """Steps that lose the target at a random point and go on until one or two numbers are left."""
    lines: list[str] = []
    state = start
    stop = rng.choice((1, 2))
    while len(state) > stop:
        dead, sound = plain_moves(state, False, game), plain_moves(state, True, game)
        must_die = len(state) == stop + 1
        pool = dead if dead and (must_die or not sound or rng.random() < 0.5) else sound
        text, state = rng.choice(pool)
        lines.append(text)
    return (lines, state) if not alive(state, game) else wrong_line(rng, start, game)


def leave(state: State, game: Game) -> str:
    """The line with which a dead end is left."""
    return f"{LEAVE}{_numbers(state)} {'is not' if len(state) == 1 else 'cannot make'} {game.target}"


def board(rng: random.Random, start: State, game: Game) -> list[str]:
    """A step from each of one or two peers' lines, which may be sound or not."""

    def peer() -> list[str]:
        return walk(rng, start, True, game) if rng.random() < 0.5 else wrong_line(rng, start, game)[0]

    return [rng.choice(peer()) for _ in range(rng.choice((1, 2)))]


def pair(rng: random.Random, start: State, game: Game) -> Row:
    """``chosen`` and ``rejected``, which begin with the same steps: then a step that keeps the target reachable
    against one that does not, or that is not legal.

    One pair in five is about leaving: right when the target is lost, wrong while it can be reached.
    """
    state = start
    if rng.random() < 0.1:
        lines, state = wrong_line(rng, start, game)
        if len(state) == 1:  # go back one step, so that going on is possible
            lines, state = lines[:-1], follow(start, lines[:-1], game.whole) or state
        if not alive(state, game):
            return _pair(lines, leave(state, game), rng.choice(plain_moves(state, False, game))[0])
        state = start
    lines = []
    for _ in range(rng.randrange(len(state) - 1)):
        text, state = rng.choice(plain_moves(state, True, game))
        lines.append(text)
    good = rng.choice(plain_moves(state, True, game))
    dead = [text for text, _ in plain_moves(state, False, game)]
    kind = rng.random()
    if kind < 0.1:
        bad = leave(state, game)
    elif kind < 0.45 or not dead:
        bad = illegal(rng, state, good[0], game)
    else:
        bad = rng.choice(dead)
    return _pair(lines, good[0], bad)


def judged(rng: random.Random, start: State, game: Game) -> Row:
    """``responses``: beginnings of lines from ``start``, which share their first steps, and their ``scores``: 1 where
    all steps are legal and the target can still be reached, or 0. After a place some steps keep the target reachable,
    some lose it, and two are not legal; lines go on after some of the first kind, and one after a fault as if there
    were none."""
    found: dict[str, float] = {}

    def grow(lines: list[str], state: State) -> None:
        steps = _steps(rng, state, JUDGED[len(state)], game)
        rng.shuffle(steps)
        found.update({"\n".join([*lines, text]): float(sound) for text, _, sound in steps})
        if len(state) == 2:
            return
        for text, left, _ in [step for step in steps if step[2]][:FOLLOWED]:
            grow([*lines, text], left)
        for text, left, _ in [step for step in steps if not step[2]][:1]:
            after = [*lines, text]
            while len(left) > 1:
                text, left = rng.choice(plain_moves(left, True, game) + plain_moves(left, False, game))
                found["\n".join(after := [*after, text])] = 0.0

    grow([], start)
    return {"responses": list(found), "scores": list(found.values())}


def _steps(rng: random.Random, state: State, count: int, game: Game) -> list[tuple[str, State, bool]]:
    """Different steps from ``state``, what is left after each, and whether it is legal and keeps the target reachable:
    up to ``count`` legal ones, of which half do, as far as there are such, and ``SLIPS`` others."""
    good, bad = plain_moves(state, True, game), plain_moves(state, False, game)
    steps = [(*step, True) for step in rng.sample(good, min(len(good), (count + 1) // 2))]
    steps += [(*step, False) for step in rng.sample(bad, min(len(bad), count - len(steps)))]
    wrong = {slip(rng, state, game) for _ in range(SLIPS)}
    return steps + [(text, parse_step(text)[4], False) for text in sorted(wrong)]


def slip(rng: random.Random, state: State, game: Game) -> str:
    """A step that is not legal, as one writes it who wants to reach the target: a result that is wished for, a quotient
    that is rounded, a difference the wrong way round, a number that is not there, one that is left out or twice."""
    i, j = rng.sample(range(len(state)), 2)
    a, b, rest = state[i], state[j], [state[k] for k in range(len(state)) if k not in (i, j)]
    op = rng.choice("+-*/")
    value = {"+": a + b, "-": a - b, "*": a * b, "/": a / b if b else a}[op]
    left = [*rest, value]
    kind = rng.choice(("wish", "wish", "round", "round", "reverse", "foreign", "left"))
    if kind == "wish":
        wished = [Fraction(n) for n in range(1, 41) if alive((*rest, Fraction(n)), game)]
        left[-1] = value = rng.choice(wished or [game.target])
    elif kind == "round" and b:
        op, value = "/", Fraction(round(a / b))
        left[-1] = value
    elif kind == "reverse":
        op, value = "-", abs(a - b)
        a, b = min(a, b), max(a, b)
        left[-1] = value
    elif kind == "foreign":
        a += rng.choice([*map(Fraction, (-2, -1, 1, 2)), *rest])
        left[-1] = value = {"+": a + b, "-": a - b, "*": a * b, "/": a / b if b else a}[op]
    elif kind == "left":
        left = [*left[1:]] if rest and rng.random() < 0.5 else [rng.choice(state), *left]
    text = step_text(a, op, b, value, tuple(left))
    legal = not left or any(same_step(one, text) for one, _ in moves(state, game.whole))
    return slip(rng, state, game) if legal else text


def illegal(rng: random.Random, state: State, good: str, game: Game) -> str:
    """A line that looks like a step and breaks the rules: a wrong result, or numbers that are not there."""
    legal = moves(state, game.whole)
    a, op, b, value, left = parse_step(rng.choice(plain_moves(state, rng.random() < 0.5, game) or legal)[0])
    if rng.random() < 0.5:  # the wished-for result of another operation
        value, left = parse_step(good)[3:]
        line = step_text(a, op, b, value, left)
    else:
        wrong = value + rng.choice((-3, -2, -1, 1, 2, 3))
        line = step_text(a, op, b, wrong, (*left[:-1], wrong))
    return line if not any(same_step(text, line) for text, _ in legal) else illegal(rng, state, good, game)


def _pair(lines: list[str], chosen: str, rejected: str) -> Row:
    return {"chosen": "\n".join([*lines, chosen]), "rejected": "\n".join([*lines, rejected])}


# -- text -------------------------------------------------------------------------------------------------


def step_text(a: Fraction, op: str, b: Fraction, value: Fraction, left: State) -> str:
    return f"{a} {op} {b} = {value} (left: {_numbers(left)})"


def _operation_and_result(line: str) -> list[tuple[str, bool]]:
    """The two parts of a step, and whether a loss is taken on it."""
    operation, equals, result = line.partition(" = ")
    return [(operation, False), (f"{equals}{result}\n", True)]


def parse_step(line: str) -> tuple[Fraction, str, Fraction, Fraction, State]:
    """The terms, operation, result and numbers left of a step; raises ValueError where it is none."""
    a, op, b, _, value = line.split(" (")[0].split(" ")
    left = line.split("(left: ")[1].rstrip(")").split(" ")
    return Fraction(a), op, Fraction(b), Fraction(value), tuple(map(Fraction, left))


def same_step(legal: str, line: str) -> bool:
    """Equal but for the order of a sum's or product's terms, the order of the numbers left, and 6/3 for 2."""
    try:
        a, op, b, value, left = parse_step(line)
    except (ValueError, ZeroDivisionError):
        return False
    terms = {(a, b), (b, a)} if op in "+*" else {(a, b)}
    x, legal_op, y, result, rest = parse_step(legal)
    return op == legal_op and (x, y) in terms and value == result and sorted(left) == sorted(rest)


def start(numbers: str) -> State:
    """The numbers of a question, ascending."""
    return tuple(sorted(Fraction(word) for word in numbers.split()))


def _numbers(values: Sequence[Fraction]) -> str:
    return " ".join(map(str, values))
