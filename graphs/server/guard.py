"""Who may ask, and how much: addresses, origins, the token, sizes, and how many requests there are at a time."""

from __future__ import annotations

import asyncio
import base64
import hmac
import ipaddress
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response

from graphs.server.refusals import Refusal, busy, refused

BODY_SECONDS = 30.0  # in which a body must arrive
AUTHORITY = re.compile(r"(?:([A-Za-z0-9.-]+)|\[([0-9A-Fa-f:.]+)\])(?::[0-9]{1,5})?")
BASIC = 'Basic realm="Junto: the token is the password, any name will do"'  # a browser then asks for it
DRAINED = 16  # times the limit: what is read of a body that is too long, so that its sender hears why

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


@dataclass(frozen=True)
class Limits:
    """``body`` in bytes; ``requests`` at a time, and pieces of work at a time."""

    body: int = 2**20
    requests: int = 64


@dataclass(frozen=True)
class Policy:
    """``loopback``: the server is bound to this machine alone, and answers to this machine's names only."""

    token: str | None = None
    loopback: bool = True
    limits: Limits = Limits()
    own_pages: bool = False  # only pages that came from this server may ask it, not others of this machine


def is_loopback(host: str) -> bool:
    """Whether a host's name or address, without a port, is this machine's own."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_of(authority: str) -> str:
    """``localhost`` of ``localhost:2024``, ``::1`` of ``[::1]:2024``; empty for what is no authority."""
    found = AUTHORITY.fullmatch(authority)
    return (found[1] or found[2]) if found else ""


def check_origin(headers: Mapping[str, str], loopback: bool, own_pages: bool = False) -> str | None:
    """The origin of the page that asks, if it is a page. Raises Refusal (403) for a Host that is not this machine,
    which a foreign page can make its own name resolve to, and for a page from elsewhere."""
    host = headers.get("host", "")
    if loopback and not is_loopback(host_of(host)):
        raise Refusal(403, "the Host header names another machine; ask for localhost or 127.0.0.1")
    origin = headers.get("origin")
    if origin is not None:
        scheme, _, authority = origin.partition("://")
        known = scheme in ("http", "https") and host_of(authority)
        if not known or not (authority == host or (is_loopback(known) and not own_pages)):
            raise Refusal(403, "pages from other sites may not ask this server; open the page from this machine")
    return origin


def check_token(headers: Mapping[str, str], token: str | None, challenge: str = "Bearer") -> None:
    """Raises Refusal (401) where a token is wanted and none of the two headers has it."""
    if token is None:
        return
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    given = [said_by(scheme.lower(), credentials.strip()), headers.get("x-api-key", "")]
    # both are compared, whatever the first one gives
    if not any([hmac.compare_digest(one.encode("utf-8", "replace"), token.encode()) for one in given]):
        sentence = "the token is missing or wrong; send it as Authorization: Bearer TOKEN or as x-api-key"
        raise Refusal(401, sentence, code="invalid_api_key", headers={"WWW-Authenticate": challenge})


def said_by(scheme: str, credentials: str) -> str:
    """The token of an Authorization header: itself, or the password by which a browser sends it."""
    if scheme == "basic":
        with suppress(ValueError):
            return base64.b64decode(credentials, validate=True).decode().partition(":")[2]
    return credentials if scheme == "bearer" else ""


async def read_body(headers: Mapping[str, str], receive: Receive, limit: int) -> bytes:
    """Raises Refusal: 413 for more than ``limit`` bytes, 408 for one that does not arrive."""
    body, size = bytearray(), 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Refusal(400, "the body broke off")
                size += len(message.get("body", b""))
                if size <= limit:
                    body += message.get("body", b"")
                if size > DRAINED * limit or not message.get("more_body"):
                    break
    except TimeoutError:
        raise Refusal(408, f"the body did not arrive within {BODY_SECONDS:g} seconds") from None
    if size > limit:
        raise Refusal(413, f"the body is longer than {limit} bytes; send less at a time")
    return bytes(body)


class Guard:
    """The outermost layer: the app behind it sees only requests that may be asked, with a body that is there."""

    def __init__(self, app: App, policy: Policy) -> None:
        self.app = app
        self.policy = policy
        self.requests = 0

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        headers, path = Headers(scope=scope), scope["path"]
        origin = None
        self.requests += 1
        try:
            try:
                origin = check_origin(headers, self.policy.loopback, self.policy.own_pages)
                if origin and scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
                    await Response(status_code=204)(scope, receive, with_cors(send, origin, headers))
                    return
                if path != "/ok":
                    check_token(headers, self.policy.token, BASIC if self.policy.own_pages else "Bearer")
                    if self.requests > self.policy.limits.requests:
                        raise busy("the server has too many requests")
                body = await read_body(headers, receive, self.policy.limits.body)
            except Refusal as refusal:
                await refused(refusal, path)(scope, receive, with_cors(send, origin, headers))
                return
            await self.app(scope, after(body, receive), with_cors(send, origin, headers))
        finally:
            self.requests -= 1


def after(body: bytes, receive: Receive) -> Receive:
    """A ``receive`` that gives a body which was read before, and then what the connection gives."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay


def with_cors(send: Send, origin: str | None, headers: Mapping[str, str]) -> Send:
    """A ``send`` that lets the page of ``origin`` read what it asked for."""
    if origin is None:
        return send

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            own = MutableHeaders(scope=message)
            own["Access-Control-Allow-Origin"] = origin
            own["Access-Control-Allow-Methods"] = "GET, POST, PUT, PATCH, DELETE"
            own["Access-Control-Allow-Headers"] = headers.get("access-control-request-headers", "*")
            own["Access-Control-Expose-Headers"] = "Content-Location, Location, Retry-After, X-Pagination-Total"
            own["Vary"] = "Origin"
        await send(message)

    return sent
