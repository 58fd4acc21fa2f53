"""What a client is told when it does not get what it asked for: a status, and one sentence."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

import orjson
from langchain_core.exceptions import ContextOverflowError
from langgraph.errors import EmptyInputError, GraphRecursionError, InvalidUpdateError
from starlette.responses import Response

from alignment.errors import JuntoError, SetupError

LOG = logging.getLogger(__name__)


@dataclass(eq=False)
class Refusal(Exception):
    """``param`` is the field of the request that is wrong, ``code`` OpenAI's word for what it is."""

    status: int
    sentence: str
    param: str | None = None
    code: str | None = None
    headers: dict[str, str] = field(default_factory=dict)


def busy(sentence: str) -> Refusal:
    return Refusal(503, f"{sentence}; try again in a moment", code="overloaded", headers={"Retry-After": "1"})


def refusal_of(error: BaseException) -> Refusal:
    """What a client is told of whatever went wrong; mistakes of ours are logged, and only named to the client."""
    if isinstance(error, Refusal):
        return error
    sentence = (str(error).strip().splitlines() or [""])[0][:500]
    if isinstance(error, ContextOverflowError):
        return Refusal(400, sentence, "messages", "context_length_exceeded")
    if isinstance(error, SetupError):
        return Refusal(500, sentence)
    # ValueError: what LangChain, LangGraph and the grammar's compiler say of a wrong value
    if isinstance(error, JuntoError | ValueError | EmptyInputError | InvalidUpdateError):
        return Refusal(400, sentence or "a value in the request is wrong")
    if isinstance(error, GraphRecursionError):
        return Refusal(400, "the graph needs more steps than config.recursion_limit; give a higher one")
    if isinstance(error, RuntimeError) and "multiple pending interrupts" in sentence:
        return Refusal(
            400, "several decisions are waited for; resume with an object of an answer for each interrupt's id"
        )
    if isinstance(error, RecursionError):
        return Refusal(400, "a value in the request is nested too deeply")
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return busy("the memory does not suffice for this request now")
    if isinstance(error, RuntimeError) and sentence == "the engine is closed":
        return busy("the server is shutting down")
    LOG.error("a request failed", exc_info=error)
    return Refusal(500, f"the server made a mistake ({type(error).__name__}); its log says more")


def openai_error(refusal: Refusal) -> dict[str, Any]:
    kind = "server_error" if refusal.status >= 500 else "invalid_request_error"
    about = {"message": refusal.sentence, "type": kind, "param": refusal.param, "code": refusal.code}
    return {"error": about}


def refused(refusal: Refusal, path: str) -> Response:
    """The response, in the shape that clients of ``path`` expect."""
    openai = path == "/v1" or path.startswith("/v1/")
    content = openai_error(refusal) if openai else {"detail": refusal.sentence}
    return as_json(content, refusal.status, refusal.headers)


def as_json(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(content), status, headers, "application/json")
