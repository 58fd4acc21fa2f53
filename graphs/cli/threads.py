"""``junto threads``: what is said of threads, and going on with one."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from agents.config import CouncilConfig
from alignment.errors import UsageError
from alignment.run_dir import RunDir
from graphs import kept_threads
from graphs.asking import Waiting, allowed_in, answer, request_of
from graphs.cli.asking import at_hand, described
from graphs.cli.council import CouncilView
from graphs.cli.output import console, printable
from graphs.database import address

LONGEST = 60  # characters of a question in a table


def database_of(run: RunDir) -> Path:
    return run.path / "threads.sqlite"


def listing(run: RunDir) -> dict[str, Any]:
    """``{"threads": [...]}``, the newest first."""
    if not database_of(run).is_file() and not address():
        return {"threads": []}
    with kept_threads.opened(database_of(run)) as saver:
        return {"threads": [_summary(kept_threads.state_of(saver, name)) for name in kept_threads.names(saver)]}


def _summary(about: dict[str, Any]) -> dict[str, Any]:
    values = about["values"]
    messages = values.get("messages") or []
    question = values.get("question") or (messages[0].text if messages else "")
    kept = {key: about[key] for key in ("thread", "graph", "state", "checkpoints", "updated")}
    return kept | {"question": question, "answer": values.get("answer") or (messages[-1].text if messages else None)}


def shown(run: RunDir, name: str) -> dict[str, Any]:
    """One thread with what it asks and its history: checkpoints with step, node and time."""
    with kept_threads.opened(database_of(run)) as saver:
        name = kept_threads.found(saver, name)
        about = kept_threads.state_of(saver, name)
        steps = [
            {"checkpoint": one.checkpoint["id"], "step": one.metadata.get("step"), "at": one.checkpoint["ts"]}
            for one in kept_threads.history(saver, name)
        ]
    notes = about["values"].get("notes") or []
    return _summary(about) | {"next": about["next"], "asked": about["asked"], "notes": notes, "history": steps}


def resume(
    run: RunDir, name: str, kind: str | None, said: str | None, reason: str, as_json: bool, allow_code: bool
) -> dict[str, Any]:
    """Goes on with an unfinished or waiting thread of a council or a revision, and returns its result. ``kind`` is the
    decision, ``said`` the answer of an edit. Raises UsageError, and Waiting where it waits on."""
    with kept_threads.opened(database_of(run)) as saver:
        name = kept_threads.found(saver, name)
        about = kept_threads.state_of(saver, name)
    if about["graph"] == "chat":
        session = name.partition("/")[2]
        raise UsageError(f"{name!r} is a chat; go on with it by junto chat {run.path.name} --session {session}")
    if about["graph"] not in ("council", "revise"):
        raise UsageError(f"{name!r} is of a graph of your own; run that with --thread {name.partition('/')[2]}")
    decisions = _decisions(name, about["asked"], kind, said, reason)
    question = about["values"].get("question")
    if question is None:
        raise UsageError(f"{name!r} was ended before its first step; ask its question again")
    with CouncilView(console(sys.stderr)) as view:
        if about["graph"] == "revise":
            from graphs.revise import run_revise

            return run_revise(run.path, question, [], view, name.partition("/")[2])
        from graphs.sitting import run_council

        asking = None if as_json else at_hand(view)
        council = CouncilConfig.model_validate_json(about["settings"]) if about["settings"] else None
        return run_council(run.path, question, [], view, name, allow_code, asking, decisions, council)


def _decisions(name: str, asked: dict[str, Any], kind: str | None, said: str | None, reason: str) -> Any:
    if not asked:
        if kind is not None:
            raise UsageError(f"the thread {name!r} asks for no decision; leave --decision out")
        return None
    if kind is None:
        if not sys.stdin.isatty():
            raise Waiting(name, asked)
        return None
    found = {}
    for one, request in asked.items():
        if kind not in allowed_in(request):
            raise UsageError(f"--decision {kind} is none of {', '.join(allowed_in(request))}, which it asks for")
        if kind == "edit" and not said:
            raise UsageError("--decision edit needs the --answer")
        found[one] = answer(kind, request_of(request)["name"], {"answer": said}, reason)
    return found


def print_threads(found: Sequence[dict[str, Any]], run: RunDir, out: Console) -> None:
    if not found:
        out.print(f"there are no threads of {run.path} yet")
        return
    table = Table("thread", "graph", "state", "checkpoints", "updated", "question", box=None, pad_edge=False)
    for one in found:
        question = " ".join(printable(str(one["question"])).split())[:LONGEST]
        cells = (one["thread"], one["graph"], one["state"], str(one["checkpoints"]), one["updated"][:16], question)
        table.add_row(*map(printable, cells))
    out.print(table)


def print_thread(one: dict[str, Any], out: Console) -> None:
    out.print(f"{printable(one['thread'])}: {one['graph']}, {one['state']}, {one['checkpoints']} checkpoints")
    out.print(f"question: {printable(str(one['question']))}")
    if one["answer"]:
        out.print(f"answer: {printable(str(one['answer']))}")
    for note in one["notes"]:
        out.print(f"note: {printable(note)}")
    for request in one["asked"].values():
        out.print("\n".join(["waits for a decision:", *described(request)]))
    table = Table("checkpoint", "step", "at", box=None, pad_edge=False)
    for step in one["history"]:
        table.add_row(step["checkpoint"], json.dumps(step["step"]), step["at"][:19])
    out.print(table)
