"""A task is data, prompts and a checker, in one torch-free module of its own.

A task module has:

- ``Options``: a pydantic model of the recipe's ``data:`` section;
- ``load(options, seed, base) -> TaskData``: the rows; relative paths resolve against the folder ``base``;
- ``prompt(question, board=(), persona="") -> list of messages``: ``board`` holds the steps that peers shared;
- ``check(question, response) -> bool | None``: whether the response solves the question (None: no checker);
- ``validate_question(question) -> str``: the question in its normal form, or a UsageError;
- ``STEP``: a regular expression of one step line, or None where any line is a step.

and may have, for councils and their measurement:

- ``refute(question, steps, finished) -> str | None``: what is wrong with the last step, as far as a tool can tell
  without the solution; ``finished``: the line has ended with it;
- ``reachable(question, steps) -> bool``: whether the question can still be solved after ``steps`` (an oracle, for
  control arms and labels);
- ``conclusion(answer) -> str``: what an answer comes to, by which votes are counted; without it its last line.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Row = dict[str, Any]
Splits = dict[str, list[Row]]  # "train" and "validation"; prompts may have a "test" beside them


@dataclass(frozen=True)
class TaskData:
    """The rows that a task hands to the stages.

    ``sft`` rows are ``{"prompt": messages, "completion": str}``; ``pairs`` rows ``{"prompt", "chosen", "rejected"}``
    with an optional ``"margin"``, or, for regression, ``{"prompt", "response", "score"}`` or ``{"prompt", "responses",
    "scores"}`` (many that share their beginnings); ``prompts`` rows ``{"id", "question", "prompt"}``. A row may have a
    ``"source"``, the file and line that name it to a person.
    """

    sft: Splits
    pairs: Splits
    prompts: Splits
    notes: list[str] = field(default_factory=list)
