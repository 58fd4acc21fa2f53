"""A conversation in the terminal: lines that are typed, replies as they are written."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Iterator
from threading import Event
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.markdown import Markdown

from agents.chat_model import ChatModel
from alignment.embedded import cache_dir
from graphs.asking import Waiting
from graphs.chat import Chats
from graphs.cli.asking import decided
from graphs.cli.chat import Talk, Wanted, note
from graphs.cli.chat_commands import COMMANDS, completions
from graphs.cli.council import CouncilView
from graphs.cli.output import console, printable, unechoed
from graphs.database import Claimed
from graphs.source import did_you_mean

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession


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
    """A conversation on stdin and stdout; notes go to stderr. ``following`` is who the user wants to talk to next."""

    def __init__(self, talk: Talk, session: str) -> None:
        self.talk: Talk = talk
        self.chats: Chats = talk.chats
        self.session = session
        self.following: Wanted | None = None
        self.before: str | None = None  # the session that this one was branched off
        self.rate = 0.0  # tokens per second of the last reply

    def answer(self, question: str) -> None:
        """One question through a pipe."""
        if self.chats.unanswered(self.session):
            note(f"taken back, as it has no reply: {self.chats.undo(self.session)}")
        if not self.write_reply(question):
            raise KeyboardInterrupt

    def loop(self) -> Wanted | None:
        """Asks until Ctrl-D or /exit, or until somebody else is to reply: who."""
        prompt = self._prompt()
        note(f"session {self.session}; /help lists the commands, Ctrl-D leaves")
        if self.chats.unanswered(self.session):
            note("the last question has no reply yet; here it comes")
            self.guarded(None)
        while self.following is None:
            try:
                line = prompt.prompt()
            except KeyboardInterrupt:
                note("Ctrl-D or /exit leaves")
                continue
            except EOFError:
                return None
            # bytes that are no UTF-8 come as lone surrogates, which neither tokenizers nor files take
            text = line.encode("utf-8", "replace").decode()
            if text.strip() == "/exit":
                return None
            if text.startswith("/"):
                self.command(text.strip())
            elif text.strip():
                self.guarded(text.strip())
        return self.following

    def _prompt(self) -> PromptSession[str]:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.history import FileHistory
        from prompt_toolkit.output import create_output

        history = cache_dir() / "chat_history"
        history.parent.mkdir(parents=True, exist_ok=True)
        history.touch(mode=0o600)
        return PromptSession(
            "> ",
            history=FileHistory(str(history)),
            multiline=True,
            key_bindings=key_bindings(),
            prompt_continuation="  ",
            completer=completions(self),
            complete_while_typing=False,  # Tab: a menu under every word would hide the reply
            enable_open_in_editor=True,  # Ctrl-X Ctrl-E
            bottom_toolbar=self.toolbar if sys.stdout.isatty() else None,
            output=create_output(always_prefer_tty=True),
        )

    def toolbar(self) -> str:
        role = getattr(self.chats.context.model, "role", None)
        who = "council" if self.talk.council else role or "chat"
        rate = f"   {self.rate:.0f} tokens/s" if self.rate else ""
        return printable(f" {self.talk.wanted.model}: {who}   session {self.session}{rate}   /help ")

    def command(self, line: str) -> None:
        """Runs a command; an error of it is one sentence."""
        name, _, argument = line.partition(" ")
        if name not in COMMANDS:
            hint = did_you_mean(name, list(COMMANDS)) or "; /help lists them"
            print(f"there is no command {printable(name)}{hint}")
            return
        try:
            COMMANDS[name].run(self, argument.strip())
        except Exception as error:  # a conversation does not end by one of its commands
            tell_error(error)
        except KeyboardInterrupt:
            note(f"{name} stopped")

    def guarded(self, question: str | None) -> None:
        """A reply in the loop: an error is one sentence, and the question that led to it is taken back. A council that
        waits for a person is given what the person says."""
        decisions = None
        while True:
            self.chats.context.decisions, decisions = decisions, None
            try:
                self.write_reply(question)
                return
            except Waiting as waiting:
                question = None
                try:
                    decisions = decided(waiting)
                except Waiting:
                    note("the council waits for your decision; the session goes on with it")
                    return
            except Claimed as error:  # what is unanswered there is another program's
                tell_error(error)
                return
            except Exception as error:  # nor by a reply that fails
                with contextlib.suppress(Claimed):
                    if self.chats.unanswered(self.session):
                        self.chats.undo(self.session)
                tell_error(error)
                return

    def write_reply(self, question: str | None) -> bool:
        """Streams the reply; False when Ctrl-C ended it."""
        cancelled = self.chats.context.cancelled
        cancelled.clear()
        events = self.chats.reply(self.session, question)
        with interruptible(cancelled):
            try:
                began = time.monotonic()
                text = self._sitting(events) if self.talk.council else self._words(events)
            except BaseException:
                cancelled.set()  # nobody listens any more, and closing the events waits for the reply
                raise
            finally:
                events.close()
        self._count(time.monotonic() - began)
        if cancelled.is_set():
            note("stopped" if text else "stopped before the first word; the question is taken back")
        elif not text:
            note("the model ended its reply without a word")
        return not cancelled.is_set()

    def _words(self, events: Iterator[dict[str, Any]]) -> str:
        text = ""
        # to a pipe, as it is; on a screen, formatted
        with written(console(sys.stdout)) if sys.stdout.isatty() else contextlib.nullcontext(plainly) as write:
            for event in events:
                if event["kind"] == "token":
                    text += event["text"]
                    write(printable(event["text"]))
                else:
                    note(event["text"])
        if not sys.stdout.isatty():
            plainly("\n" if text else "")
        return text

    def _sitting(self, events: Iterator[dict[str, Any]]) -> str:
        """A council's columns, or its lines where there is no room, on stderr; the verdict on stdout."""
        assert self.talk.council is not None
        names = [expert.name for expert in self.talk.council.config.experts]
        with CouncilView(console(sys.stderr), names) as view:
            for event in events:
                view(event)
        reply = self.chats.messages(self.session)[-1]
        plainly(f"{printable(reply.text)}\n")
        solved = reply.response_metadata["council"]["solved"]
        if solved is not None:
            note("checked: solved" if solved else "checked: not solved")
        return reply.text

    def _count(self, seconds: float) -> None:
        messages = self.chats.messages(self.session)
        usage = getattr(messages[-1], "usage_metadata", None) if messages else None
        self.rate = usage["output_tokens"] / max(seconds, 1e-9) if usage else 0.0

    def tokens(self) -> int | None:
        """What the conversation takes of the model's window; None where a server counts."""
        model, messages = self.chats.context.model, self.chats.messages(self.session)
        if not isinstance(model, ChatModel):
            return None
        return model.get_num_tokens_from_messages(messages) if messages else 0


def tell_error(error: Exception) -> None:
    from graphs.cli.main import explain_error

    print(f"error: {printable(explain_error(error)[0])}", file=sys.stderr, flush=True)


def plainly(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


@contextlib.contextmanager
def written(screen: Console) -> Iterator[Any]:
    """Inside, a function that takes pieces of Markdown. Finished blocks are printed for good; the one that is being
    written is drawn anew with every piece, so that no more than it has to fit on the screen."""
    text = ""

    def drawn(part: str) -> Markdown:
        return Markdown(part, hyperlinks=False)  # an address behind other words would mislead

    live = Live(console=screen, transient=True, refresh_per_second=12, vertical_overflow="visible")
    with unechoed(), live:

        def write(piece: str) -> None:
            nonlocal text
            text += piece
            finished, text = parted(text)
            if finished:
                live.console.print(drawn(finished))
            live.update(drawn(text))

        try:
            yield write
        finally:
            live.update("")
    if text:
        screen.print(drawn(text))


def parted(text: str) -> tuple[str, str]:
    """What is finished of a Markdown text, up to its last blank line outside of a block of code, and the rest."""
    end, place, in_code = 0, 0, False
    for line in text.splitlines(keepends=True):
        place += len(line)
        if line.lstrip().startswith(("```", "~~~")):
            in_code = not in_code
        elif not line.strip() and not in_code and line.endswith("\n"):
            end = place
    return text[:end], text[end:]


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
