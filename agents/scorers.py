"""What judges unfinished and finished lines. A scorer takes many lines at once; higher is better.

``random`` and ``length`` know nothing and are the control arms; ``oracle`` knows the task's solution and is the upper
bound. ``checker`` is a tool: it verifies the steps that were written, not whether they lead anywhere.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from agents.config import SCORERS, WRITERS
from agents.thought import Tree, line
from alignment.engine import Request
from alignment.errors import SetupError
from alignment.scoring import Scorer as RewardScorer

# the three words of Tree of Thoughts' value prompt and what they count there (arXiv 2305.10601; game24.py of its code)
VERDICTS = {"sure": 20.0, "likely": 1.0, "impossible": 0.001}
OPINIONS = 3  # asked for per line, as there


@dataclass(frozen=True)
class Line:
    """A line as a scorer sees it: its steps from the first to the newest; log-probability in nats and number of the
    tokens in it."""

    steps: tuple[str, ...]
    logprob: float
    tokens: int
    finished: bool = False

    @property
    def text(self) -> str:
        return "\n".join(self.steps)


Score = Callable[[str, Sequence[Line]], list[float]]


def lines_of(tree: Tree, names: Sequence[str]) -> list[Line]:
    """The lines that end in the thoughts ``names``."""
    found: list[Line] = []
    for name in names:
        logprob, tokens = 0.0, 0
        place: str | None = name
        while place is not None:
            own = tree[place].logprob
            logprob += math.nan if own is None else own
            tokens, place = tokens + tree[place].tokens, tree[place].parent
        found.append(Line(tuple(line(tree, name)), logprob, tokens, tree[name].status == "final"))
    return found


def scorer(name: str, engine: Any, task: Any, persona: str = "", reward: RewardScorer | None = None) -> Score:
    """The scorer of that name. ``reward``: a function in place of the engine's reward model. Raises SetupError where
    the model or the task has not got what it needs."""
    if name in ("reward", "critic"):
        head = {"reward": "reward", "critic": "value"}[name]
        score = reward if name == "reward" else None
        if score is None and head not in engine.roles:
            raise SetupError(
                f"the scorer {name!r} needs a {head} model, and this model has none (it has "
                f"{', '.join(engine.roles)}); train one, or take one of {', '.join(SCORERS)}"
            )
        return _by_model(score or (lambda prompts, texts: engine.score(prompts, texts, role=head)), task, persona)
    if name == "checker":
        return _by_checker(task)
    if name == "oracle":
        needed = part(task, "reachable", name)
        return lambda question, lines: [
            float(bool(task.check(question, line.text)) if line.finished else needed(question, line.steps))
            for line in lines
        ]
    if name == "llm":
        return _by_opinion(engine, task, persona)
    return {"random": _random, "length": _length, "logprob": _logprob}[name]


def part(task: Any, name: str, scorer: str) -> Callable[..., Any]:
    """An optional function of a task; raises SetupError where the task has none."""
    if not hasattr(task, name):
        raise SetupError(
            f"the scorer {scorer!r} needs a function {name}(question, steps) in the task's module, which has none"
        )
    return getattr(task, name)


def _random(question: str, lines: Sequence[Line]) -> list[float]:
    """Uniform in 0..1, by a hash of the line: the same line scores the same."""

    def one(line: Line) -> float:
        return int(hashlib.sha256(f"{question}\n{line.text}".encode()).hexdigest()[:12], 16) / 16**12

    return [one(line) for line in lines]


def _length(question: str, lines: Sequence[Line]) -> list[float]:
    """Shorter is better, in tokens."""
    return [-float(line.tokens) for line in lines]


def _logprob(question: str, lines: Sequence[Line]) -> list[float]:
    """Mean log-probability per token of the line, in nats."""
    return [line.logprob / max(line.tokens, 1) for line in lines]


def _by_model(score: RewardScorer, task: Any, persona: str) -> Score:
    def scores(question: str, lines: Sequence[Line]) -> list[float]:
        prompt = task.prompt(question, (), persona)
        return list(score([prompt] * len(lines), [line.text for line in lines])) if lines else []

    return scores


def _by_checker(task: Any) -> Score:
    """0 for a line with a refuted step, 1 for one without, 2 where it is finished as well."""
    refute = part(task, "refute", "checker")

    def score(question: str, line: Line) -> float:
        ends = range(1, len(line.steps) + 1)
        if any(refute(question, line.steps[:end], line.finished and end == len(line.steps)) for end in ends):
            return 0.0
        return 2.0 if line.finished else 1.0

    return lambda question, lines: [score(question, line) for line in lines]


def _by_opinion(engine: Any, task: Any, persona: str) -> Score:
    """The model that writes is asked, in Tree of Thoughts' three words; the mean of their values over ``OPINIONS``
    asks."""
    role = next(role for role in WRITERS if role in engine.roles)

    def scores(question: str, lines: Sequence[Line]) -> list[float]:
        requests = [
            Request(
                [
                    {"role": "system", "content": "Judge whether the steps can still lead to a right answer."},
                    {"role": "user", "content": f"{task.prompt(question, (), persona)[-1]['content']}\n\n{line.text}"},
                ],
                role=role,
                max_tokens=8,
                temperature=0.7,
                seed=f"opinion/{i}/{question}/{line.text}",
                grammar="|".join(VERDICTS),
            )
            for line in lines
            for i in range(OPINIONS)
        ]
        words = [VERDICTS.get(done.text.strip(), 0.0) for done in engine.generate(requests)] if requests else []
        return [sum(words[i : i + OPINIONS]) / OPINIONS for i in range(0, len(words), OPINIONS)]

    return scores
