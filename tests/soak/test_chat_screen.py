"""A chat on a real screen: the installed command in tmux, every command of it, kill -9 in the middle of a reply.

Run by ``make soak``, on the council that comes trained. What the screen showed is printed (``pytest -s``), and drawn
as ``council.svg`` and ``why.svg`` in the test's folder.
"""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console
from rich.text import Text

from graphs.cli.chat_commands import COMMANDS

ROOT = Path(__file__).parents[2]
STORY = "Tell me a long story about the oldest bridge in the town."
pytestmark = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")


class Screen:
    """A terminal of 110 columns, in a tmux server of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tmux = ["tmux", "-L", f"junto-{os.getpid()}", "-f", "/dev/null"]

    def begin(self, *arguments: str) -> None:
        self.end()
        command = " ".join([f"PYTHONPATH={ROOT}", sys.executable, "-m", "graphs.cli", "chat", *arguments])
        # Ctrl-C reaches this shell, too, which has to outlive it; the width is that of the terminal
        shell = f"trap : INT; unset COLUMNS; cd {self.folder}; {command}; echo ended with $?; sleep 600"
        subprocess.run([*self.tmux, "new-session", "-d", "-x", "110", "-y", "50", "sh", "-c", shell], check=True)

    def type(self, line: str) -> None:
        subprocess.run([*self.tmux, "send-keys", "-l", line], check=True)
        subprocess.run([*self.tmux, "send-keys", "Enter"], check=True)

    def text(self) -> str:
        shown = subprocess.run([*self.tmux, "capture-pane", "-p", "-J", "-S", "-2000"], capture_output=True, text=True)
        return shown.stdout.rstrip()

    def picture(self, name: str) -> None:
        shown = subprocess.run([*self.tmux, "capture-pane", "-p", "-e"], capture_output=True, text=True, check=True)
        console = Console(width=110, record=True, file=io.StringIO())
        console.print(Text.from_ansi(shown.stdout.rstrip()))
        console.save_svg(str(self.folder / name), title="junto chat")
        print(f"picture: {self.folder / name}")

    def wait(self, until: Callable[[str], bool], seconds: float = 240.0) -> str:
        end = time.monotonic() + seconds
        while not until(text := self.text()):
            assert time.monotonic() < end, text
            time.sleep(0.2)
        return text

    def ask(self, line: str, expected: str) -> None:
        """Types a line, and waits for what it has to show, and for the prompt behind it."""
        before = self.text().count(expected)
        self.type(line)
        self.wait(lambda text: text.count(expected) > before and text.splitlines()[-2].strip() in (">", ""))

    def process(self) -> int:
        found = subprocess.run(["pgrep", "-n", "-f", "graphs.cli chat"], capture_output=True, text=True, check=True)
        return int(found.stdout)

    def end(self) -> None:
        subprocess.run([*self.tmux, "kill-server"], capture_output=True)
        time.sleep(0.5)


@pytest.fixture
def screen(tmp_path: Path) -> Iterator[Screen]:
    (tmp_path / "adapters").symlink_to(ROOT / "adapters")
    screen = Screen(tmp_path)
    yield screen
    screen.end()


@pytest.mark.soak
def test_every_command_and_a_kill(screen: Screen, tmp_path: Path) -> None:
    screen.begin("game24", "--graph", "council", "--session", "mine")
    screen.wait(lambda text: "/help lists the commands" in text)
    screen.ask("/help", "Ctrl-C stops a reply")
    screen.ask("/experts", "vote:")
    screen.type("4 7 8 8")
    screen.wait(lambda text: "round 2" in text)
    screen.picture("council.svg")
    screen.wait(lambda text: "checked: solved" in text and text.splitlines()[-2].strip() in (">", ""))
    screen.ask("/tree", "page: ")
    screen.ask("/score", "8 * 3 = 24")
    screen.ask("/why", "LIME's weights account")
    screen.picture("why.svg")
    screen.ask("1 2 3 4", "checked: ")
    screen.ask("/retry", "checked: ")
    screen.ask("/undo", "taken back: 1 2 3 4")
    screen.ask("/branch", "1  4 7 8 8")
    screen.ask("/branch 1", "after turn 1 of mine")
    screen.ask("3 3 8 8", "checked: ")
    screen.ask("/compare", "1 turns are the same")
    screen.ask("/tokens", "the conversation takes")
    for name in ("/save chat.json", "/export chat.html", "/export chat.md"):
        screen.ask(name, f"saved: {name.split()[1]}")
    screen.ask("/load chat.json", "begins with the conversation of chat.json")
    screen.ask("/sessions", "* 20")
    screen.ask("/new", "note: session 20")
    screen.ask("/sessions mine", "session mine, 1 turns")
    screen.ask("/nonsense", "there is no command /nonsense")
    first = screen.text()
    print(first)
    assert {line.split()[1] for line in first.splitlines() if line.startswith("> /")} >= {*COMMANDS} - {
        "/model",
        "/exit",
    }

    screen.type("5 5 5 1")
    screen.wait(lambda text: "1 5 " in text.rpartition("> 5 5 5 1")[2])  # the first steps are told
    os.kill(screen.process(), signal.SIGKILL)
    screen.wait(lambda text: "ended with 137" in text or "Killed" in text)
    screen.begin("game24", "--graph", "council", "--session", "mine")
    screen.wait(lambda text: "the last question has no reply yet; here it comes" in text)
    screen.wait(lambda text: "checked: " in text)
    screen.ask("/branch", "2  5 5 5 1")
    screen.ask("/model embedded", "it shows the machinery")
    screen.ask("/model", "embedded, role base")
    asked = f"> {STORY}"
    for times in range(1, 6):  # a reply can be short, and end before it is stopped
        screen.type(STORY)
        screen.wait(lambda text, times=times: text.count(asked) == times and len(text.rpartition(asked)[2].split()) > 3)
        subprocess.run([*screen.tmux, "send-keys", "C-c"], check=True)
        told = screen.wait(lambda text: "note: " in text.rpartition(asked)[2])
        if "note: stopped" in told:
            break
    assert "note: stopped" in told
    screen.type("/exit")
    print(screen.wait(lambda text: "ended with 0" in text))
