"""Thoughts and the tree that they form. Plain data, no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel

LEAVE = "LEAVE:"
ANSWER = "ANSWER:"


class Thought(BaseModel):
    """One expert's step. ``score`` is what the line up to here is worth to the council's scorer, ``value`` to the one
    by which experts leave, where there is one. ``calls`` are those of tools before the step, each with ``tool``,
    ``arguments``, ``result`` and ``failed``, and ``call_tokens`` what they cost beside the step's own ``tokens``."""

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
    read: int = 0  # tokens of its prompt that were computed for it and not found in a cache
    logprob: float | None = None  # of its tokens together, in nats; a server may not tell
    calls: list[dict[str, Any]] = []
    call_tokens: int = 0


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


def call_line(call: Mapping[str, Any]) -> str:
    """One call of a tool, and what came of it, on one line."""
    arguments = call.get("arguments")
    given = ", ".join(map(str, arguments.values() if isinstance(arguments, Mapping) else ()))
    return " ".join(f"{call.get('tool')}({given}): {call.get('result')}".split())


def step_grammar(step: str | None) -> str:
    """A regular expression of what an expert may write in one go: a step, or the line with which it leaves or
    answers; a line break says that more will come, the end of the text that this was the last step."""
    body = step or r"[^\n]+"
    return rf"(({body})|{LEAVE} [^\n]+|{ANSWER} [^\n]+)\n?"


def line_grammar(step: str | None, steps: int) -> str:
    """A regular expression of a whole line of up to ``steps`` steps, the last of which may leave or answer."""
    body = step or r"[^\n]+"
    return rf"(({body})\n){{0,{steps - 1}}}(({body})|{LEAVE} [^\n]+|{ANSWER} [^\n]+)\n?"


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


def vote(endings: Sequence[str], scores: Sequence[float], how: str = "reward") -> int:
    """The index of the line that wins. Lines of the same ending stand together: ``majority`` counts them, ``reward``
    adds the exponentials of their scores (verifier-weighted self-consistency, arXiv 2206.02336); the best line of the
    heaviest group wins. ``best`` takes the highest score alone."""
    if how == "best":
        return max(range(len(scores)), key=scores.__getitem__)
    top = max(scores)
    groups: dict[str, float] = {}
    for ending, score in zip(endings, scores, strict=True):
        groups[ending] = groups.get(ending, 0.0) + (1.0 if how == "majority" else math.exp(score - top))
    heaviest = max(groups, key=lambda ending: groups[ending])
    return max((i for i, ending in enumerate(endings) if ending == heaviest), key=scores.__getitem__)
