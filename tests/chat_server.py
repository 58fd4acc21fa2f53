"""A small OpenAI-compatible server on loopback: chat completions by an engine, plain or as server-sent events."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from agents.chat_model import cut
from alignment.engine import Engine, Request

MODEL = "org/tiny"


class ChatServer(ThreadingHTTPServer):
    """Serves ``engine`` under the name ``MODEL`` while it is entered, and keeps the bodies that it ``received``."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.engine = engine
        self.received: list[dict[str, Any]] = []
        self.key: str | None = None  # that a request must have
        self.refuses: set[str] = set()  # fields of the body
        self.says_why = True  # which field it was
        self.fails: int | None = None  # a status for every request
        self.breaks = False  # ends a stream before its end
        self.together: threading.Barrier | None = None  # so many requests have to be there at a time
        self.address = f"http://127.0.0.1:{self.server_port}/v1#{MODEL}"

    def __enter__(self) -> ChatServer:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    server: ChatServer

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/v1/chat/completions":
            return self.answer(404, {"detail": "Not Found"})
        sent = self.headers["Authorization"].removeprefix("Bearer ")
        if server.key not in (None, sent):
            return self.fail(401, f"Incorrect API key provided: {sent}.")
        if body["model"] != MODEL:
            return self.fail(404, f"The model `{body['model']}` does not exist.")
        if server.fails:
            return self.fail(server.fails, f"Sent with {sent}; try again.")
        if found := sorted(server.refuses & body.keys()):
            instead = " Use 'max_completion_tokens' instead." if found[0] == "max_tokens" else ""
            return self.fail(400, f"Unsupported: {found[0]}.{instead}" if server.says_why else "Bad request.")
        if not all(isinstance(message["content"], str) for message in body["messages"]):
            return self.fail(400, "A content is not a string.")
        server.received.append(body)
        if server.together:
            server.together.wait(timeout=30)
        self.complete(body)

    def complete(self, body: dict[str, Any]) -> None:
        engine = self.server.engine
        stops = body.get("stop") or []
        done = engine.generate([as_request(body)])[0]
        text = cut(done.text, stops)
        reason = "length" if done.finish == "length" else "stop"
        usage = {
            "prompt_tokens": done.prompt_tokens,
            "completion_tokens": done.tokens,
            "total_tokens": done.prompt_tokens + done.tokens,
        }
        head = {"id": "1", "created": 0, "model": MODEL}
        if not body.get("stream"):
            message = {"role": "assistant", "content": text}
            choice = {"index": 0, "message": message, "finish_reason": reason}
            whole = {**head, "object": "chat.completion", "choices": [choice], "usage": usage}
            return self.answer(200, whole)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        chat = engine.backbone.chat
        ids = [token for token in done.ids if token != chat.eos_id]
        logprobs = engine.logprobs([body["messages"]], [ids], "base")[0] if ids else []
        emitted = ""
        for i, logprob in enumerate(logprobs):
            ready = cut(chat.text(ids[: i + 1]), stops).rstrip("\ufffd")
            delta = {"role": "assistant", "content": ready[len(emitted) :]}
            emitted = ready if len(ready) > len(emitted) else emitted
            content = {"content": [{"token": "", "logprob": logprob, "bytes": None, "top_logprobs": []}]}
            told = content if body.get("logprobs") else None
            self.event(head, [{"index": 0, "delta": delta, "logprobs": told, "finish_reason": None}])
        if self.server.breaks:
            return None
        rest = {"content": text[len(emitted) :]}
        self.event(head, [{"index": 0, "delta": rest, "logprobs": None, "finish_reason": reason}])
        if (body.get("stream_options") or {}).get("include_usage"):
            self.event({**head, "usage": usage}, [])
        self.wfile.write(b"data: [DONE]\n\n")
        return None

    def event(self, head: dict[str, Any], choices: list[dict[str, Any]]) -> None:
        data = {**head, "object": "chat.completion.chunk", "choices": choices}
        self.wfile.write(b"data: " + json.dumps(data).encode() + b"\n\n")

    def fail(self, status: int, message: str) -> None:
        self.answer(status, {"error": {"message": message, "type": "error", "param": None, "code": None}})

    def answer(self, status: int, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("retry-after-ms", "1")  # the client waits no longer between its tries
        self.end_headers()
        self.wfile.write(data)


def as_request(body: dict[str, Any]) -> Request:
    return Request(
        body["messages"],
        role="base",
        max_tokens=body.get("max_tokens") or body.get("max_completion_tokens") or 64,
        temperature=body.get("temperature", 1.0),
        seed=body.get("seed", 0),
        stop=tuple(body.get("stop") or ()),
        grammar=body.get("structured_outputs", {}).get("regex"),
    )
