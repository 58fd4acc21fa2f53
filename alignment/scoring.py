"""Who scores: a callable from prompts and responses to rewards, ``Engine.score`` or one made of a plain function.

Free of torch.
"""

from __future__ import annotations

import math
import numbers
import traceback
from collections.abc import Callable, Sequence

from alignment.errors import UsageError

Prompt = list[dict[str, str]]
Scorer = Callable[[Sequence[Prompt], Sequence[str]], list[float]]
RewardFunction = Callable[[Prompt, str], float]


def function_scorer(function: RewardFunction, name: str, what: str = "reward function") -> Scorer:
    """A scorer that asks ``function(prompt, response)`` for each reward.

    The scorer raises UsageError, in one sentence, where the function raises or returns what is not a finite number;
    ``what`` is the function's office in that sentence.
    """

    def score(prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
        return [
            _value(function, f"{what} {name}", prompt, text) for prompt, text in zip(prompts, responses, strict=True)
        ]

    return score


def _value(function: RewardFunction, named: str, prompt: Prompt, response: str) -> float:
    about = f"the {named}, given the response {_short(response)}"
    try:
        value = function(prompt, response)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UsageError(f"{about}, raised {said} (line {where.lineno} of {where.filename}); correct it") from error
    if not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise UsageError(f"{about}, returned {_short(value)}; it must return a finite number")
    return float(value)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
