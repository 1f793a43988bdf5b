"""A small server that speaks the OpenAI chat-completions protocol and answers as it is told."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

Answer = str | Callable[["Handler"], None]
"""The text of a completion, or a function that writes the whole response itself."""


@dataclass
class Seen:
    """One request as it came over the wire."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def text(self) -> str:
        """All messages together."""
        return "\n".join(message["content"] for message in self.body["messages"])


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: LlmServer

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        body = json.loads(self.rfile.read(length))
        self.server.seen.append(
            Seen(self.path, {k.lower(): v for k, v in self.headers.items()}, body)
        )
        answer = self.server.next_answer()
        if callable(answer):
            with suppress(BrokenPipeError, ConnectionResetError):
                answer(self)
        else:
            self.send_json(200, completion(answer))

    def send_json(self, status: int, document: Any, **headers: str) -> None:
        self.send_body(status, json.dumps(document).encode(), **headers)

    def send_body(self, status: int, data: bytes, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@dataclass
class _Script:
    answers: list[Answer]
    then: Answer
    lock: threading.Lock = field(default_factory=threading.Lock)


class LlmServer(ThreadingHTTPServer):
    """Listens on a free port of loopback while its context is open."""

    daemon_threads = True

    def __init__(self, *answers: Answer, then: Answer = "") -> None:
        """Gives `answers` in turn, and `then` for ever after."""
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[Seen] = []
        self.asked = 0
        """Connections of any kind, whatever came over them."""
        self._script = _Script(list(answers), then)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def next_answer(self) -> Answer:
        with self._script.lock:
            return self._script.answers.pop(0) if self._script.answers else self._script.then

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def process_request(self, request: Any, client_address: Any) -> None:
        self.asked += 1
        super().process_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


def completion(text: str | None, *, usage: Any = None, **message: Any) -> dict[str, Any]:
    """The body of a chat completion."""
    return {
        "id": "x", "object": "chat.completion", "created": 1, "model": "scripted",
        "choices": [{"index": 0, "finish_reason": "stop",
                     "message": {"role": "assistant", "content": text, **message}}],
        "usage": usage or {"prompt_tokens": 1000, "completion_tokens": 50, "total_tokens": 1050},
    }  # fmt: skip


def advice(strategy: str | None, action: str = "quantization", **fields: Any) -> str:
    """A good answer."""
    document = {
        "action": action,
        "strategy": strategy,
        "expected": {"perplexity_ratio": 1.1, "speedup": 1.5},
        "reason": "it widens the front",
    }
    return json.dumps(document | fields)


def status(code: int, message: str = "no", **headers: str) -> Callable[[Handler], None]:
    """An error of the protocol."""
    return lambda handler: handler.send_json(code, {"error": {"message": message}}, **headers)


def body(data: bytes, **headers: str) -> Callable[[Handler], None]:
    """Any bytes with status 200."""
    return lambda handler: handler.send_body(200, data, **headers)


def disconnect(handler: Handler) -> None:
    """Close the connection without a word, as a crash does."""
    linger = struct.pack("ii", 1, 0)
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


def cut_off(handler: Handler) -> None:
    """Promise more bytes than come."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", "5000")
    handler.end_headers()
    handler.wfile.write(b'{"id": "x", "choices": [')
    handler.wfile.flush()
    handler.close_connection = True


def endless(handler: Handler) -> None:
    """Send blanks as fast as they are taken, up to 50 MB."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(50_000_000))
    handler.end_headers()
    for _ in range(50):
        handler.wfile.write(b" " * 1_000_000)


def dripping(seconds: float) -> Callable[[Handler], None]:
    """Send a byte now and then, so that no single read ever waits long."""

    def drip(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.05)

    return drip


def silent(seconds: float) -> Callable[[Handler], None]:
    """Say nothing for so long."""
    return lambda handler: time.sleep(seconds)


def repeating(head: bytes, again: bytes, seconds: float) -> Callable[[Handler], None]:
    """Begin as told, then send the same bytes again and again: a header line, a `100 Continue`."""

    def drip(handler: Handler) -> None:
        handler.wfile.write(head)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            handler.wfile.write(again)
            handler.wfile.flush()
            time.sleep(0.05)
        handler.close_connection = True

    return drip


def redirect(to: str) -> Callable[[Handler], None]:
    """Send the client, with what it has to say, elsewhere."""
    return lambda handler: handler.send_body(307, b"", Location=to)
