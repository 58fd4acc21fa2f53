"""Multi-step arithmetic word chains, after the grade-school problems of GSM8K (Cobbe et al. 2021, arXiv 2110.14168).

A question is a little story made of templates: "Ana has 12 pencils. She buys 3 boxes of 4 pencils. How many pencils
does Ana have?" A response follows the story, one operation a line with the unit of its result, and ends in the answer:
``3 * 4 = 12 pencils``, ``12 + 12 = 24 pencils``, ``ANSWER: 24``. The steps of a story have one order; a sum's or
product's terms may change places. Every number is whole and above 0. A trade changes the unit of what follows.

Questions are split by their chain of operations and numbers, whatever the names, units and verbs.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from pydantic import Field, field_validator, model_validator

from alignment.errors import UsageError
from graphs.tasks import TaskData, generated
from graphs.tasks.generated import ANSWER, LEAVE

__all__ = ["ANSWER", "LEAVE", "STEP", "Options", "check", "load", "prompt", "solution", "validate_question"]

STEP = r"[1-9][0-9]* [-+*/] [1-9][0-9]* = [1-9][0-9]* [a-z]+"
EXAMPLE = '"Ana has 12 pencils. She buys 3 boxes of 4 pencils. How many pencils does Ana have?"'
MOST = 999  # of a result

NAMES = {
    "Ana": "She", "Ben": "He", "Carla": "She", "Dan": "He", "Eva": "She", "Finn": "He", "Gita": "She", "Hugo": "He",
}  # fmt: skip
UNITS = {  # plural -> singular
    "pencils": "pencil", "apples": "apple", "stickers": "sticker", "marbles": "marble", "cards": "card",
    "shells": "shell", "stamps": "stamp", "beads": "bead",
}  # fmt: skip

# kind -> sentence; {n} is the amount, {k} a count of groups, {u} the unit in hand, {one} its singular, {v} a new unit
EVENTS = {
    "buy": "{P} buys {k} boxes of {n} {u}.",
    "find": "{P} finds {n} {u}.",
    "get": "{P} gets {n} {u} from {friend}.",
    "give": "{P} gives {n} {u} to {friend}.",
    "lose": "{P} loses {n} {u}.",
    "treat": "{P} gives {n} {u} to each of {k} friends.",
    "share": "{P} puts the {u} into {k} equal bags and keeps one bag.",
    "trade": "{P} trades each {one} for {k} {v}.",
}
GROUPS = {"buy": "+", "treat": "-"}  # a product first, then the sum or difference
SINGLE = {"find": "+", "get": "+", "give": "-", "lose": "-"}
ALONE = {"share": "/", "trade": "*"}
PARTS = {
    "P": "She|He",
    "friend": "|".join(NAMES),
    "n": r"[1-9]\d{0,2}",
    "k": r"[1-9]\d?",
    "u": "[a-z]+",
    "one": "[a-z]+",
    "v": "[a-z]+",
}

Step = tuple[int, str, int, int, str]  # a, op, b, the result, its unit


PATTERNS = {kind: generated.pattern(template, PARTS) for kind, template in EVENTS.items()}


class Options(generated.Sizes):
    """What word chains are learned from."""

    min_steps: int = Field(3, ge=1, le=6, description="fewest operations of a question")
    max_steps: int = Field(6, ge=1, le=6, description="most operations of a question")
    largest: int = Field(20, ge=2, le=99, description="largest number in a question")

    @field_validator("held_out")
    @classmethod
    def _normal_form(cls, questions: list[str]) -> list[str]:
        return generated.normal_forms(questions, validate_question)

    @model_validator(mode="after")
    def _ranges(self) -> Options:
        if self.min_steps > self.max_steps:
            raise ValueError("min_steps is above max_steps")
        return self


# -- the task's contract ----------------------------------------------------------------------------------


def load(options: Options, seed: int, base: Path | None = None) -> TaskData:
    """Generated rows; the same options and seed give the same rows. Raises UsageError where the options leave no
    question for a split."""
    maker = generated.slip_maker(lambda rng: draw(rng, options), key, prompt, solution, slip, options.wrong)
    return generated.generate(maker, options, seed)


def prompt(question: str, board: Sequence[str] = (), persona: str = "") -> list[dict[str, str]]:
    """The messages for one expert. ``board``: steps that peers have shared."""
    return generated.messages("Solve step by step.", question, board, persona)


def check(question: str, response: str) -> bool | None:
    """Whether the lines are the steps of the story, in its order and with its units, and then the answer."""
    lines, right = generated.written(response), solution(question)
    return len(lines) == len(right) and all(map(same_line, right, lines))


def refute(question: str, steps: Sequence[str], finished: bool = False) -> str | None:
    """What is wrong with the last of ``steps`` without knowing the story: its arithmetic, or an answer that is not the
    result before it. A step on wrong numbers is not seen."""
    *before, last = steps
    if finished and not last.startswith(ANSWER):
        return "there is no answer"
    if re.fullmatch(STEP, last):
        a, op, b, _, value, _ = last.split(" ")
        right = Fraction(int(a), int(b)) if op == "/" else _value(int(a), op, int(b))
        return None if right == int(value) else f"{a} {op} {b} is {right}, not {value}"
    result = before[-1].split(" ")[4] if before and re.fullmatch(STEP, before[-1]) else None
    if last.startswith(ANSWER) and result and last.removeprefix(ANSWER).strip() != result:
        return f"the last result is {result}"
    return None


def reachable(question: str, steps: Sequence[str]) -> bool:
    """Whether ``steps`` are the story's so far."""
    return generated.begins(solution(question), steps, same_line)


def validate_question(question: str) -> str:
    """The story in its normal form, one blank between words; raises UsageError where a sentence, a unit or a number
    is not one that the templates could have written."""
    question = " ".join(question.split())
    if not question:
        raise UsageError(f"the question is empty; tell a story such as {EXAMPLE}")
    solution(question)
    return question


# -- stories ----------------------------------------------------------------------------------------------


def solution(question: str) -> list[str]:
    """The lines that solve a story: its steps, then the answer. Raises UsageError where it is no story."""
    lines = [_text(step) for step in steps(question)]
    return [*lines, ANSWER + lines[-1].split(" ")[4]]


def key(question: str) -> str:
    """A story without names, units and verbs: its operations and numbers, the terms of a sum or product in order."""
    return " ".join(
        f"{min(a, b)}{op}{max(a, b)}" if op in "+*" else f"{a}{op}{b}" for a, op, b, _, _ in steps(question)
    )


def steps(question: str) -> list[Step]:
    """The operations that a story asks for. Raises UsageError where it is no story."""
    sentences = re.findall(r"\S[^.?]*[.?]", question)
    first = re.fullmatch(r"([A-Z][a-z]+) has ([1-9]\d{0,2}) ([a-z]+)\.", sentences[0]) if sentences else None
    if first is None or first[1] not in NAMES or first[3] not in UNITS or " ".join(sentences) != question:
        raise UsageError(f"{_short(question)} is no story of this task; tell one such as {EXAMPLE}")
    name, amount, unit = first[1], int(first[2]), first[3]
    found: list[Step] = []
    for sentence in sentences[1:-1]:
        new, unit = _steps(sentence, NAMES[name], amount, unit)
        amount = new[-1][3]
        if not all(0 < step[3] <= MOST for step in new):
            raise UsageError(f'after "{sentence}" the number of {unit} is not one of 1..{MOST}')
        found += new
    if sentences[-1] != f"How many {unit} does {name} have?" or not found:
        raise UsageError(f'the story must end with "How many {unit} does {name} have?" after at least one event')
    return found


def _steps(sentence: str, pronoun: str, amount: int, unit: str) -> tuple[list[Step], str]:
    """The steps of one sentence and the unit after it."""
    for kind, pattern in PATTERNS.items():
        match = pattern.fullmatch(sentence)
        if match is None:
            continue
        parts = match.groupdict()
        same_unit = parts.get("u", unit) == unit and parts.get("one", UNITS[unit]) == UNITS[unit]
        if not same_unit or parts["P"] != pronoun or parts.get("v", unit) not in UNITS:
            raise UsageError(f'"{sentence}" does not go with {amount} {unit} of {"her" if pronoun == "She" else "him"}')
        n, k = int(parts.get("n") or 0), int(parts.get("k") or 0)
        if kind in SINGLE:
            return [_step(amount, SINGLE[kind], n, unit)], unit
        if kind in GROUPS:
            product = _step(k, "*", n, unit)
            return [product, _step(amount, GROUPS[kind], product[3], unit)], unit
        if kind == "share" and amount % k:
            raise UsageError(f'"{sentence}" does not work out: {amount} is no multiple of {k}')
        unit = parts.get("v", unit)
        return [_step(amount, ALONE[kind], k, unit)], unit
    raise UsageError(f'"{sentence}" is no sentence of this task; tell a story such as {EXAMPLE}')


def draw(rng: random.Random, options: Options) -> str:
    """A story of ``min_steps`` to ``max_steps`` operations. Each number is above 1, so that every operation counts."""
    name, friend = rng.sample(sorted(NAMES), 2)
    unit = rng.choice(sorted(UNITS))
    amount = rng.randint(2, options.largest)
    story = [f"{name} has {amount} {unit}."]
    wanted = rng.randint(options.min_steps, options.max_steps)
    while wanted:
        kind = rng.choice(list(EVENTS))
        new_unit = rng.choice([other for other in sorted(UNITS) if other != unit])
        n, k = rng.randint(2, options.largest), rng.randint(2, min(6, options.largest))
        parts = {"P": NAMES[name], "friend": friend, "n": n, "k": k, "u": unit, "one": UNITS[unit], "v": new_unit}
        sentence = EVENTS[kind].format(**parts)
        if kind == "share" and amount % k:
            continue
        new, after = _steps(sentence, NAMES[name], amount, unit)
        if len(new) > wanted or not all(0 < step[3] <= MOST for step in new):
            continue
        story.append(sentence)
        amount, unit, wanted = new[-1][3], after, wanted - len(new)
    return " ".join([*story, f"How many {unit} does {name} have?"])


# -- slips ------------------------------------------------------------------------------------------------


def slip(question: str) -> generated.Slip:
    """What makes a wrong text of a line: a slip of arithmetic, a wrong operand or operation with the right result for
    it, another unit, or, for the answer, another number."""
    right = steps(question)
    lines = solution(question)

    def wrong(rng: random.Random, at: int) -> str:
        while True:
            text = _slip_of_answer(rng, right) if at == len(right) else _slip_of_step(rng, right, at)
            if not same_line(lines[at], text):
                return text

    return wrong


def _slip_of_answer(rng: random.Random, right: Sequence[Step]) -> str:
    value = right[-1][3]
    earlier = [n for step in right for n in (step[0], step[2], step[3]) if n != value]
    return f"{ANSWER}{rng.choice([max(1, value + _error(rng)), *earlier])}"


def _slip_of_step(rng: random.Random, right: Sequence[Step], at: int) -> str:
    a, op, b, value, unit = right[at]
    kind = rng.choice(("arithmetic", "operand", "operation", "unit"))
    if kind == "arithmetic":
        value += _error(rng)
    elif kind == "operand":
        b = rng.choice([n for step in right for n in (step[0], step[2])])
        value = _value(a, op, b)
    elif kind == "operation":
        op = rng.choice("+-*/")
        value = _value(a, op, b)
    else:
        units = {step[4] for step in right} - {unit}
        unit = rng.choice(sorted(units or set(UNITS) - {unit}))
    # a step has numbers above 0 and no remainder: what has them not would be seen by its form alone
    exact = 0 < value <= 99 * MOST and (op != "/" or a % b == 0)
    return _text((a, op, b, value, unit)) if exact else _slip_of_step(rng, right, at)


def _error(rng: random.Random) -> int:
    return rng.choice((-10, -2, -1, 1, 2, 10))


# -- text -------------------------------------------------------------------------------------------------


def same_line(right: str, line: str) -> bool:
    """Equal but for the order of a sum's or product's terms."""
    if re.fullmatch(STEP, line) is None:
        return line == right
    a, op, b, rest = line.split(" ", 3)
    return right in ({line, f"{b} {op} {a} {rest}"} if op in "+*" else {line})


def _value(a: int, op: str, b: int) -> int:
    return {"+": a + b, "-": a - b, "*": a * b, "/": a // b}[op]


def _step(a: int, op: str, b: int, unit: str) -> Step:
    return a, op, b, _value(a, op, b), unit


def _text(step: Step) -> str:
    a, op, b, value, unit = step
    return f"{a} {op} {b} = {value} {unit}"


def _short(question: str) -> str:
    return repr(question if len(question) <= 60 else question[:57] + "...")
