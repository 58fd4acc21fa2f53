"""Thoughts and the tree that they form. Plain data, no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel

LEAVE = "LEAVE:"
ANSWER = "ANSWER:"


class Thought(BaseModel):
    """One expert's step. ``score`` is the reward model's for the line up to here, ``value`` the critic's."""

    id: str
    parent: str | None
    expert: str
    round: int
    text: str
    score: float | None = None
    value: float | None = None
    status: Literal["active", "left", "final", "pruned"] = "active"
    reason: str = ""
    tokens: int = 0


Tree = dict[str, Thought]


def merge(old: Tree, new: Tree) -> Tree:
    """The reducer of the tree: by id, the newer wins."""
    return {**old, **new}


def line(tree: Tree, thought: str | None) -> list[str]:
    """The texts from the first step down to ``thought``."""
    texts: list[str] = []
    while thought is not None:
        texts.append(tree[thought].text)
        thought = tree[thought].parent
    return texts[::-1]


def step_grammar(step: str | None) -> str:
    """A regular expression of what an expert may write in one go: a step, or the line with which it leaves or
    answers; a line break says that more will come, the end of the text that this was the last step."""
    body = step or r"[^\n]+"
    return rf"(({body})|{LEAVE} [^\n]+|{ANSWER} [^\n]+)\n?"


def read(text: str, finish: str) -> tuple[str, Literal["active", "left", "final", "pruned"], str]:
    """What an expert wrote, as (text, status, reason).

    Leaving in own words ends a line; so does an answer, or the model's end of text. A step that was cut by the
    token limit is not a step, and neither is one that a server wrote without its form.
    """
    text = text.strip()
    if text.startswith(LEAVE):
        return text, "left", text.removeprefix(LEAVE).strip() or "no reason given"
    if finish == "length":
        return text, "pruned", "the step did not end within its token limit"
    if finish == "grammar":
        return text, "pruned", "the step does not have the task's form"
    if not text:
        return text, "pruned", "the step is empty"
    if text.startswith(ANSWER) or finish == "eos":
        return text, "final", ""
    return text, "active", ""


def vote(lines: Sequence[Sequence[str]], weights: Sequence[float]) -> int:
    """Reward-weighted vote: lines that end in the same text stand together; each counts its weight. Returns the
    heaviest line of the heaviest group (Li et al. 2023, arXiv 2206.02336: verifier-weighted self-consistency)."""
    groups: dict[str, float] = {}
    for steps, weight in zip(lines, weights, strict=True):
        groups[steps[-1]] = groups.get(steps[-1], 0.0) + weight
    best = max(groups, key=lambda text: groups[text])
    return max((i for i, steps in enumerate(lines) if steps[-1] == best), key=lambda i: weights[i])
