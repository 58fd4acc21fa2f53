"""What a graph asks a person before it goes on, and what becomes of the answer.

The request has the form of LangChain's human-in-the-loop middleware and of its clients (agent-inbox, agent-chat-ui):
``{"action_requests": [{"name", "args", "description"}], "review_configs": [{"action_name", "allowed_decisions"}]}``.
The answer is ``{"decisions": [{"type": "approve" | "edit" | "reject", ...}]}``, or its one decision alone. An edit has
``"edited_action": {"name", "args"}``, a rejection may have a ``"message"``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from langgraph.types import interrupt

from alignment.errors import JuntoError

Kind = Literal["approve", "edit", "reject"]
KINDS: tuple[Kind, ...] = ("approve", "edit", "reject")
SHOWN = "shown"  # key of an answer: the request that was answered
Asked = dict[str, Any]


@dataclass(frozen=True)
class Decision:
    kind: Kind
    args: dict[str, Any] = field(default_factory=dict)  # of an edit
    message: str = ""  # of a rejection


class Waiting(JuntoError):
    """A thread that waits for a person: ``asked`` are its requests by their ids, ``said`` how it can be answered."""

    def __init__(self, thread: str, asked: dict[str, Asked], said: str = "") -> None:
        names = " and ".join(sorted({request_of(one)["name"] for one in asked.values()}))
        super().__init__(
            said
            or f"the thread {thread!r} waits for a decision (before {names}); junto threads show RUN {thread!r} says "
            f"on what, junto threads resume RUN {thread!r} --decision approve goes on"
        )
        self.thread = thread
        self.asked = asked


OnAsk = Callable[[Waiting], dict[str, Any]]  # -> an answer for each id


def ask(name: str, args: dict[str, Any], description: str, allowed: Sequence[Kind] = KINDS) -> Decision:
    """Stops the graph here until a person has decided; inside a node only. What the node did before is done again."""
    request = {
        "action_requests": [{"name": name, "args": args, "description": description}],
        "review_configs": [{"action_name": name, "allowed_decisions": list(allowed)}],
    }
    given = interrupt(request)
    if isinstance(given, dict) and given.get(SHOWN, request) != request:
        return Decision("reject", message="it came out otherwise than what was decided on")
    return decision_of(given, allowed)


def of_shown(answers: dict[str, Any], asked: dict[str, Asked]) -> dict[str, Any]:
    """The answers with what they are about: a step that is written anew may ask for something else."""
    return {
        name: (one if isinstance(one, dict) else {"decisions": [one]}) | {SHOWN: asked[name]}
        for name, one in answers.items()
        if name in asked
    }


def tied(resume: Any, asked: dict[str, Any]) -> Any:
    """What a client goes on with, as ``of_shown`` where it answers requests of this form: one for the only request, or
    one for each id. Anything else is left as it is."""
    answers = resume if isinstance(resume, dict) and resume and resume.keys() <= asked.keys() else None
    if answers is None and len(asked) == 1:
        answers = dict.fromkeys(asked, resume)
    ours = {name for name, one in asked.items() if isinstance(one, dict) and "action_requests" in one}
    if answers is None or not answers.keys() <= ours:
        return resume
    return of_shown(answers, asked)


def request_of(asked: Asked) -> dict[str, Any]:
    """The one action of a request: name, args and description."""
    found: dict[str, Any] = asked["action_requests"][0]
    return found


def allowed_in(asked: Asked) -> list[str]:
    return list(asked["review_configs"][0]["allowed_decisions"])


def decision_of(answer: Any, allowed: Sequence[str] = KINDS) -> Decision:
    """The decision in an answer. What is none, or is not allowed, is a rejection that says so: an answer is kept with
    the thread, and one that raised would raise for ever."""
    found = answer
    if isinstance(found, dict) and isinstance(found.get("decisions"), list) and len(found["decisions"]) == 1:
        found = found["decisions"][0]
    if not isinstance(found, dict) or found.get("type") not in allowed:
        return Decision("reject", message=f"the answer was none of {', '.join(allowed)}")
    if found["type"] == "edit":
        edited = found.get("edited_action")
        if not isinstance(edited, dict) or not isinstance(edited.get("args"), dict):
            return Decision("reject", message="the edit had no edited_action with args")
        return Decision("edit", args=edited["args"])
    return Decision(found["type"], message=str(found.get("message") or ""))


def answer(kind: str, name: str = "", args: dict[str, Any] | None = None, message: str = "") -> dict[str, Any]:
    """An answer in the form that ``decision_of`` reads."""
    decision: dict[str, Any] = {"type": kind}
    if kind == "edit":
        decision["edited_action"] = {"name": name, "args": args or {}}
    if message:
        decision["message"] = message
    return {"decisions": [decision]}
