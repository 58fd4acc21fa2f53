"""The ``chat`` graph: one reply to a conversation that is kept, by a model or by a council."""

from __future__ import annotations

import bisect
import secrets
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    AnyMessage,
    BaseMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    message_chunk_to_message,
)
from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.runtime import Runtime
from typing_extensions import TypedDict  # of which pydantic makes schemas on Python 3.11, too

from alignment.errors import UsageError
from graphs.database import Database

Event = dict[str, Any]


class State(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]


# question, thread, what is told of it, what ends it early, what a person has decided -> the reply
Sit = Callable[[str, str, Callable[[Event], None], threading.Event, dict[str, Any] | None], AIMessage]


@dataclass
class Context:
    """Who replies: ``model``, or, where it is there, ``council`` to the last question alone."""

    model: BaseChatModel
    window: int | None = None  # tokens of prompt and reply together; then the model has ``max_tokens``
    errors: Callable[[], AbstractContextManager[None]] = nullcontext  # what a reply is written in
    cancelled: threading.Event = field(default_factory=threading.Event)  # set: the reply ends where it is
    council: Sit | None = None
    decisions: dict[str, Any] | None = None  # what a person answers to a council that waits


@dataclass(frozen=True)
class Session:
    """A conversation that is kept: ``title`` is its first question, ``updated`` seconds since the epoch."""

    name: str
    model: str
    title: str
    updated: float


def respond(state: State, runtime: Runtime[Context]) -> State:
    """Writes the reply; what was written before a cancel is kept."""
    c = runtime.context
    messages: list[BaseMessage] = list(state["messages"])
    if c.council is not None:
        asked = messages[-1]
        reply = c.council(asked.text, sitting_of(asked), runtime.stream_writer, c.cancelled, c.decisions)
        return {"messages": [reply]}
    if c.window is not None:
        messages, left_out = fit(messages, c.model.get_num_tokens_from_messages, c.window - c.model.max_tokens)
        if left_out:
            turns = "the oldest turn is" if left_out == 1 else f"the oldest {left_out} turns are"
            runtime.stream_writer(
                {
                    "kind": "note",
                    "text": f"{turns} left out of the prompt: the whole conversation "
                    f"does not fit into the model's {c.window} tokens",
                }
            )
    written: AIMessageChunk | None = None
    with c.errors(), closing(c.model.stream(messages)) as pieces:
        for piece in pieces:
            written = piece if written is None else written + piece
            if c.cancelled.is_set():
                break
    if written is None or (c.cancelled.is_set() and not written.text):
        return {"messages": [RemoveMessage(id=str(messages[-1].id))]}  # a question that nobody answered
    if written.chunk_position != "last":
        written = written.model_copy(update={"response_metadata": {"finish_reason": "cancelled"}})
    return {"messages": [message_chunk_to_message(written)]}


def sitting_of(question: BaseMessage) -> str:
    """The thread of the council that replies to a question: the same one after a kill, another one after a retry."""
    return f"chat-council/{question.id}"


def fit(
    messages: Sequence[BaseMessage], count: Callable[[list[BaseMessage]], int], limit: int
) -> tuple[list[BaseMessage], int]:
    """The messages without as many of the oldest turns as it takes for ``count`` to be at most ``limit``, and how
    many those are.

    A turn is a human message and what follows it; an assistant's words before the first one are a turn too. System
    messages stay. Raises UsageError when the last turn alone is too long.
    """
    spoken = [i for i, m in enumerate(messages) if not isinstance(m, SystemMessage)]
    starts = [i for i in spoken if i == spoken[0] or isinstance(messages[i], HumanMessage)]

    def without(turns: int) -> list[BaseMessage]:
        return [m for i, m in enumerate(messages) if i >= starts[turns] or isinstance(m, SystemMessage)]

    left_out = bisect.bisect_left(range(len(starts)), True, key=lambda turns: count(without(turns)) <= limit)
    if left_out == len(starts):
        raise UsageError(
            f"the message takes {count(without(left_out - 1))} tokens, but the model's window leaves "
            f"{max(limit, 0)} beside the reply; shorten it"
        )
    return without(left_out), left_out


def build() -> StateGraph:
    builder = StateGraph(State, context_schema=Context)
    builder.add_node("respond", respond)
    builder.add_edge(START, "respond")
    return builder


graph = build().compile(name="chat")


class Chats:
    """Conversations in a database: the graph's checkpoints, and a table that lists them.

    It may hold checkpoints of other graphs: the threads of this one start with ``chat/``.
    """

    def __init__(self, path: Path, model: str, context: Context) -> None:
        self.model = model
        self.context = context
        self._database = Database(path)
        self._graph = build().compile(checkpointer=self._database.saver, name="chat")
        self._database.create(
            "CREATE TABLE IF NOT EXISTS chats (session TEXT PRIMARY KEY, model TEXT NOT NULL, "
            "title TEXT NOT NULL, updated DOUBLE PRECISION NOT NULL)"
        )

    def sessions(self) -> list[Session]:
        """All of this file, the last one first."""
        rows = self._database.rows("SELECT session, model, title, updated FROM chats ORDER BY updated DESC")
        return [Session(row["session"], row["model"], row["title"], row["updated"]) for row in rows]

    def last(self) -> str | None:
        """The session of this model that was used last."""
        return next((s.name for s in self.sessions() if s.model == self.model), None)

    def messages(self, session: str) -> list[AnyMessage]:
        return self._graph.get_state(_config(session)).values.get("messages", [])

    def unanswered(self, session: str) -> bool:
        """Whether the last question still waits for its reply, because the program ended over it."""
        return bool(self._graph.get_state(_config(session)).next)

    def reply(self, session: str, question: str | None) -> Generator[Event, None, None]:
        """Pieces of the reply, ``{"kind": "token", "text": ...}``, a council's events, and notes. Without a question
        the reply to the one that is unanswered. Setting ``context.cancelled`` ends it early. Raises Claimed while
        another program writes a reply in this session.
        """
        with self._claim(session):
            yield from self._reply(session, question)

    def _reply(self, session: str, question: str | None) -> Generator[Event, None, None]:
        asked = None
        if question is not None:
            asked = {"messages": [HumanMessage(question)]}
            self._list(session, question)
        events = self._graph.stream(
            asked, _config(session), context=self.context, durability="sync", stream_mode=["messages", "custom"]
        )
        for mode, part in events:
            if mode == "custom":
                yield part
            elif isinstance(part[0], AIMessageChunk) and part[0].text:
                yield {"kind": "token", "text": part[0].text}

    def undo(self, session: str) -> str | None:
        """Takes back the last question and what follows it; returns the question. Raises Claimed as ``reply``."""
        with self._claim(session):
            return self._undo(session)

    def _undo(self, session: str) -> str | None:
        messages = self.messages(session)
        at = max((i for i, m in enumerate(messages) if isinstance(m, HumanMessage)), default=None)
        if at is None:
            return None
        gone = [RemoveMessage(id=str(m.id)) for m in messages[at:]]
        self._graph.update_state(_config(session), {"messages": gone}, as_node="respond")
        return messages[at].text

    def begin(self, session: str, messages: Sequence[AnyMessage]) -> None:
        """A new session with the turns of another one, or of a file."""
        self._graph.update_state(_config(session), {"messages": list(messages)}, as_node="respond")
        asked = next((m.text for m in messages if isinstance(m, HumanMessage)), "")
        self._list(session, asked)

    def _claim(self, session: str) -> AbstractContextManager[None]:
        refusal = f"another program is writing a reply in session {session}; wait for it, or begin another session"
        return self._database.claim(_thread(session), refusal)

    def _list(self, session: str, title: str) -> None:
        with self._database.exclusive("chats") as execute:
            execute(
                "INSERT INTO chats VALUES (?, ?, ?, ?) ON CONFLICT (session) "
                "DO UPDATE SET model = excluded.model, updated = excluded.updated",
                *(session, self.model, " ".join(title.replace("\0", " ").split())[:60], time.time()),
            )

    def close(self) -> None:
        self._database.close()


def new_name() -> str:
    """A name for a session: the time, and two bytes that keep sessions of one second apart."""
    return f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def _config(session: str) -> RunnableConfig:
    return {"configurable": {"thread_id": _thread(session)}}


def _thread(session: str) -> str:
    return f"chat/{session}"
