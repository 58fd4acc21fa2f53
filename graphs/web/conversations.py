"""Conversations of the page: who replies, where they are kept, and the replies that are being written.

A reply is written on a thread of its own and does not end with the page that asked for it: a page that is loaded again
shows what has been written so far, and goes on showing it.
"""

from __future__ import annotations

import threading
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from alignment.embedded import cache_dir
from alignment.errors import UsageError
from graphs import council_chat
from graphs.asking import Asked, Waiting
from graphs.board import Board
from graphs.chat import Chats, Context
from graphs.database import Claimed
from graphs.server.feed import Crew
from graphs.server.models import Answerer
from graphs.server.refusals import refusal_of
from graphs.turns import Context as Council

TEMPERATURE = 0.5  # as in the terminal
AT_A_TIME = 16  # replies; the engine makes batches of them


@dataclass
class Writing:
    """A reply that is being written. ``version`` changes with all that can be seen of it."""

    question: str
    board: Board
    cancelled: threading.Event
    text: str = ""
    notes: list[str] = field(default_factory=list)
    version: int = 0
    ended: bool = False
    error: str = ""
    asked: dict[str, Asked] = field(default_factory=dict)  # what a person is to decide on

    def take(self, event: dict[str, Any]) -> None:
        if event["kind"] == "note":
            self.notes.append(event["text"])
        elif not self.board.take(event) and event["kind"] == "token":
            self.text += event["text"]
        self.version += 1


@dataclass(frozen=True)
class Place:
    """Where the conversations of an answerer are kept, and its council, where it is one."""

    answerer: Answerer
    database: Path
    council: Council | None

    def chats(self, cancelled: threading.Event | None = None, decisions: dict[str, Any] | None = None) -> Chats:
        model = self.answerer.model.chat_model(None if self.council else self.answerer.role)
        model.temperature = TEMPERATURE
        sit = partial(council_chat.reply, self.council, self.database) if self.council else None
        context = Context(model, model.window, council=sit, decisions=decisions)
        context.cancelled = cancelled or context.cancelled
        return Chats(self.database, self.answerer.model.name, context)


class Conversations:
    """All of a server."""

    def __init__(self) -> None:
        self.crew = Crew(AT_A_TIME)
        self._lock = threading.Lock()
        self._writing: dict[tuple[Path, str], Writing] = {}
        self._places: dict[str, Place] = {}

    def place(self, answerer: Answerer) -> Place:
        if answerer.name not in self._places:
            run = answerer.model.run
            database = run.path / "threads.sqlite" if run else cache_dir() / "chats.sqlite"
            council = answerer.council("chat", None, None, []) if answerer.council else None
            self._places[answerer.name] = Place(answerer, database, council)
        return self._places[answerer.name]

    def writing(self, place: Place, session: str) -> Writing | None:
        """The last reply of a session since the server began; it may have ended."""
        return self._writing.get((place.database, session))

    def check_idle(self, place: Place, session: str) -> None:
        """Raises UsageError while a reply is being written."""
        before = self.writing(place, session)
        if before is not None and not before.ended:
            raise UsageError("a reply is being written; wait for it, or stop it")

    def ask(self, place: Place, session: str, question: str | None, decisions: dict[str, Any] | None = None) -> Writing:
        """Begins a reply; without a question the one that is owed, with what a person has decided. Raises UsageError
        where one is being written already."""
        experts = [expert.name for expert in place.council.config.experts] if place.council else []
        writing = Writing(question or "", Board(experts), threading.Event())
        with self._lock:
            self.check_idle(place, session)
            self._writing[place.database, session] = writing
        try:
            self.crew.start(lambda: self._write(place, session, question, decisions, writing), writing.cancelled.set)
        except BaseException:
            writing.ended = True
            raise
        return writing

    def _write(
        self, place: Place, session: str, question: str | None, decisions: dict[str, Any] | None, writing: Writing
    ) -> None:
        try:
            with closing(place.chats(writing.cancelled, decisions)) as chats:
                try:
                    for event in chats.reply(session, question):
                        writing.take(event)
                except Waiting as waiting:
                    writing.asked = waiting.asked
                except Claimed as error:  # what is unanswered there is another program's
                    writing.error = str(error)
                except Exception as error:  # one sentence, and the question that led to it is taken back
                    writing.error = refusal_of(error).sentence
                    with suppress(Claimed):
                        if chats.unanswered(session):
                            writing.question = chats.undo(session) or writing.question
        except Exception as error:  # its place cannot be had
            writing.error = refusal_of(error).sentence
        finally:
            writing.ended = True
            writing.version += 1
