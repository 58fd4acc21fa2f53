"""``junto chat``: who is talked to, which session, and one question through a pipe."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from agents.chat_model import ChatModel, writer
from agents.server import is_address, server_at
from alignment.embedded import cache_dir
from alignment.engine import Engine
from alignment.errors import JuntoError, SetupError, UsageError
from alignment.run_dir import RunDir
from graphs import council_chat
from graphs.chat import Chats, Context, new_name
from graphs.cli.output import printable
from graphs.recipe import load_recipe, load_task
from graphs.sitting import calibration_of, seat
from graphs.tools import tools_of
from graphs.turns import Context as Council

TEMPERATURE = 0.5  # without top-p, the embedded model repeats itself below and wanders above
REPLY_TOKENS = 512
SMALL_MODEL = (
    "the embedded model has 135M parameters: it shows the machinery, and its answers are often wrong. For real answers "
    "take for example Qwen2.5-7B-Instruct (junto chat Qwen/Qwen2.5-7B-Instruct) or Llama-3.1-8B-Instruct "
    "(junto chat meta-llama/Llama-3.1-8B-Instruct)"
)
GRAPHS = ("chat", "council")


@dataclass(frozen=True)
class Wanted:
    """Who is to reply: ``model`` is a run's name, a folder, a hub id, ``embedded``, or the address of a server."""

    model: str
    role: str | None = None
    graph: str = "chat"
    runs_root: Path = Path("runs")


@dataclass(frozen=True)
class Talk:
    """Who replies, and what else is at hand: the engine of a model that is loaded here, its run, its council."""

    chats: Chats
    wanted: Wanted
    database: Path
    engine: Engine | None = None
    run: RunDir | None = None
    council: Council | None = None


def run_chat(wanted: Wanted, session: str | None, continue_last: bool) -> None:
    """Talks to a model. In a terminal until Ctrl-D; otherwise standard input is one question, and standard output gets
    the answer only. Sessions are kept in the run, or in the cache."""
    from graphs.cli.chat_terminal import Terminal

    if session is not None and continue_last:
        raise UsageError("--session names a session and --continue takes the last one; give one of them")
    if session is not None and (not session.strip() or printable(session) != session or "\n" in session):
        raise UsageError("a session's name is a word or a few, without control characters; give another --session")
    if wanted.graph not in GRAPHS:
        raise UsageError(f"there is no graph {wanted.graph!r} to chat with; there are {' and '.join(GRAPHS)}")
    question = None if sys.stdin.isatty() else piped_question()
    with opened(wanted) as talk:
        terminal = Terminal(talk, start(talk.chats, session, continue_last))
        if question is not None:
            terminal.answer(question)
            return
        following = terminal.loop()
        name, turns = terminal.session, talk.chats.messages(terminal.session)
    while following is not None:
        with contextlib.ExitStack() as stack:
            try:
                talk = stack.enter_context(opened(following))
                wanted = following
            except JuntoError as error:  # the former one again; where that cannot be had either, the chat is over
                print(f"error: {printable(str(error))}", file=sys.stderr, flush=True)
                talk = stack.enter_context(opened(wanted))
            if talk.chats.messages(name) != turns:  # another file of sessions
                name = new_name()
                talk.chats.begin(name, turns)
            terminal = Terminal(talk, name)
            following = terminal.loop()
            name, turns = terminal.session, talk.chats.messages(terminal.session)


@contextlib.contextmanager
def opened(wanted: Wanted) -> Iterator[Talk]:
    """The model, loaded or behind its server, and its sessions. Raises UsageError or SetupError."""
    run = None if is_address(wanted.model) else RunDir.find(wanted.model, wanted.runs_root)
    folder = Path(wanted.model)
    database = run.path / "threads.sqlite" if run else cache_dir() / "chats.sqlite"
    label = run.path.name if run else str(folder.resolve()) if folder.is_dir() else wanted.model
    with at_server(wanted) if is_address(wanted.model) else at_engine(wanted, run) as (context, engine):
        council = None
        if wanted.graph == "council":
            council = _seated(run, engine, wanted)
            context = replace(context, council=partial(council_chat.reply, council, database))
        with contextlib.closing(Chats(database, label, context)) as chats:
            yield Talk(chats, wanted, database, engine, run, council)


def _seated(run: RunDir | None, engine: Engine | None, wanted: Wanted) -> Council:
    if run is None or engine is None:
        raise UsageError(
            f"{wanted.model} is no run, and only a run has a council to chat with; junto run council --model seats any "
            "model for one question"
        )
    recipe = load_recipe(run.path / "config.yaml")
    task, tools = load_task(recipe.task, run.path), tools_of(recipe.council, False)
    return seat(engine, task, recipe, "chat", calibration_of(run), tools, asks=True)


@contextlib.contextmanager
def at_engine(wanted: Wanted, run: RunDir | None) -> Iterator[tuple[Context, Engine]]:
    with Engine.open(run.path if run else wanted.model) as engine:
        if wanted.role is not None and wanted.role not in engine.roles:
            raise SetupError(f"this model has no role {wanted.role!r}; it has {', '.join(engine.roles)}")
        chat_model = ChatModel(engine=engine, role=wanted.role or writer(engine), temperature=TEMPERATURE)
        if chat_model.window is not None:  # room for the conversation beside the reply
            chat_model.max_tokens = min(REPLY_TOKENS, max(1, chat_model.window // 4))
        if engine.backbone.config.model == "embedded" and wanted.graph == "chat":
            note(SMALL_MODEL)
        yield Context(chat_model, chat_model.window), engine


@contextlib.contextmanager
def at_server(wanted: Wanted) -> Iterator[tuple[Context, None]]:
    from agents.endpoint import one_sentence
    from agents.models import chat_model

    if wanted.role is not None:
        raise UsageError("a server has no roles; leave --role out")
    yield Context(chat_model(wanted.model), errors=partial(one_sentence, server_at(wanted.model))), None


def piped_question() -> str:
    """All of standard input; raises UsageError when it is empty or no text."""
    try:
        question = sys.stdin.buffer.read().decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise UsageError(f"standard input is not UTF-8 text (byte {error.start}); send the question as text") from None
    if not question:
        raise UsageError('the question is empty; send one, for example: echo "What is a reward model?" | junto chat')
    return question


def start(chats: Chats, session: str | None, continue_last: bool) -> str:
    """The session's name; says on stderr what it goes on with."""
    if continue_last:
        session = chats.last()
        if session is None:
            note("there is no earlier session with this model; a new one begins")
    if session is None:
        return new_name()
    kept = next((s for s in chats.sessions() if s.name == session), None)
    if kept is not None:
        other = "" if kept.model == chats.model else f", so far with {kept.model}"
        note(f"session {session} goes on{other}; it began with: {kept.title}")
    return session


def note(text: str) -> None:
    print(f"note: {printable(text)}", file=sys.stderr, flush=True)
