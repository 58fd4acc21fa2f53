"""How an expert writes its steps: it calls its tools, reads what they gave, and writes one line each."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from langgraph.func import task

from agents.thought import Thought, call_line, read, step_grammar
from alignment.engine import Completion, Engine, Request
from graphs.asking import ask
from graphs.turns import Context, Part, Turn

if TYPE_CHECKING:
    from agents.tool_expert import Outcome

Event = dict[str, Any]
Call = dict[str, Any]

SPENT = "the council's tokens were spent before the step ended"
LATE = "the council's time was over before the step ended"

Written = list[tuple[Thought, Completion | None]]  # None: the time was over before it ended


def write_steps(
    turn: Turn,
    places: Sequence[Part],
    before: Written,
    limit: int,
    c: Context,
    tell: Callable[[Event], None],
) -> Written:
    """One step after each of ``places``, decoded together, unlike those that the turn wrote there ``before``. Each
    costs at most ``limit`` tokens, with its calls of tools."""
    expert = c.expert(turn["expert"])
    name = f"{expert.name}-{turn['round']}"
    names = [f"{name}.{k}" if k else name for k in range(len(before), len(before) + len(places))]
    seeds = [f"{c.config.seed}/{c.thread}/{thought}" for thought in names]
    about = {"expert": expert.name, "round": turn["round"]}
    prompt = c.task.prompt(turn["question"], turn["board"], expert.persona or c.persona)
    called = _called(prompt, turn, places, seeds, limit, c)
    for calls, _, _ in called:
        for call in calls:
            tell({"kind": "call", **about, "text": call_line(call)})
    requests = [
        Request(
            prompt,
            prefix="".join(f"{step}\n" for step in place["steps"]),
            role=expert.role,
            max_tokens=min(c.config.max_tokens_per_step, limit - spent),
            temperature=expert.temperature,
            min_p=expert.min_p,
            seed=seed,
            stop=("\n",),
            grammar=step_grammar(c.task.STEP),
            unlike=tuple(
                one
                for thought, one in before
                # two that leave in the same words do not repeat but agree
                if one and thought.parent == place["parent"] and thought.status != "left"
            ),
        )
        for place, seed, (_, spent, prompt) in zip(places, seeds, called, strict=True)
    ]
    pieces: list[list[str]] = [[] for _ in places]

    def piece(i: int, text: str) -> None:
        pieces[i].append(text)
        tell({"kind": "token", **about, "id": names[i], "parent": places[i]["parent"], "text": text})

    done: Sequence[Completion | None] = [None] * len(places)
    try:
        done = told(c.engine.streams(requests), piece, turn["until"])
        scarce = [request.max_tokens < c.config.max_tokens_per_step for request in requests]
        found = list(map(_read, done, scarce))
    except TimeoutError:  # only the pieces are known then, about one for each token
        cut = {"status": "pruned", "reason": LATE}
        found = [cut | {"text": "".join(texts).strip(), "tokens": len(texts)} for texts in pieces]
    thoughts = [
        Thought(id=name, parent=place["parent"], calls=calls, call_tokens=spent, **about, **one)
        for name, place, (calls, spent, _), one in zip(names, places, called, found, strict=True)
    ]
    return list(zip(thoughts, done, strict=True))


def _read(done: Completion, scarce: bool) -> dict[str, Any]:
    """What a thought has of its completion; ``scarce``: it was given fewer tokens than a step may have."""
    text, status, reason = read(done.text, done.finish)
    return {
        "text": text,
        "status": status,
        "reason": SPENT if scarce and status == "pruned" and done.finish == "length" else reason,
        "tokens": done.tokens,
        "read": done.read,
        "logprob": done.logprob if math.isfinite(done.logprob) else None,
    }


def _called(
    prompt: list[dict[str, str]],
    turn: Turn,
    places: Sequence[Part],
    seeds: Sequence[str],
    limit: int,
    c: Context,
) -> list[tuple[list[Call], int, list[dict[str, str]]]]:
    """For each place: the calls of the expert's tools, their tokens, and the prompt with what they gave."""
    expert = c.expert(turn["expert"])
    tools = c.tools.get(expert.name)
    if not tools:
        return [([], 0, prompt)] * len(places)
    from agents.smol_model import EngineModel  # half a second
    from agents.tool_expert import call_tools, with_results

    permit = partial(_permitted, expert.name) if "tool" in c.config.ask_before else None

    def call(place: Part, seed: str) -> tuple[list[Call], int, list[dict[str, str]]]:
        each = limit // (expert.tool_calls + 1)  # of a call; the step comes last
        if not each:
            return [], 0, prompt
        left = max(0.0, turn["until"] - time.time())
        model = EngineModel(cast(Engine, c.engine), expert.role, expert.temperature, each, seed)
        lines = [{"role": "assistant", "content": "\n".join(place["steps"])}] if place["steps"] else []
        seconds = min(expert.tool_seconds, left)
        found = call_tools(model, tools, [*prompt, *lines], expert.tool_calls, seconds, permit)
        return storable(found.calls), found.tokens, with_results(prompt, found.calls)

    if permit is not None:  # one after the other: LangGraph tells a step's questions apart by their order
        return [call(place, seed) for place, seed in zip(places, seeds, strict=True)]
    with ThreadPoolExecutor(len(places)) as threads:
        return list(threads.map(call, places, seeds))


def _permitted(expert: str, tool: str, arguments: Any, make: Callable[[], Outcome]) -> Outcome:
    """Asks a person. The step is begun anew for every decision on a later call, so a call that was made is kept, as a
    task of the step, and not made again. LangGraph knows a task by its name and its place among the step's: the name
    has the arguments, too, for what is written anew may call with others."""
    [call] = storable([{"tool": tool, "arguments": arguments, "result": "", "failed": False}])
    args = {"expert": expert, "tool": tool, "arguments": call["arguments"]}
    decision = ask("tool", args, f"{expert} calls {tool}.", ("approve", "reject"))
    if decision.kind == "approve":
        digest = hashlib.sha256(json.dumps(call["arguments"]).encode()).hexdigest()[:16]
        result, failed = task(name=f"{tool}-{digest}")(make)().result()
        return result, failed
    return f"error: a person refused this call{f': {decision.message}' if decision.message else ''}", True


def storable(calls: Sequence[Call]) -> list[Call]:
    """The calls as a checkpoint can keep them: msgpack has no integers beyond 64 bits, and JSON no infinities, so what
    a model wrote of these becomes text."""

    def integer(digits: str) -> int | str:
        return int(digits) if len(digits) < 19 else digits

    return json.loads(json.dumps(list(calls)), parse_int=integer, parse_constant=str)


def told(
    stream: Generator[tuple[int, str], None, list[Completion]],
    tell: Callable[[int, str], None],
    until: float = math.inf,
) -> list[Completion]:
    """Tells the pieces of a stream on this thread (LangGraph's writer works on no other); returns its completions.
    Ends the stream and raises TimeoutError where it is past ``until``, in seconds since the epoch."""
    while time.time() < until:
        try:
            tell(*next(stream))
        except StopIteration as end:
            return end.value
    stream.close()
    raise TimeoutError
