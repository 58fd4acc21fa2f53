"""One call for any reward: `explain(reward, prompt, response)`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from explain.anchors import PRECISION
from explain.ask import Message, Progress, Scorer, question
from explain.pair import explain_pair
from explain.perturb import Infill
from explain.result import PairExplanation, TextExplanation
from explain.text import explain_text
from explain.units import Frozen

Reward = Callable[[Any, list[str]], Any]


def explain(
    reward: Reward | Scorer,
    prompt: str | list[Message],
    response: str,
    *,
    rejected: str | None = None,
    method: str = "lime",
    units: str = "auto",
    perturbation: str = "remove",
    infill: Infill | None = None,
    on: str = "response",
    frozen: Sequence[Frozen] = (),
    tau: float | None = None,
    threshold: float = PRECISION,
    beam: bool = False,
    drill_down: bool | None = None,
    randomised: Reward | Scorer | None = None,
    seed: int = 0,
    budget: int | None = None,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> TextExplanation | PairExplanation:
    """Why `response` has its reward as an answer to `prompt`; with `rejected`, why it beats that one or does not.

    reward: any callable (prompt, texts) -> one number per text, which gets the prompt as it is given here, or an object
    with a method `score` of that kind, which always gets messages ({"role", "content"}). cache_dir: rewards are kept
    there, for a reward that names itself by an attribute `fingerprint`. drill_down: the strongest unit is explained
    again by its words; None: where the units are "auto". The other arguments: see
    `explain.text.explain_text` and `explain.pair.explain_pair`.

    Raises ValueError (one sentence) for arguments that cannot be, and for rewards that are not finite numbers.
    """
    if not isinstance(response, str) or not isinstance(rejected, str | None):
        raise ValueError("A response to explain is not a text.")
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    scorer = as_scorer(reward, isinstance(prompt, str), cache_dir is not None)
    fresh = None if randomised is None else as_scorer(randomised, isinstance(prompt, str), cache_dir is not None)
    common: dict[str, Any] = {
        "units": units,
        "method": method,
        "perturbation": perturbation,
        "infill": infill,
        "threshold": threshold,
        "beam": beam,
        "drill_down": units == "auto" if drill_down is None else drill_down,
        "randomised": fresh,
        "seed": seed,
        "budget": budget,
        "cache_dir": cache_dir,
        "progress": progress,
    }
    if rejected is None:
        return explain_text(scorer, messages, response, tau, on=on, frozen=frozen, **common)
    if on != "response" or tau is not None:
        raise ValueError("on and tau are for one response; leave them out, or leave out rejected.")
    return explain_pair(scorer, messages, response, rejected, frozen=frozen, **common)


def as_scorer(reward: Reward | Scorer, plain: bool = False, cached: bool = False) -> Scorer:
    """What is asked for rewards. plain: a callable gets the last user message instead of the messages. cached: it has
    to have a fingerprint.

    Raises ValueError (one sentence) for what cannot be asked, and where the fingerprint is lacking.
    """
    score = getattr(reward, "score", None)
    if score is None and not callable(reward):
        raise ValueError(f"A reward is a callable (prompt, texts) or has a method score; {reward!r:.40} is neither.")
    fingerprint = getattr(reward, "fingerprint", None)
    if cached and not isinstance(fingerprint, str):
        raise ValueError("Rewards are kept only for a reward that has a fingerprint; set one, or leave cache_dir out.")
    return _Any(reward, score, fingerprint or _name(reward), plain and score is None)


class _Any:
    """A scorer of anything that gives rewards; numbers, arrays and tensors of one column become floats."""

    def __init__(self, reward: Any, score: Any, fingerprint: str, plain: bool) -> None:
        self._ask, self._plain = score or reward, plain
        self.fingerprint, self.note = fingerprint, str(getattr(reward, "note", ""))
        each = getattr(reward, "score_each", None)
        if each is not None:
            self.score_each = each

    def score(self, prompt: list[Message], texts: list[str]) -> list[float]:
        answer = self._ask(question(prompt) if self._plain else prompt, texts)
        if hasattr(answer, "detach"):  # a tensor, which numpy takes neither with a gradient nor in bfloat16
            answer = answer.detach().float().cpu()
        try:
            rewards = np.asarray(answer if hasattr(answer, "__array__") else list(answer), dtype=float)
        except (TypeError, ValueError):
            raise ValueError("The reward answered something that is not one number per text.") from None
        if rewards.shape not in ((len(texts),), (len(texts), 1)):
            raise ValueError(f"The reward answered shape {rewards.shape} for {len(texts)} texts; one number per text.")
        return rewards.ravel().tolist()


def _name(reward: Any) -> str:
    kind = reward if hasattr(reward, "__qualname__") else type(reward)
    return f"{kind.__module__}.{kind.__qualname__}"
