"""A council that replies in a conversation: the last question, one sitting, its answer as a message."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from langchain_core.messages import AIMessage

from alignment.errors import UsageError
from graphs import kept_threads
from graphs.sitting import sit
from graphs.turns import Context

Event = dict[str, Any]


def reply(
    context: Context,
    database: Path,
    question: str,
    thread: str,
    tell: Callable[[Event], None],
    stopped: threading.Event,
    decisions: dict[str, Any] | None = None,
) -> AIMessage:
    """The verdict on ``question``. A sitting that was killed goes on, and one that is ``stopped`` concludes with what
    it has; ``decisions`` are a person's. Raises UsageError for what is no question of the task, and Waiting."""
    result = sitting(context, database, question, thread, tell, stopped, decisions)
    text = result["answer"] or f"No answer: {result['notes'][-1]}"
    kept = {
        "finish_reason": "stop",
        "council": {key: result[key] for key in ("solved", "experts", "rounds", "seconds")},
    }
    written = {"input_tokens": 0, "output_tokens": result["tokens"], "total_tokens": result["tokens"]}
    return AIMessage(text, response_metadata=kept, usage_metadata=written)


def kept(context: Context, database: Path, question: str, thread: str) -> dict[str, Any]:
    """The result of a sitting that is over. Raises UsageError where there is none in ``database``."""
    with kept_threads.opened(database) as saver:
        if thread not in kept_threads.names(saver) or kept_threads.state_of(saver, thread)["state"] != "done":
            raise UsageError("the sitting that replied is not kept here; ask again")
    return sitting(context, database, question, thread)


def sitting(
    context: Context,
    database: Path,
    question: str,
    thread: str,
    tell: Callable[[Event], None] = lambda event: None,
    stopped: threading.Event | None = None,
    decisions: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The result of a thread; one that is finished is read and not run again."""
    question = context.task.validate_question(question)
    own = replace(context, thread=thread, stopped=stopped or threading.Event())
    # LangGraph would take this graph for a part of the one that asks, and keep it with that: so it runs outside of its
    # context, in which only what it tells is told
    asking = contextvars.copy_context()

    def told(event: Event) -> None:
        asking.run(tell, event)

    return contextvars.Context().run(sit, own, question, told, database, thread, decisions)
