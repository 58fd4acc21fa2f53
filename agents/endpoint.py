"""A model behind an OpenAI-compatible server (vLLM, llama.cpp, a hosted one) as the part of the engine that writes."""

from __future__ import annotations

import hashlib
import json
import math
import queue
import re
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import openai

from agents.server import KEY, NO_KEY, Server, api_key, server_at
from alignment.decoding import Completion, Lark, Prompt, Request
from alignment.errors import JuntoError, SetupError, UsageError

AT_ONCE = 16  # requests of a batch that are sent at a time
SECONDS = 120.0  # that a server may be silent
# what not every server takes and a completion can do without
OPTIONAL = frozenset({"structured_outputs", "min_p", "logprobs", "seed", "stream_options"})
GO_ON = "Go on after these lines with those that are still missing. Repeat none, and write nothing else."


@dataclass(frozen=True)
class Written(Completion):
    """A completion of a server, which gives no token ids: ``ids`` is empty, and ``counted`` are the tokens."""

    counted: int = 0

    @property
    def tokens(self) -> int:
        return self.counted


@contextmanager
def one_sentence(server: Server) -> Iterator[None]:
    """Inside, an error of the client is a JuntoError that says what was wrong with ``server``."""
    try:
        yield
    except openai.OpenAIError as error:
        raise explained(error, server) from None  # a server may have put the key into its error
    except json.JSONDecodeError:
        raise JuntoError(f"the server {server.url} sent what is no completion; does its address end in /v1?") from None


def explained(error: openai.OpenAIError, server: Server) -> JuntoError:
    """What went wrong, and how to mend it. The key is nowhere in it."""
    where, said = f"the server {server.url}", _said(error)
    status = getattr(error, "status_code", None)
    if isinstance(error, openai.APITimeoutError):
        return JuntoError(f"{where} was silent for {SECONDS:.0f} s; see whether it is busy or stuck")
    if isinstance(error, openai.APIConnectionError):
        return SetupError(f"{where} cannot be reached ({said}); start it, or correct the address")
    if status in (401, 403):
        wrong = "does not take the key" if api_key() else "wants a key"
        return SetupError(f"{where} {wrong}; set {KEY} to one that is valid there")
    if status == 404:
        return UsageError(
            f"{where} has no model {server.model!r} ({said}); {server.url}/models lists those that it has, and most "
            "addresses end in /v1#model-name"
        )
    if status == 429:
        return JuntoError(f"{where} takes no more requests ({said}); wait a while, or raise your limit there")
    if status is not None and status < 500:
        return UsageError(f"{where} refuses the request ({said})")
    return JuntoError(f"{where} failed ({said}); run the same command again, or look into its log")


class Endpoint:
    """Writes as the engine does: ``generate``, ``stream`` and ``streams`` of requests. There is one role, ``base``, and
    no scores.

    ``Request.prefix`` is sent as the assistant's message, with a user's behind it that asks to go on: not every server
    continues a last message of the assistant. ``stop`` is not sent: the server would take the text away and not say
    whether it was met, and to a council the end of the text means something else. So replies are read up to
    ``max_tokens`` and cut here; ``tokens`` is what the server counted for all of it, or the pieces that it sent where
    it counts none. A regular expression is sent as vLLM's ``structured_outputs``, and what does not fit it in the end
    has the finish ``grammar``. ``unlike`` is not sent. ``logprob`` sums what the server reports for the pieces up to
    the stop, on most servers at temperature 1; nan where it reports none.
    """

    roles = ("base",)

    def __init__(self, server: Server) -> None:
        self.server = server
        self._client = openai.OpenAI(base_url=server.url, api_key=api_key() or NO_KEY, timeout=SECONDS)
        self._refused: frozenset[str] = frozenset()

    @classmethod
    def open(cls, address: str) -> Endpoint:
        """Asks the server for a word, so that a wrong address, key or model is one sentence here, and what the server
        does not take is known. Raises JuntoError."""
        endpoint = cls(server_at(address))
        try:
            endpoint.generate([Request([{"role": "user", "content": "Say yes."}], grammar="yes")])
        except BaseException:
            endpoint.close()
            raise
        return endpoint

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Completions in the order of the requests."""
        writing = self.streams(requests)
        while True:
            try:
                next(writing)
            except StopIteration as end:
                return end.value

    def streams(self, requests: Sequence[Request]) -> Generator[tuple[int, str], None, list[Completion]]:
        """Pieces of all texts as they come, each with the index of its request; all completions as the return value.
        The first error ends it."""
        told: queue.SimpleQueue[tuple[int, str | Completion | Exception]] = queue.SimpleQueue()
        todo = iter(range(len(requests)))
        gone = threading.Event()

        def write() -> None:
            for index in todo:
                stream = self.stream(requests[index])
                try:
                    while not gone.is_set():
                        told.put((index, next(stream)))
                except StopIteration as end:
                    told.put((index, end.value))
                except Exception as error:
                    told.put((index, error))
                finally:
                    stream.close()

        # daemons, so that Ctrl-C does not wait for a server that is silent
        for _ in range(min(len(requests), AT_ONCE)):
            threading.Thread(target=write, name="junto-endpoint", daemon=True).start()
        done: dict[int, Completion] = {}
        try:
            while len(done) < len(requests):
                index, part = told.get()
                if isinstance(part, Exception):
                    raise part
                if isinstance(part, Completion):
                    done[index] = part
                else:
                    yield index, part
        finally:
            gone.set()
        return [done[index] for index in range(len(requests))]

    def stream(self, request: Request) -> Generator[str, None, Completion]:
        """Pieces of text as they come, and the completion as the return value; closing the iterator cancels it.
        Raises JuntoError."""
        fits = _pattern(request.grammar)
        text, emitted, logprobs, pieces, reason, usage = "", 0, [], 0, None, None
        end = None  # of the first stop
        with one_sentence(self.server), self._create(request) as chunks:
            for chunk in chunks:
                usage = chunk.usage or usage
                if not chunk.choices:  # the last one, which has the usage
                    continue
                choice = chunk.choices[0]
                reason = choice.finish_reason or reason
                piece = choice.delta.content or ""
                pieces += bool(piece)
                if end is not None:
                    continue
                if choice.logprobs and choice.logprobs.content:
                    logprobs += [token.logprob for token in choice.logprobs.content]
                text += piece
                end = _end(text, request.stop)
                if piece:
                    yield text[emitted:end]
                emitted = len(text)
        if reason not in ("stop", "length"):
            why = f"ended the reply by {reason!r}" if reason else "sent no whole reply"
            raise JuntoError(f"the server {self.server.url} {why}; does its address end in /v1, and is it well?")
        text = text[:end]
        finish = "stop" if end is not None else "eos" if reason == "stop" else "length"
        if fits and finish != "length" and not fits.fullmatch(text):
            finish = "grammar"
        return Written(
            text,
            ids=(),
            prompt_tokens=usage.prompt_tokens if usage else 0,
            logprob=sum(logprobs) if logprobs else math.nan,
            finish=finish,
            counted=usage.completion_tokens if usage else pieces,
        )

    def score(self, prompts: Sequence[Prompt], responses: Sequence[str], role: str = "reward") -> list[float]:
        raise SetupError(f"a server has no {role} head; open a run that has trained one")

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _create(self, request: Request) -> Any:
        """The reply's stream; leaves out, from now on, what the server does not take."""
        refused = self._refused
        while True:
            body = {name: value for name, value in _body(request, refused).items() if name not in refused}
            try:
                stream = self._client.chat.completions.create(
                    model=self.server.model, messages=_messages(request), stream=True, extra_body=body
                )
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                said = str(error)
                sent = OPTIONAL & body.keys()
                named = {name for name in sent if name in said}
                if "max_completion_tokens" in said and "max_tokens" in body:
                    named.add("max_tokens")
                if not sent and not named:
                    raise
                refused |= named or sent
            else:
                self._refused |= refused  # kept only where leaving it out helped
                return stream


def _body(request: Request, refused: frozenset[str]) -> dict[str, Any]:
    # OpenAI's own models that think take only the new name, other servers only the old one
    limit = "max_completion_tokens" if "max_tokens" in refused else "max_tokens"
    body: dict[str, Any] = {
        limit: request.max_tokens,
        "temperature": request.temperature,
        "seed": int(hashlib.sha256(f"{request.seed}".encode()).hexdigest()[:8], 16) // 2,  # 31 bits
        "logprobs": True,
        "stream_options": {"include_usage": True},
    }
    if request.grammar:
        body["structured_outputs"] = {"regex": request.grammar}
    if request.min_p:  # vLLM and llama.cpp know it
        body["min_p"] = request.min_p
    return body


def _messages(request: Request) -> Prompt:
    if not request.prefix:
        return request.prompt
    return [*request.prompt, {"role": "assistant", "content": request.prefix}, {"role": "user", "content": GO_ON}]


def _pattern(grammar: str | Lark | None) -> re.Pattern[str] | None:
    if isinstance(grammar, Lark):
        raise UsageError("a Lark grammar cannot be sent to a server; give a regular expression, or open a run")
    try:
        return re.compile(grammar) if grammar else None
    except re.error as error:
        raise ValueError(f"the grammar {grammar!r} cannot be used: {error}") from None


def _end(text: str, stops: Sequence[str]) -> int | None:
    """Where the first stop ends."""
    return min((at + len(stop) for stop in stops if (at := text.find(stop)) >= 0), default=None)


def _said(error: openai.OpenAIError) -> str:
    """The server's own words, or the cause, fit to be printed."""
    body = getattr(error, "body", None)
    text = (body.get("message") if isinstance(body, dict) else None) or error.__cause__ or error
    words = " ".join(f"{text}".replace(api_key() or "\0", "...").split())
    return "".join(letter for letter in words if letter.isprintable())[:200].rstrip(".")
