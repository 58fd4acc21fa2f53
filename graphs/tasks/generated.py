"""Rows of tasks whose questions are drawn at random: sizes, prompts, the split by content, and slips in a known
solution.

Not a task itself.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import Field

from alignment.config import Settings
from alignment.errors import UsageError
from graphs.tasks import Row, Splits, TaskData

LEAVE = "LEAVE: "
ANSWER = "ANSWER: "
TRIES = 200  # draws per question that is wanted, before the options are said to be too narrow

Slip = Callable[[random.Random, int], str]  # a wrong text for the line of that index


class Sizes(Settings):
    """What every generated task is sized by. Sizes are numbers of rows."""

    lines: int = Field(1000, ge=4, description="supervised rows")
    pairs: int = Field(600, ge=4, description="preference pairs of steps")
    prompts: int = Field(256, ge=2, description="questions for PPO, repeated in a new order when they run out")
    wrong: float = Field(0.15, ge=0, le=1, description="share of supervised rows that end in LEAVE")
    board: float = Field(0.15, ge=0, le=1, description="share of supervised rows that show peers' steps")
    validation: float = Field(0.2, gt=0, lt=1, description="share of the questions held out, by content")
    test: float = Field(0.0, ge=0, lt=1, description="share of the questions kept for the test, beside validation")
    held_out: list[str] = Field(default_factory=list, description="questions that are always held out")


def normal_forms(questions: Sequence[str], validate: Callable[[str], str]) -> list[str]:
    """The questions as ``validate`` writes them; what it refuses raises ValueError, which pydantic hears."""
    try:
        return [validate(question) for question in questions]
    except UsageError as error:
        raise ValueError(str(error)) from error


def messages(system: str, question: str, board: Sequence[str], persona: str) -> list[dict[str, str]]:
    """The messages for one expert: the persona after the system text, the peers' steps after the question."""
    peers = "\nPeers:\n" + "\n".join(board) if board else ""
    return [
        {"role": "system", "content": f"{system} {persona}" if persona else system},
        {"role": "user", "content": question + peers},
    ]


def pattern(template: str, parts: Mapping[str, str]) -> re.Pattern[str]:
    """What reads a sentence of a template: each ``{name}`` is a group of that name, the expression ``parts[name]``."""
    return re.compile(re.sub(r"\\{(\w+)\\}", lambda found: f"(?P<{found[1]}>{parts[found[1]]})", re.escape(template)))


@dataclass(frozen=True)
class Maker:
    """How one task makes its rows. ``key`` is equal for questions that are the same problem in other words."""

    draw: Callable[[random.Random], str]
    key: Callable[[str], str]
    line: Callable[[random.Random, str], Row]  # "completion", and "prefix" where it went wrong before
    pair: Callable[[random.Random, str], Row]  # "chosen" and "rejected"
    peers: Callable[[random.Random, str], list[str]]  # steps that peers could have shared
    prompt: Callable[[str, Sequence[str]], list[dict[str, str]]]


def generate(maker: Maker, options: Sizes, seed: int) -> TaskData:
    """Rows of both splits, and prompts of the test where the options keep a share for it; the same options and seed
    give the same rows. A hash of a question's key decides its split, whatever the seed. Raises UsageError where the
    options leave no question for a split."""
    held_out = {maker.key(question) for question in options.held_out}
    sft: Splits = {}
    pairs: Splits = {}
    prompts: Splits = {}
    for name, share in (("train", 1.0), ("validation", 0.1)):
        rng = random.Random(f"{seed}/{name}")
        # validation begins with the questions that the recipe names, so that they are among those evaluated
        named = {maker.key(q): q for q in options.held_out} if name == "validation" else {}
        asked = named | _questions(rng, maker, options, held_out, name, options.prompts - len(named))

        def draw(rng: random.Random = rng, name: str = name) -> str:
            found = _questions(rng, maker, options, held_out, name, 1)
            return next(iter(found.values()))

        sft[name] = [_line(rng, maker, draw(), options) for _ in range(max(4, int(options.lines * share)))]
        pairs[name] = [_pair(rng, maker, draw()) for _ in range(max(4, int(options.pairs * max(share, 0.2))))]
        prompts[name] = _prompts(maker, asked)
    if options.test:
        rng = random.Random(f"{seed}/test")
        prompts["test"] = _prompts(maker, _questions(rng, maker, options, held_out, "test", options.prompts))
    note = (
        f"{len(prompts['train'])} questions to learn from by PPO, {len(prompts['validation'])} held out for validation"
    )
    return TaskData(sft, pairs, prompts, [note])


def split_of(place: float, validation: float, test: float) -> str:
    """The split of what a hash puts at ``place``, from 0 to 1: train, validation, or test in the band after it. A test
    split that is asked for later takes its rows from train alone."""
    return "validation" if place < validation else "test" if place < validation + test else "train"


def place_of(key: str) -> float:
    return int(hashlib.sha256(f"validation/{key}".encode()).hexdigest()[:16], 16) / 16**16


def _prompts(maker: Maker, asked: Mapping[str, str]) -> list[Row]:
    return [{"id": q, "question": q, "prompt": maker.prompt(q, ())} for q in asked.values()]


def _questions(
    rng: random.Random, maker: Maker, options: Sizes, held_out: set[str], name: str, count: int
) -> dict[str, str]:
    """Different questions of one split by key: ``count`` of them, or fewer where the options allow no more."""
    found: dict[str, str] = {}
    for _ in range(TRIES * max(count, 1)):
        if len(found) >= count:
            return found
        question = maker.draw(rng)
        key = maker.key(question)
        if key not in held_out and split_of(place_of(key), options.validation, options.test) == name:
            found.setdefault(key, question)
    if not found:
        raise UsageError(f"the options under data: leave no question for {name}; widen their ranges")
    return found


def _line(rng: random.Random, maker: Maker, question: str, options: Sizes) -> Row:
    board = maker.peers(rng, question) if rng.random() < options.board else []
    return {"prompt": maker.prompt(question, board), **maker.line(rng, question)}


def _pair(rng: random.Random, maker: Maker, question: str) -> Row:
    return {"prompt": maker.prompt(question, ()), **maker.pair(rng, question)}


# -- tasks whose solution is one list of lines ------------------------------------------------------------


def slip_maker(
    draw: Callable[[random.Random], str],
    key: Callable[[str], str],
    prompt: Callable[[str, Sequence[str]], list[dict[str, str]]],
    solution: Callable[[str], list[str]],
    slip: Callable[[str], Slip],
    wrong: float,
) -> Maker:
    """Rows made of a question's solution and of slips in it; ``wrong`` is the share of lines that end in LEAVE."""
    return Maker(
        draw=draw,
        key=key,
        line=lambda rng, question: slip_line(rng, solution(question), slip(question), wrong),
        pair=lambda rng, question: slip_pair(rng, solution(question), slip(question)),
        peers=lambda rng, question: slip_peers(rng, solution(question), slip(question)),
        prompt=prompt,
    )


def slip_line(rng: random.Random, right: Sequence[str], slip: Slip, wrong: float) -> Row:
    """The right lines; or, with the probability ``wrong``, a LEAVE line after a slip that takes no loss."""
    if rng.random() >= wrong:
        return {"completion": "\n".join(right)}
    at = rng.randrange(len(right) - 1)  # the last line is the answer, after which nobody leaves
    lines = [*right[:at], slip(rng, at)]
    return {"prefix": "".join(f"{line}\n" for line in lines), "completion": _leave(right[at])}


def slip_pair(rng: random.Random, right: Sequence[str], slip: Slip) -> Row:
    """After the same right lines, the right next line against one with a slip; or, in one pair of ten, leaving after a
    slip against going on as if nothing had happened; or, as often, going on against leaving without a reason."""
    at = rng.randrange(len(right))
    lines, good, bad = list(right[:at]), right[at], slip(rng, at)
    kind = rng.random()
    if kind < 0.1 and at < len(right) - 1:
        lines, good, bad = [*lines, bad], _leave(good), right[at + 1]
    elif kind < 0.2:
        bad = _leave(good)
    return {"chosen": "\n".join([*lines, good]), "rejected": "\n".join([*lines, bad])}


def slip_peers(rng: random.Random, right: Sequence[str], slip: Slip) -> list[str]:
    """A step from each of one or two peers' lines, which may be right or not; never the answer."""
    at = [rng.randrange(len(right) - 1) for _ in range(rng.choice((1, 2)))]
    return [right[i] if rng.random() < 0.5 else slip(rng, i) for i in at]


def _leave(right: str) -> str:
    return f"{LEAVE}it should be {right}"


def written(response: str) -> list[str]:
    """The lines of a response without blanks around them; empty lines are left out."""
    return [line.strip() for line in response.strip().splitlines() if line.strip()]


def begins(right: Sequence[str], lines: Sequence[str], same: Callable[[str, str], bool]) -> bool:
    """Whether ``lines`` are the first of the ``right`` ones."""
    return len(lines) <= len(right) and all(map(same, right, lines))
