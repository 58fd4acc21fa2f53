"""A person's decision in the terminal, where a graph asks for one."""

from __future__ import annotations

import json
import sys
import termios
from typing import Any

from graphs.asking import Asked, OnAsk, Waiting, allowed_in, answer, request_of
from graphs.cli.council import CouncilView
from graphs.cli.output import printable
from graphs.cli.progress import Reporter


def at_hand(view: CouncilView | Reporter) -> OnAsk | None:
    """Who decides while a council sits or a run trains: the person at the terminal, or nobody where there is none."""
    if not sys.stdin.isatty():
        return None

    def on_ask(waiting: Waiting) -> dict[str, Any]:
        with view.paused():
            return decided(waiting)

    return on_ask


def decided(waiting: Waiting) -> dict[str, Any]:
    """An answer to each of the requests. Raises ``waiting`` again where the input ends: it waits on."""
    if sys.stdin.isatty():
        termios.tcflush(sys.stdin, termios.TCIFLUSH)  # what was typed before the question was seen is no answer to it
    try:
        return {name: _answer(asked) for name, asked in waiting.asked.items()}
    except EOFError:
        raise waiting from None


def _answer(asked: Asked) -> dict[str, Any]:
    request, allowed = request_of(asked), allowed_in(asked)
    for said in described(asked):
        print(said, file=sys.stderr)
    lines = request["args"].get("lines", [])
    others = ", a line's number or another answer" if "edit" in allowed else ""
    while True:
        print(f"Enter approves; r rejects, with a reason behind it{others}: ", end="", file=sys.stderr, flush=True)
        # bytes that are no UTF-8 come as lone surrogates, which no checkpoint takes
        given = input().strip().encode("utf-8", "replace").decode()
        if not given:
            return answer("approve")
        if given == "r" or given.startswith("r "):
            return answer("reject", message=given[2:].strip())
        if "edit" in allowed:
            is_line = given.isdecimal() and 1 <= int(given) <= len(lines)
            chosen = lines[int(given) - 1]["answer"] if is_line else given
            return answer("edit", request["name"], {"answer": chosen})


def described(asked: Asked) -> list[str]:
    """A request in words."""
    request = request_of(asked)
    args: dict[str, Any] = request["args"]
    found = [printable(request["description"])]
    if request["name"] == "tool":
        found.append(f"  {printable(args['tool'])}({printable(json.dumps(args['arguments'], ensure_ascii=False))})")
    found += [f"  {printable(name)}: {value:.4g}" for name, value in args.get("figures", {}).items()]
    for number, line in enumerate(args.get("lines", []), 1):
        score = "" if line["score"] is None else f"  {line['score']:+.2f}"
        shown = printable(line["answer"]).replace("\n", " / ")
        mark = "*" if line["answer"] == args["answer"] else " "
        found.append(f"{mark} {number}  {printable(line['expert'])}: {shown}{score}")
    return found
