"""Tools: how many calls can be read, and whether a calculator makes steps of arithmetic right.

    python -m benchmarks.tools [--json] [--n 100] [--run RUN|embedded]

The first table is about smolagents' ToolCallingAgent as it comes, with its own prompt: of so many replies, those that
are a call, and those whose call ran without an error. The second is about single steps of word chains
(graphs.tasks.chains) that the model has not been trained on, after the right steps before them: written plainly, and
with a calculator, by the same model from the same seeds, held to the same form. Tokens are of the model, per step.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import random
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from smolagents import ActionStep, LogLevel, ToolCallingAgent
from smolagents.utils import AgentParsingError

from agents.smol_model import EngineModel
from agents.tool_expert import ToolStep, tool_step
from agents.tools import Calculator, CheckArithmetic, check_step
from alignment.engine import Engine
from alignment.run_dir import RunDir
from alignment.statistics import paired_wilson, wilson
from graphs.recipe import load_recipe, load_task
from graphs.tasks import chains

Json = dict[str, Any]
STEPS_OF_A_RUN = 3  # replies of one agent, so that some stand behind results and errors
MAX_TOKENS = 128  # of a step, and of each call before it; an agent's reply has EngineModel's default
MAX_CALLS = 2  # before a step
SECONDS = 5.0  # of a call
TOGETHER = 16  # agents, or steps, at a time


def questions(run: str) -> list[str]:
    """Held-out word chains: those of the run's recipe, or of the default options where it has another task."""
    if run != "embedded":
        folder = RunDir.open(run)
        recipe = load_recipe(folder.path / "config.yaml")
        task = load_task(recipe.task, folder.path)
        if task.__name__ == chains.__name__:
            data = task.load(task.Options(**recipe.data), recipe.seed, Path(folder.environment()["base"]))
            return [row["question"] for row in data.prompts["validation"]]
    return [row["question"] for row in chains.load(chains.Options(), 0).prompts["validation"]]


def agent_steps(model: EngineModel, number: int, question: str) -> list[ActionStep]:
    """The steps of a fresh agent."""
    agent = ToolCallingAgent([Calculator(), CheckArithmetic()], model, verbosity_level=LogLevel.OFF)
    steps: list[ActionStep] = []
    model.seed = f"agent/{number}/0"
    # one more than are read, or the last would be followed by a reply in free text
    for found in agent.run(question, stream=True, max_steps=STEPS_OF_A_RUN + 1):
        if isinstance(found, ActionStep):
            steps.append(found)
            model.seed = f"agent/{number}/{len(steps)}"
            if found.is_final_answer or len(steps) == STEPS_OF_A_RUN:
                break
    return steps


def parsed(model: EngineModel, asked: Sequence[str], count: int) -> Json:
    steps: list[ActionStep] = []
    number = 0
    with ThreadPoolExecutor(TOGETHER) as threads:
        while len(steps) < count:
            numbers = range(number, number + math.ceil((count - len(steps)) / STEPS_OF_A_RUN))
            number = numbers.stop
            for new in threads.map(lambda i: agent_steps(copy.copy(model), i, asked[i % len(asked)]), numbers):
                steps += new
                print(f"agent step {len(steps)} of {count}", file=sys.stderr, flush=True)
    del steps[count:]
    for step in steps:
        if isinstance(step.error, AgentParsingError):
            print(f"not parsed: {step.model_output!r:.300}", file=sys.stderr)
    usage = [step.token_usage for step in steps]
    return {
        "parsed": wilson(sum(not isinstance(step.error, AgentParsingError) for step in steps), count),
        "ran": wilson(sum(step.error is None for step in steps), count),
        "tokens": _mean([u.output_tokens for u in usage]),
        "prompt_tokens": _mean([u.input_tokens for u in usage]),
    }


def next_steps(model: EngineModel, asked: Sequence[str], count: int) -> Json:
    """Accuracy and tokens of single steps, plain and with a calculator, and the paired difference."""
    places = [(q, at) for q in asked for at in range(len(chains.steps(q)))]
    places = random.Random(0).sample(places, min(count, len(places)))
    arms: dict[str, list[Json]] = {"plain": [], "calculator": []}

    def written(i: int) -> list[ToolStep]:
        question, at = places[i]
        before, prompt = chains.solution(question)[:at], chains.prompt(question)
        own = copy.copy(model)
        own.seed = f"step/{i}"
        given = [*prompt, {"role": "assistant", "content": "\n".join(before)}] if before else prompt
        return [tool_step(own, [Calculator()], given, most, SECONDS, rf"({chains.STEP})\n?") for most in (0, MAX_CALLS)]

    with ThreadPoolExecutor(TOGETHER) as threads:
        for i, both in enumerate(threads.map(written, range(len(places)))):
            question, at = places[i]
            right = chains.solution(question)[at]
            for (name, rows), found in zip(arms.items(), both, strict=True):
                rows.append(_row(right, found))
                print(f"step {i + 1}/{len(places)}: {right} | {name}: {found.text.strip()}", file=sys.stderr)
    first, second = ([row["right"] for row in rows] for rows in arms.values())
    return {
        "n": len(places),
        "arms": [
            {
                "arm": name,
                "right": wilson(sum(row["right"] for row in rows), len(rows)),
                # a step can be right as arithmetic and yet not be the one that the story asks for
                "exact": wilson(sum(row["exact"] for row in rows), len(rows)),
                "tokens": _mean([row["tokens"] for row in rows]),
                "prompt_tokens": _mean([row["prompt_tokens"] for row in rows]),
                "calls": _mean([row["calls"] for row in rows]),
                "failed_calls": _mean([row["failed_calls"] for row in rows]),
            }
            for name, rows in arms.items()
        ],
        "difference": paired_wilson(first, second),
    }


def _row(right: str, found: ToolStep) -> Json:
    text = found.text.strip()
    return {
        "right": chains.same_line(right, text),
        "exact": _exact(text),
        "tokens": found.tokens,
        "prompt_tokens": found.prompt_tokens,
        "calls": len(found.calls),
        "failed_calls": sum(call["failed"] for call in found.calls),
    }


def _exact(text: str) -> bool:
    try:
        return check_step(text) == "right"
    except ValueError:
        return False


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _share(found: Json) -> str:
    return f"{found['value']:.1%} [{found['low']:.1%}, {found['high']:.1%}]"


def lines(found: Json) -> list[str]:
    agent, step = found["agent"], found["steps"]
    out = [
        f"{found['run']}, role {found['role']}, temperature {found['temperature']}",
        "",
        f"replies of ToolCallingAgent, n = {agent['parsed']['n']}: parsed {_share(agent['parsed'])}, ran without an "
        f"error {_share(agent['ran'])}; {agent['tokens']:.0f} tokens written and {agent['prompt_tokens']:.0f} read",
        "",
        f"| steps of word chains, n = {step['n']} | right | exact arithmetic | written | read | calls | failed |",
        "|---" * 7 + "|",
    ]
    for arm in step["arms"]:
        out.append(
            f"| {arm['arm']} | {_share(arm['right'])} | {_share(arm['exact'])} | {arm['tokens']:.1f} | "
            f"{arm['prompt_tokens']:.0f} | {arm['calls']:.2f} | {arm['failed_calls']:.2f} |"
        )
    return [*out, "", f"right, calculator - plain: {_share(step['difference'])}"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tools", description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout in place of the tables")
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--run", default="embedded", help="a run, or embedded: the model that is not tuned")
    parser.add_argument("--temperature", type=float, default=0.7)
    given = parser.parse_args()
    asked = questions(given.run)
    with Engine.open(given.run) as engine:
        model = EngineModel(engine, temperature=given.temperature, seed="agent")
        found: Json = {"run": given.run, "role": model.role, "temperature": given.temperature}
        found["agent"] = parsed(model, asked, given.n)
        model.max_tokens = MAX_TOKENS
        found["steps"] = next_steps(model, asked, given.n)
    print(json.dumps(found, indent=1) if given.json else "\n".join(lines(found)))


if __name__ == "__main__":
    main()
