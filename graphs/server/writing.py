"""Choices that are written on threads, and told to a feed as OpenAI's deltas."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, cast

from langchain_core.messages import AIMessageChunk, HumanMessage

from alignment.engine import Engine
from graphs.server.feed import Crew, Feed
from graphs.server.models import Answerer, Seated
from graphs.server.openai_requests import Ask
from graphs.server.refusals import Refusal
from graphs.sitting import sit

Delta = dict[str, Any]
Event = dict[str, Any]
Tell = Callable[[Delta], None]
Told = tuple[int, Delta | BaseException]  # of which choice; a delta may have "finish" and "usage" too


def begin(crew: Crew, feed: Feed[Told], who: Answerer, ask: Ask, stop: threading.Event) -> None:
    """Starts a thread for each choice; the last one ends the feed. Raises Refusal where there is no room for all."""
    council = who.council
    question = asked(ask) if council else ""
    lock, left = threading.Lock(), ask.n

    def write(index: int) -> None:
        nonlocal left
        try:
            if council:
                sitting(council, question, ask, stop, lambda delta: feed.put((index, delta)))
            else:
                reply(who, ask, index, stop, lambda delta: feed.put((index, delta)))
        except BaseException as error:  # whatever went wrong belongs to the client
            stop.set()
            feed.put((index, error))
        finally:
            with lock:
                left -= 1
                last = left == 0
            if last:
                feed.end()

    try:
        for index in range(ask.n):
            crew.start(partial(write, index), stop.set)
    except Refusal:
        stop.set()
        raise


def reply(who: Answerer, ask: Ask, index: int, stop: threading.Event, tell: Tell) -> None:
    """What a role writes. A stop ends it at its next piece."""
    settings = dict(ask.settings)
    if index and "seed" in settings:
        settings["seed"] = f"{settings['seed']}/{index}"
    with closing(cast(Any, who.model.chat_model(who.role).stream(ask.messages, **settings))) as pieces:
        for piece in pieces:
            tell(delta_of(piece))
            if stop.is_set():
                return


def delta_of(piece: AIMessageChunk) -> Delta:
    delta: Delta = {}
    # a call that is malformed has no name, and stays text
    malformed = "".join(call["args"] or "" for call in piece.tool_call_chunks if not call["name"])
    if content := piece.text + malformed:
        delta["content"] = content
    if calls := [call for call in piece.tool_call_chunks if call["name"]]:
        delta["tool_calls"] = [
            {
                "index": call["index"],
                "id": call["id"],
                "type": "function",
                "function": {"name": call["name"], "arguments": call["args"]},
            }
            for call in calls
        ]
    if piece.usage_metadata is not None:
        delta["usage"] = (piece.usage_metadata["input_tokens"], piece.usage_metadata["output_tokens"])
        delta["finish"] = piece.response_metadata["finish_reason"]
    return delta


def asked(ask: Ask) -> str:
    """The question of a council. Raises Refusal (400) where there is none, or the rest cannot be honoured."""
    if ask.n != 1:
        raise Refusal(400, "a council gives one answer; leave n out", "n", "unsupported_parameter")
    for name in ("stop", "response_schema", "tools", "temperature"):
        # many clients send a temperature whatever the model is; that of OpenAI's own default asks for nothing
        if name in ask.settings and not (name == "temperature" and ask.settings[name] == 1):
            field = "response_format" if name == "response_schema" else name
            raise Refusal(
                400,
                f"{field} is not a council's; its recipe says how its experts write",
                field,
                "unsupported_parameter",
            )
    last = ask.messages[-1]
    if not isinstance(last, HumanMessage):
        raise Refusal(400, "a council answers the last message, which has to be the user's", "messages")
    return last.text


def sitting(council: Seated, question: str, ask: Ask, stop: threading.Event, tell: Tell) -> None:
    """A sitting: its steps as reasoning, when they are judged, and the answer. A stop ends it after its round."""
    seed = ask.settings.get("seed")
    # the thread is a part of every seed
    thread = "api" if seed is not None else uuid.uuid4().hex
    context = council(thread, None if seed is None else seed % 2**63, ask.settings.get("max_tokens"), None)
    context.stopped = stop
    question = context.task.validate_question(question)

    def on_event(event: Event) -> None:
        if line := step_line(event):
            tell({"reasoning_content": line})

    result = sit(context, question, on_event, Path(":memory:"), None)
    read = len(cast(Engine, context.engine).backbone.chat.text_ids(question))
    answer = result["answer"] or f"No answer: {result['notes'][-1]}"
    tell({"content": answer, "usage": (read, result["tokens"]), "finish": "stop"})


def step_line(event: Event) -> str:
    """A step, or a departure, on a line; empty for what is neither."""
    if event["kind"] == "thought":
        return f"{event['expert']}, round {event['round']}: {event['text']}\n"
    return f"{event['expert']} leaves: {event['reason']}\n" if event["kind"] == "left" else ""
