"""Conversations in files: ``/save``, ``/load`` and ``/export``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, SystemMessage

from alignment.errors import UsageError
from graphs.chat import new_name
from graphs.cli.chat import note
from graphs.cli.output import printable

if TYPE_CHECKING:
    from graphs.cli.chat_terminal import Terminal

ROLES = {"human": "user", "ai": "assistant"}
KINDS: dict[str, Any] = {"user": HumanMessage, "assistant": AIMessage, "system": SystemMessage}
LARGEST = 10_000_000  # bytes of a file that is read


def save(terminal: Terminal, name: str) -> None:
    _write(name, ".json", _json(_turns(terminal)))


def export(terminal: Terminal, name: str) -> None:
    kind = Path(name).suffix.lower()
    turns = _turns(terminal)
    if kind == ".html":
        from graphs.report.chat_page import chat_page

        text = chat_page(f"session {terminal.session}", terminal.talk.wanted.model, turns)
    elif kind == ".json":
        text = _json(turns)
    else:
        text = "\n\n".join(f"## {turn['role']}\n\n{turn['content']}" for turn in turns)
    _write(name, ".md", text)


def load(terminal: Terminal, name: str) -> None:
    if not name:
        raise UsageError("name a file: /load chat.json")
    terminal.chats.begin(session := new_name(), read(Path(name).expanduser()))
    terminal.session = session
    note(f"session {session}; it begins with the conversation of {printable(name)}")


def read(path: Path) -> list[AnyMessage]:
    """The messages of a file that ``/save`` wrote, or of any list of ``{"role", "content"}``. Raises UsageError."""
    try:
        if path.stat().st_size > LARGEST:
            raise UsageError(f"{path} is larger than {LARGEST / 1e6:.0f} MB; it is no conversation")
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise UsageError(f"{path} holds no JSON; /save writes files that /load reads") from None
    found: list[AnyMessage] = []
    for row in rows if isinstance(rows, list) else [None]:
        role, content = (row.get("role"), row.get("content")) if isinstance(row, dict) else (None, None)
        if role not in KINDS or not isinstance(content, str):
            raise UsageError(f'{path} is no list of {{"role": "user" or "assistant", "content": text}}')
        found.append(KINDS[role](content))
    if not any(isinstance(message, HumanMessage) for message in found):
        raise UsageError(f"{path} holds nothing that a user said")
    return found


def _turns(terminal: Terminal) -> list[dict[str, str]]:
    messages = terminal.chats.messages(terminal.session)
    if not messages:
        raise UsageError("there is nothing to write yet")
    return [{"role": ROLES.get(m.type, m.type), "content": m.text} for m in messages]


def _json(turns: list[dict[str, str]]) -> str:
    return json.dumps(turns, indent=1, ensure_ascii=False)


def _write(name: str, usual: str, text: str) -> None:
    """A new file; ``usual`` is the ending of its name that a sentence about it suggests."""
    if not name:
        raise UsageError(f"name a file: chat{usual}")
    path = Path(name).expanduser()
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text + "\n")
    except FileExistsError:
        raise UsageError(f"{path} is there already; give another name") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None
    print(f"saved: {path}")
