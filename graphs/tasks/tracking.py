"""Object tracking: people carry objects and containers through rooms; in which room is an object in the end?

In the manner of the tracking puzzles of bAbI (Weston et al. 2015, arXiv 1502.05698) and BIG-bench (arXiv 2206.04615).
A question says where all things are, then the moves, then asks: "Bob is in the hall. The cup is in the hall. The ball
is in the hall. Bob puts the ball into the cup. Bob turns the cup upside down and back. Which room is the ball in?" A
response states after each move where everything is, one move a line, and ends in the room:
``Bob in hall, cup in hall, ball in cup``, ``Bob in hall, cup in hall, ball in hall``, ``ANSWER: hall``.

The rules: what someone holds goes where he goes, and what is in a container goes where that goes. People handle what
lies in their room or what they hold themselves, and give only to someone in the same room. A container holds objects
and no containers; turned upside down, it drops them on the floor of its room, whoever holds it.

Questions are split by what happens to the things that are moved or asked for, whatever they and the rooms are called.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

from pydantic import Field, field_validator, model_validator

from alignment.errors import UsageError
from graphs.tasks import TaskData, generated
from graphs.tasks.generated import ANSWER, LEAVE

__all__ = ["ANSWER", "LEAVE", "STEP", "Options", "check", "load", "prompt", "solution", "validate_question"]

FACT = "[A-Za-z]+ (?:in|with) [A-Za-z]+"
STEP = rf"{FACT}(?:, {FACT})*"
EXAMPLE = '"Bob is in the hall. The ball is in the hall. Bob picks up the ball. Which room is the ball in?"'

PEOPLE = ("Ann", "Bob", "Cleo", "Dev", "Emma", "Finn")
CONTAINERS = ("cup", "box", "bag", "jar", "basket", "bucket")
OBJECTS = ("ball", "key", "coin", "ring", "pen", "apple")
ROOMS = ("kitchen", "garden", "hall", "attic", "cellar", "office")

ASKED = r"Which room is the ([a-z]+) in\?"
MOVES = {  # verb -> sentence; p and q are people, t a container or object, c a container, o an object, r a room
    "walk": "{p} walks to the {r}.",
    "pick": "{p} picks up the {t}.",
    "drop": "{p} puts down the {t}.",
    "give": "{p} gives the {t} to {q}.",
    "put": "{p} puts the {o} into the {c}.",
    "take": "{p} takes the {o} out of the {c}.",
    "tip": "{p} turns the {c} upside down and back.",
}
PARTS = {"p": PEOPLE, "q": PEOPLE, "c": CONTAINERS, "o": OBJECTS, "t": (*CONTAINERS, *OBJECTS), "r": ROOMS}

PLACED = rf"((?:{'|'.join(PEOPLE)})|The (?:{'|'.join((*CONTAINERS, *OBJECTS))})) is in the ({'|'.join(ROOMS)})\."

Places = dict[str, str]  # person, container or object -> the room, person or container that it is in or with
Move = tuple[str, ...]  # the verb, then the words of its sentence in their order


WORDS = {part: "|".join(names) for part, names in PARTS.items()}
PATTERNS = {verb: generated.pattern(template, WORDS) for verb, template in MOVES.items()}


class Options(generated.Sizes):
    """What tracking is learned from. A step names everything: with more things, raise council.max_tokens_per_step."""

    people: int = Field(2, ge=1, le=4, description="people in a question")
    containers: int = Field(1, ge=1, le=4, description="containers in a question")
    objects: int = Field(1, ge=1, le=4, description="objects in a question")
    rooms: int = Field(3, ge=2, le=6, description="rooms in a question")
    min_moves: int = Field(2, ge=1, le=12, description="fewest moves of a question")
    max_moves: int = Field(6, ge=1, le=12, description="most moves of a question")

    @field_validator("held_out")
    @classmethod
    def _normal_form(cls, questions: list[str]) -> list[str]:
        return generated.normal_forms(questions, validate_question)

    @model_validator(mode="after")
    def _ranges(self) -> Options:
        if self.min_moves > self.max_moves:
            raise ValueError("min_moves is above max_moves")
        return self


# -- the task's contract ----------------------------------------------------------------------------------


def load(options: Options, seed: int, base: Path | None = None) -> TaskData:
    """Generated rows; the same options and seed give the same rows. Raises UsageError where the options leave no
    question for a split."""
    maker = generated.slip_maker(lambda rng: draw(rng, options), key, prompt, solution, slip, options.wrong)
    return generated.generate(maker, options, seed)


def prompt(question: str, board: Sequence[str] = (), persona: str = "") -> list[dict[str, str]]:
    """The messages for one expert. ``board``: steps that peers have shared."""
    return generated.messages("Say after each move where everything is.", question, board, persona)


def check(question: str, response: str) -> bool | None:
    """Whether the lines say where everything is after each move, in any order within a line, and then the room."""
    lines, right = generated.written(response), solution(question)
    return len(lines) == len(right) and all(map(same_line, right, lines))


def reachable(question: str, steps: Sequence[str]) -> bool:
    """Whether ``steps`` say so far where everything is."""
    return generated.begins(solution(question), steps, same_line)


def validate_question(question: str) -> str:
    """The question in its normal form, one blank between words; raises UsageError where a sentence is not one of the
    task's or a move is not possible."""
    question = " ".join(question.split())
    if not question:
        raise UsageError(f"the question is empty; give one such as {EXAMPLE}")
    solution(question)
    return question


# -- the world --------------------------------------------------------------------------------------------


def solution(question: str) -> list[str]:
    """The lines that answer a question: the places after each move, then the room. Raises UsageError."""
    start, moves, asked = read(question)
    states = track(start, moves)
    return [*map(_text, states), ANSWER + room_of(states[-1], asked)]


def read(question: str) -> tuple[Places, list[Move], str]:
    """Where things are at first, the moves, and the object asked for. Raises UsageError where it is no question."""
    told = re.findall(r"\S[^.?]*[.?]", question)
    sentences = list(told)
    places: Places = {}
    while sentences and (found := re.fullmatch(PLACED, sentences[0])):
        name = found[1].removeprefix("The ")
        if name in places:
            raise UsageError(f'"{sentences[0]}" places {name} for the second time')
        places[name] = found[2]
        sentences.pop(0)
    asked = re.fullmatch(ASKED, sentences[-1]) if sentences else None
    if asked is None or asked[1] not in OBJECTS or asked[1] not in places or " ".join(told) != question:
        raise UsageError(f"the question must end by asking for an object that it has placed, for example {EXAMPLE}")
    moves = [_move(sentence) for sentence in sentences[:-1]]
    if not moves:
        raise UsageError(f"the question has no move; give one such as {EXAMPLE}")
    return places, moves, asked[1]


def track(places: Places, moves: Sequence[Move]) -> list[Places]:
    """The places after each move. Raises UsageError for a move that is not possible."""
    states = []
    for move in moves:
        after = apply(places, move)
        if after is None:
            raise UsageError(f'"{_sentence(move)}" is not possible there: {_text(places)}')
        states.append(places := after)
    return states


def apply(places: Places, move: Move) -> Places | None:
    """The places after one move, or None where it is not possible."""
    verb, person, *names = move
    if not {person, *(name for name in names if name not in ROOMS)} <= places.keys():
        return None
    near = (room := places[person], person)  # places within reach
    match verb, names:
        case "walk", [to] if to != room:
            return places | {person: to}
        case "pick", [thing] if places[thing] == room:
            return places | {thing: person}
        case "drop", [thing] if places[thing] == person:
            return places | {thing: room}
        case "give", [thing, other] if places[thing] == person != other and places[other] == room:
            return places | {thing: other}
        case "put", [thing, container] if places[thing] in near and places[container] in near:
            return places | {thing: container}
        case "take", [thing, container] if places[thing] == container and places[container] in near:
            return places | {thing: person}
        case "tip", [container] if places[container] in near:
            return places | {thing: room for thing, place in places.items() if place == container}
    return None


def room_of(places: Places, thing: str) -> str:
    """The room that a thing is in, through who or what it is with."""
    while thing in places:
        thing = places[thing]
    return thing


def key(question: str) -> str:
    """A question without names: people, things and rooms are numbered as they appear in the moves. Who and what is
    neither moved nor asked for is left out, since nothing depends on it."""
    places, moves, asked = read(question)
    names = [name for move in moves for name in move[1:]] + [asked]
    active = [name for name in dict.fromkeys(names) if name in places]
    number = {name: str(i) for i, name in enumerate(dict.fromkeys([*active, *(places[a] for a in active), *names]))}
    kinds = "".join("p" if name in PEOPLE else "c" if name in CONTAINERS else "o" for name in active)
    starts = " ".join(number[places[name]] for name in active)
    told = "; ".join(" ".join([move[0], *(number[name] for name in move[1:])]) for move in moves)
    return f"{kinds}: {starts}: {told}: {number[asked]}"


def draw(rng: random.Random, options: Options) -> str:
    """A question of ``min_moves`` to ``max_moves`` moves, each of which changes a place."""
    rooms = rng.sample(ROOMS, options.rooms)
    people, objects = rng.sample(PEOPLE, options.people), rng.sample(OBJECTS, options.objects)
    # most ask for an object that was carried elsewhere: otherwise its first room would nearly always be the answer
    away = rng.random() < 0.7
    for _ in range(30):
        start = {name: rng.choice(rooms) for name in (*people, *rng.sample(CONTAINERS, options.containers), *objects)}
        moves, end = _wander(rng, start, rooms, rng.randint(options.min_moves, options.max_moves))
        fit = [o for o in objects if (room_of(end, o) != start[o] if away else any(o in move for move in moves))]
        if fit:
            break
    asked = rng.choice(fit or objects)
    setup = [f"{name if name in PEOPLE else f'The {name}'} is in the {room}." for name, room in start.items()]
    return " ".join([*setup, *map(_sentence, moves), f"Which room is the {asked} in?"])


def _wander(rng: random.Random, places: Places, rooms: Sequence[str], count: int) -> tuple[list[Move], Places]:
    moves: list[Move] = []
    while len(moves) < count:
        verb = rng.choice(list(MOVES))  # the verb first: there are many more walks than other moves
        if legal := [move for move in _moves(verb, places, rooms) if apply(places, move) not in (None, places)]:
            moves.append(rng.choice(legal))
            places = apply(places, moves[-1]) or places
    return moves, places


def _moves(verb: str, places: Places, rooms: Sequence[str]) -> Iterator[Move]:
    words = re.findall(r"\{(\w)\}", MOVES[verb])
    pools = [rooms if word == "r" else [name for name in PARTS[word] if name in places] for word in words]
    return ((verb, *names) for names in product(*pools))


# -- slips ------------------------------------------------------------------------------------------------


def slip(question: str) -> generated.Slip:
    """What makes a wrong text of a line: the move was overlooked, or one thing is said to be elsewhere; for the answer,
    another room."""
    start, moves, asked = read(question)
    states = [start, *track(start, moves)]

    def wrong(rng: random.Random, at: int) -> str:
        if at == len(moves):
            return ANSWER + rng.choice([room for room in ROOMS if room != room_of(states[-1], asked)])
        before, after = states[at], states[at + 1]
        if before != after and rng.random() < 0.5:
            return _text(before)
        thing = rng.choice(list(after))
        holders = () if thing in PEOPLE else PEOPLE if thing in CONTAINERS else (*PEOPLE, *CONTAINERS)
        known = {*start.values(), *after.values(), *(name for name in holders if name in after)}
        others = [name for name in (*ROOMS, *holders) if name in known and name != after[thing]]
        return _text(after | {thing: rng.choice(others or [room for room in ROOMS if room != after[thing]])})

    return wrong


# -- text -------------------------------------------------------------------------------------------------


def same_line(right: str, line: str) -> bool:
    """Equal but for the order of the facts."""
    return sorted(right.split(", ")) == sorted(line.split(", "))


def _text(places: Places) -> str:
    return ", ".join(f"{name} {'with' if at in PEOPLE else 'in'} {at}" for name, at in places.items())


def _sentence(move: Move) -> str:
    names = iter(move[1:])
    return re.sub(r"\{\w\}", lambda _: next(names), MOVES[move[0]])


def _move(sentence: str) -> Move:
    for verb, pattern in PATTERNS.items():
        if match := pattern.fullmatch(sentence):
            return (verb, *match.groups())
    raise UsageError(f'"{sentence}" is no move of this task; give a question such as {EXAMPLE}')
