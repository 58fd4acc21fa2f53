"""``junto chat``: a conversation in the terminal, or one question through a pipe."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

from agents.chat_model import ChatModel, writer
from agents.server import is_address, server_at
from alignment.embedded import cache_dir
from alignment.engine import Engine
from alignment.errors import JuntoError, SetupError, UsageError
from graphs.chat import Chats, Context, new_name
from graphs.cli.output import printable
from graphs.source import did_you_mean

TEMPERATURE = 0.5  # without top-p, the embedded model repeats itself below and wanders above
REPLY_TOKENS = 512
SMALL_MODEL = (
    "the embedded model has 135M parameters: it shows the machinery, and its answers are often wrong. For real answers "
    "take for example Qwen2.5-7B-Instruct (junto chat Qwen/Qwen2.5-7B-Instruct) or Llama-3.1-8B-Instruct "
    "(junto chat meta-llama/Llama-3.1-8B-Instruct)"
)
HELP = {
    "/help": "this list",
    "/sessions": "the sessions that are kept; junto chat --session NAME goes on with one",
    "/new": "start a new session",
    "/undo": "take back the last question and its reply",
    "/save FILE": "write the conversation to a file: JSON where the name ends in .json, otherwise Markdown",
    "/tokens": "how much of the model's window the conversation takes",
    "/exit": "leave (or Ctrl-D)",
}
KEYS = "Enter sends, Esc Enter starts a new line, Ctrl-C stops a reply. A space before / sends the line as text."


def run_chat(model: str, session: str | None, continue_last: bool, role: str | None) -> None:
    """Talks to ``model`` (a run directory, a model folder, a hub id, ``embedded``, or the address of a server).

    In a terminal until Ctrl-D; otherwise standard input is one question, and standard output gets the answer only.
    Sessions are kept in the run, or in the cache.
    """
    if session is not None and continue_last:
        raise UsageError("--session names a session and --continue takes the last one; give one of them")
    if session is not None and (not session.strip() or printable(session) != session or "\n" in session):
        raise UsageError("a session's name is a word or a few, without control characters; give another --session")
    question = None if sys.stdin.isatty() else piped_question()
    folder = Path(model)
    is_run = (folder / "config.yaml").is_file()
    with at_server(model, role) if is_address(model) else at_engine(model, role) as context:
        database = folder / "threads.sqlite" if is_run else cache_dir() / "chats.sqlite"
        label = str(folder.resolve()) if folder.is_dir() and not is_run else folder.name if is_run else model
        with contextlib.closing(Chats(database, label, context)) as chats:
            terminal = Terminal(chats, start(chats, session, continue_last))
            if question is not None:
                terminal.answer(question)
            else:
                terminal.loop()


@contextlib.contextmanager
def at_engine(model: str, role: str | None) -> Iterator[Context]:
    with Engine.open(model) as engine:
        if role is not None and role not in engine.roles:
            raise SetupError(f"this model has no role {role!r}; it has {', '.join(engine.roles)}")
        chat_model = ChatModel(engine=engine, role=role or writer(engine), temperature=TEMPERATURE)
        if chat_model.window is not None:  # room for the conversation beside the reply
            chat_model.max_tokens = min(REPLY_TOKENS, max(1, chat_model.window // 4))
        if engine.backbone.config.model == "embedded":
            note(SMALL_MODEL)
        yield Context(chat_model, chat_model.window)


@contextlib.contextmanager
def at_server(model: str, role: str | None) -> Iterator[Context]:
    from agents.endpoint import one_sentence
    from agents.models import chat_model

    if role is not None:
        raise UsageError("a server has no roles; leave --role out")
    yield Context(chat_model(model), errors=partial(one_sentence, server_at(model)))


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


@contextlib.contextmanager
def interruptible(cancelled: Event) -> Iterator[None]:
    """Inside, Ctrl-C sets ``cancelled``; a second one is a KeyboardInterrupt."""

    def handler(number: int, frame: Any) -> None:
        if cancelled.is_set():
            raise KeyboardInterrupt
        cancelled.set()

    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class Terminal:
    """A conversation on stdin and stdout; notes go to stderr."""

    def __init__(self, chats: Chats, session: str) -> None:
        self.chats = chats
        self.session = session

    def answer(self, question: str) -> None:
        """One question through a pipe."""
        if self.chats.unanswered(self.session):
            note(f"taken back, as it has no reply: {self.chats.undo(self.session)}")
        if not self.write_reply(question):
            raise KeyboardInterrupt

    def loop(self) -> None:
        """Asks until Ctrl-D or /exit."""
        from prompt_toolkit import PromptSession
        from prompt_toolkit.history import FileHistory
        from prompt_toolkit.output import create_output

        history = cache_dir() / "chat_history"
        history.parent.mkdir(parents=True, exist_ok=True)
        history.touch(mode=0o600)
        prompt: PromptSession[str] = PromptSession(
            "> ",
            history=FileHistory(str(history)),
            multiline=True,
            key_bindings=key_bindings(),
            prompt_continuation="  ",
            output=create_output(always_prefer_tty=True),
        )
        note(f"session {self.session}; /help lists the commands, Ctrl-D leaves")
        if self.chats.unanswered(self.session):
            note("the last question has no reply yet; here it comes")
            self.guarded(None)
        while True:
            try:
                line = prompt.prompt()
            except KeyboardInterrupt:
                note("Ctrl-D or /exit leaves")
                continue
            except EOFError:
                return
            # bytes that are no UTF-8 come as lone surrogates, which neither tokenizers nor files take
            text = line.encode("utf-8", "replace").decode()
            if text.startswith("/"):
                if self.command(text.strip()):
                    return
            elif text.strip():
                self.guarded(text.strip())

    def guarded(self, question: str | None) -> None:
        """A reply in the loop: an error is one sentence, and the question that led to it is taken back."""
        try:
            self.write_reply(question)
        except (JuntoError, ValueError) as error:
            self.chats.undo(self.session)
            print(f"error: {printable(str(error))}", file=sys.stderr, flush=True)

    def write_reply(self, question: str | None) -> bool:
        """Streams the reply; False when Ctrl-C ended it."""
        cancelled = self.chats.context.cancelled
        text = ""
        events = self.chats.reply(self.session, question)
        with interruptible(cancelled):
            try:
                for event in events:
                    if event["kind"] == "token":
                        text += event["text"]
                        sys.stdout.write(printable(event["text"]))
                        sys.stdout.flush()
                    else:
                        note(event["text"])
            except BaseException:
                cancelled.set()  # nobody listens any more, and closing the events waits for the reply
                raise
            finally:
                events.close()
        sys.stdout.write("\n" if text else "")
        sys.stdout.flush()
        if cancelled.is_set():
            note("stopped" if text else "stopped before the first word; the question is taken back")
        elif not text:
            note("the model ended its reply without a word")
        return not cancelled.is_set()

    def command(self, line: str) -> bool:
        """Runs a command; True for /exit."""
        name, _, argument = line.partition(" ")
        argument = argument.strip()
        if name == "/exit":
            return True
        if name == "/help":
            print("\n".join([*(f"{name:<11} {what}" for name, what in HELP.items()), KEYS]))
        elif name == "/sessions":
            self.print_sessions()
        elif name == "/new":
            self.session = new_name()
            note(f"session {self.session}")
        elif name == "/undo":
            question = self.chats.undo(self.session)
            print("there is nothing to take back" if question is None else f"taken back: {printable(question)}")
        elif name == "/save":
            self.save(argument)
        elif name == "/tokens":
            self.print_tokens()
        else:
            known = [known.split()[0] for known in HELP]
            print(f"there is no command {printable(name)}{did_you_mean(name, known) or '; /help lists them'}")
        return False

    def print_sessions(self) -> None:
        found = self.chats.sessions()
        if not found:
            print("there are no sessions yet")
        for s in found:
            mark = "*" if s.name == self.session else " "
            when = time.strftime("%Y-%m-%d %H:%M", time.localtime(s.updated))
            print(f"{mark} {s.name}  {when}  {printable(s.model)}  {printable(s.title)}")

    def print_tokens(self) -> None:
        model, window = self.chats.context.model, self.chats.context.window
        messages = self.chats.messages(self.session)
        if not isinstance(model, ChatModel):  # its tokens are the server's
            counted = getattr(messages[-1], "usage_metadata", None) if messages else None
            print(f"the server counted {counted['total_tokens'] if counted else 'no'} tokens")
            return
        used = model.get_num_tokens_from_messages(messages) if messages else 0
        of = f" of the model's {window}" if window is not None else ""
        over = window is not None and used > window - model.max_tokens
        rest = "; its oldest turns are left out of the prompt" if over else ""
        print(f"the conversation takes {used} tokens{of}, a reply may take {model.max_tokens}{rest}")

    def save(self, name: str) -> None:
        """Writes the conversation to a new file."""
        if not name:
            print("name a file: /save chat.md")
            return
        path = Path(name).expanduser()
        words = {"human": "user", "ai": "assistant"}
        turns = [(words.get(m.type, m.type), m.text) for m in self.chats.messages(self.session)]
        if path.suffix == ".json":
            text = json.dumps([{"role": role, "content": text} for role, text in turns], indent=1, ensure_ascii=False)
        else:
            text = "\n\n".join(f"## {role}\n\n{text}" for role, text in turns)
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(text + "\n")
        except FileExistsError:
            print(f"{path} is there already; give another name")
        except OSError as error:
            print(f"{path} cannot be written: {error.strerror}")
        else:
            print(f"saved: {path}")


def key_bindings() -> Any:
    """Enter sends, Esc Enter starts a new line."""
    from prompt_toolkit.enums import DEFAULT_BUFFER
    from prompt_toolkit.filters import has_focus
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    keys = KeyBindings()

    @keys.add("enter", filter=has_focus(DEFAULT_BUFFER))
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter", filter=has_focus(DEFAULT_BUFFER))
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys
