"""The slash commands of a chat: what each says and does."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from langchain_core.messages import AnyMessage, HumanMessage
from rich.table import Table
from rich.text import Text

from agents.chat_model import ChatModel
from agents.config import WRITERS
from agents.server import is_address
from alignment.errors import UsageError
from alignment.run_dir import RunDir
from graphs.chat import new_name
from graphs.cli import chat_files, chat_judge
from graphs.cli.chat import note
from graphs.cli.output import console, printable
from graphs.source import did_you_mean

if TYPE_CHECKING:
    from prompt_toolkit.completion import Completer

    from graphs.cli.chat_terminal import Terminal

KEYS = (
    "Enter sends, Esc Enter starts a new line, Tab completes, Ctrl-R searches, Ctrl-X Ctrl-E opens $EDITOR, Ctrl-C "
    "stops a reply and keeps what came. A space before / sends the line as text."
)


@dataclass(frozen=True)
class Command:
    """``takes`` names its argument, ``what`` is for /help; ``choices`` completes the argument."""

    takes: str
    what: str
    run: Callable[[Terminal, str], None]
    choices: Callable[[Terminal], Sequence[str]] = lambda terminal: ()


def show_help(terminal: Terminal, argument: str) -> None:
    rows = [(f"{name} {command.takes}".strip(), command.what) for name, command in COMMANDS.items()]
    width = max(len(head) for head, _ in rows)
    print("\n".join([*(f"{head:<{width}}  {what}" for head, what in rows), KEYS]))


# -- who replies ------------------------------------------------------------------------------------------


def change_model(terminal: Terminal, name: str) -> None:
    """Another role of this model at once; another model takes this one's place, and the conversation goes on."""
    talk, model = terminal.talk, terminal.chats.context.model
    roles = list(talk.engine.roles) if talk.engine else []
    if not name:
        role = getattr(model, "role", None)
        print(f"{printable(talk.wanted.model)}{f', role {role}' if role else ''}")
        if roles:
            print(f"roles: {', '.join(writers(terminal))}")
        return
    if name in roles and talk.council is not None:
        raise UsageError("the council's seats have roles of their own, which /experts lists; /model takes another run")
    if name in roles and isinstance(model, ChatModel):
        if name not in WRITERS:
            raise UsageError(f"{name} scores and does not write; there are {', '.join(writers(terminal))}")
        model.role = name
        note(f"{name} replies from here on")
        return
    is_run = not is_address(name) and RunDir.find(name, talk.wanted.runs_root) is not None
    terminal.following = replace(talk.wanted, model=name, role=None, graph=talk.wanted.graph if is_run else "chat")


def experts(terminal: Terminal, argument: str) -> None:
    council = terminal.talk.council
    if council is None:
        print("one model replies; junto chat --graph council seats the council of a run")
        return
    table = Table("expert", "role", "temperature", "persona and tools", box=None, pad_edge=False)
    for expert in council.config.experts:
        more = "; ".join(part for part in (expert.persona or council.persona, ", ".join(expert.tools)) if part)
        table.add_row(*map(printable, (expert.name, expert.role, f"{expert.temperature:g}", more)))
    screen = console(sys.stdout)
    screen.print(table)
    config = council.config
    screen.print(
        Text(f"{config.search}, up to {config.rounds} rounds and {config.max_total_tokens} tokens, vote: {config.vote}")
    )
    for said in council.notes:
        screen.print(Text(f"note: {printable(said)}"))


# -- the conversation -------------------------------------------------------------------------------------


def turns_of(messages: Sequence[AnyMessage]) -> list[list[AnyMessage]]:
    """The messages by turns: a question and what follows it."""
    starts = [i for i, message in enumerate(messages) if isinstance(message, HumanMessage)]
    ends = [*starts[1:], len(messages)]
    return [list(messages[start:end]) for start, end in zip(starts, ends, strict=True)]


def undo(terminal: Terminal, argument: str) -> None:
    question = terminal.chats.undo(terminal.session)
    print("there is nothing to take back" if question is None else f"taken back: {printable(question)}")


def retry(terminal: Terminal, argument: str) -> None:
    question = terminal.chats.undo(terminal.session)
    if question is None:
        print("there is nothing to ask again")
        return
    print(f"> {printable(question)}")
    terminal.guarded(question)


def new(terminal: Terminal, argument: str) -> None:
    terminal.session = new_name()
    note(f"session {terminal.session}")


def branch(terminal: Terminal, argument: str) -> None:
    """A new session with the turns up to one; without a number, which turns there are."""
    turns = turns_of(terminal.chats.messages(terminal.session))
    if not argument:
        for number, turn in enumerate(turns, 1):
            print(f"{number}  {printable(' '.join(turn[0].text.split()))[:90]}")
        print(
            "/branch N begins a new session after turn N; 0 is before the first" if turns else "there are no turns yet"
        )
        return
    if not argument.isdecimal() or int(argument) > len(turns):
        raise UsageError(f"{argument!r} is no turn; there are 0 to {len(turns)} (/branch lists them)")
    before = terminal.before = terminal.session
    terminal.session = new_name()
    terminal.chats.begin(terminal.session, [message for turn in turns[: int(argument)] for message in turn])
    note(f"session {terminal.session}, after turn {argument} of {before}; /compare shows both")


def compare(terminal: Terminal, name: str) -> None:
    """Two sessions beside each other, from where they part."""
    name = name or terminal.before or ""
    if not name:
        raise UsageError("name the other session: /compare NAME (/sessions lists them)")
    _known(terminal, name)
    both = [turns_of(terminal.chats.messages(session)) for session in (name, terminal.session)]
    said = [[[(m.type, m.text) for m in turn] for turn in turns] for turns in both]
    same = next((i for i, pair in enumerate(zip(*said, strict=False)) if pair[0] != pair[1]), min(map(len, said)))
    table = Table(name, f"{terminal.session} (this one)", box=None, pad_edge=False, expand=True)
    for i in range(same, max(map(len, both))):
        table.add_row(*(_cell(turns[i]) if i < len(turns) else "" for turns in both))
        table.add_row("", "")
    screen = console(sys.stdout)
    screen.print(Text(f"{same} turns are the same"))
    screen.print(table)


def _cell(turn: Sequence[AnyMessage]) -> Text:
    marks = {"human": "> ", "ai": ""}
    return Text("\n".join(marks.get(m.type, f"{m.type}: ") + printable(m.text) for m in turn))


def _known(terminal: Terminal, name: str) -> None:
    names = session_names(terminal)
    if name not in names:
        raise UsageError(f"there is no session {name!r}{did_you_mean(name, names) or '; /sessions lists them'}")


def sessions(terminal: Terminal, name: str) -> None:
    """Those that there are; with a name, goes on with that one."""
    if name:
        _known(terminal, name)
        terminal.session = name
        note(f"session {name}, {len(turns_of(terminal.chats.messages(name)))} turns")
        return
    found = terminal.chats.sessions()
    if not found:
        print("there are no sessions yet")
    for s in found:
        mark = "*" if s.name == terminal.session else " "
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(s.updated))
        print(f"{mark} {s.name}  {when}  {printable(s.model)}  {printable(s.title)}")


def tokens(terminal: Terminal, argument: str) -> None:
    context = terminal.chats.context
    used = terminal.tokens()
    if used is None:  # the server's
        messages = terminal.chats.messages(terminal.session)
        counted = getattr(messages[-1], "usage_metadata", None) if messages else None
        print(f"the server counted {counted['total_tokens'] if counted else 'no'} tokens")
        return
    model, window = context.model, context.window
    assert isinstance(model, ChatModel)
    of = f" of the model's {window}" if window is not None else ""
    over = window is not None and used > window - model.max_tokens
    rest = "; its oldest turns are left out of the prompt" if over else ""
    print(f"the conversation takes {used} tokens{of}, a reply may take {model.max_tokens}{rest}")


def _leave(terminal: Terminal, argument: str) -> None:
    raise EOFError


def writers(terminal: Terminal) -> list[str]:
    engine = None if terminal.talk.council else terminal.talk.engine
    return [role for role in (engine.roles if engine else ()) if role in WRITERS]


def session_names(terminal: Terminal) -> list[str]:
    return [session.name for session in terminal.chats.sessions()]


COMMANDS = {
    "/help": Command("", "this list", show_help),
    "/model": Command(
        "[NAME]",
        "who replies; another role, run, model or server takes over, and the conversation goes on",
        change_model,
        writers,
    ),
    "/experts": Command("", "the seats of the council", experts),
    "/tree": Command("", "the thoughts of the last sitting, and its page", chat_judge.tree),
    "/why": Command(
        "[METHOD]",
        "why the reward model scores the last reply as it does, and, of a council, against the runner-up",
        chat_judge.why,
        lambda terminal: chat_judge.METHODS,
    ),
    "/score": Command("", "the reward of the last reply", chat_judge.score),
    "/branch": Command("[N]", "a new session after turn N of this one; without a number, the turns", branch),
    "/compare": Command(
        "[NAME]",
        "this session beside another one, or beside that which it was branched off, from where they part",
        compare,
        session_names,
    ),
    "/undo": Command("", "take back the last question and its reply", undo),
    "/retry": Command("", "take back the last reply and ask again", retry),
    "/tokens": Command("", "how much of the model's window the conversation takes", tokens),
    "/save": Command("FILE", "write the conversation as JSON, for /load", chat_files.save),
    "/load": Command("FILE", "a new session with the conversation of a file", chat_files.load),
    "/export": Command("FILE", "write the conversation as .md, .html or .json", chat_files.export),
    "/sessions": Command(
        "[NAME]",
        "the sessions that are kept; with a name, go on with it",
        sessions,
        session_names,
    ),
    "/new": Command("", "start a new session", new),
    "/exit": Command("", "leave (or Ctrl-D)", _leave),
}
FILES = ("/save", "/load", "/export")


def completions(terminal: Terminal) -> Completer:
    """Commands, and what each takes, of lines that begin with a slash."""
    from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
    from prompt_toolkit.document import Document

    paths = PathCompleter(expanduser=True)

    class Commands(Completer):
        def get_completions(self, document: Document, event: CompleteEvent) -> Iterator[Completion]:
            line = document.text_before_cursor
            name, space, argument = line.partition(" ")
            if not line.startswith("/"):
                return
            if not space:
                yield from (
                    Completion(one, -len(line), display_meta=c.what)
                    for one, c in COMMANDS.items()
                    if one.startswith(line)
                )
            elif name in FILES:
                yield from paths.get_completions(Document(argument), event)
            elif name in COMMANDS:
                found = COMMANDS[name].choices(terminal)
                yield from (Completion(one, -len(argument)) for one in found if one.startswith(argument))

    return Commands()
