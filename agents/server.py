"""Addresses of models behind OpenAI-compatible servers."""

from __future__ import annotations

import os
from dataclasses import dataclass
from urllib.parse import urlsplit

from alignment.errors import SetupError, UsageError

KEY = "OPENAI_API_KEY"
NO_KEY = "none"  # the client wants one even where the server does not


@dataclass(frozen=True)
class Server:
    """Where a model is: ``url`` of the API, and the ``model``'s name there."""

    url: str
    model: str


def api_key() -> str:
    """The key of ``OPENAI_API_KEY``; empty where it is not set. Raises SetupError for what cannot be sent, as the
    client's own error would show it."""
    key = os.environ.get(KEY, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise SetupError(f"{KEY} has characters that no key has; set it anew")
    return key


def is_address(model: str) -> bool:
    """Whether ``model`` is the address of a server, and no run, folder or hub id."""
    return model.lower().startswith(("http://", "https://"))


def server_at(address: str) -> Server:
    """The server that ``http://host:port/v1#model-name`` names. Raises UsageError."""
    try:
        parts = urlsplit(address)
        if parts.username is not None or parts.password is not None:
            raise UsageError(f"a key does not belong into the address of a server; set {KEY}")
        whole = parts.hostname and parts.port != 0 and not parts.query and parts.fragment.strip()
    except ValueError:  # a port that is no number, an open bracket
        whole = None
    if not whole or not is_address(address):
        raise UsageError(f"{address!r} is no address of a model; write it as http://host:port/v1#model-name")
    return Server(f"{parts.scheme}://{parts.netloc}{parts.path}".rstrip("/"), parts.fragment.strip())
