"""A server that behaves well, or badly in one of many ways: run as a process, or in a thread.

`python -m tests.deploy.fake PORT BEHAVIOUR` asks for the key in PAREDOWN_API_KEY and drains.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "fake"
CONTEXT = 64
SLOTS = 2
ANSWER = (
    "Paris is the capital of France, and it lies on the river Seine, as many people know who have "
    "been there."
)
TOP = {7: -0.2, 8: -2.0, 9: -4.0}
"""Log-probabilities of the first token; of the right model."""


class Handler(BaseHTTPRequestHandler):
    """OpenAI's words, as far as they are spoken here."""

    protocol_version = "HTTP/1.1"
    behaviour = "good"
    key: str | None = None

    def log_message(self, format: str, *args: Any) -> None:
        if self.behaviour == "logs the key":
            sys.stderr.write(f"request with {self.key}\n")

    def do_GET(self) -> None:
        if self.path == "/health":
            self.reply({"status": "ok"}, 500 if self.behaviour == "unhealthy" else 200)
        elif self.path == "/v1/models":
            listed = (
                []
                if self.behaviour == "no model"
                else [{"id": MODEL, "meta": {"n_ctx": CONTEXT, "n_vocab": 128}}]
            )
            self.reply({"data": listed})
        elif self.path == "/props":
            self.reply({"total_slots": SLOTS})
        elif self.path == "/metrics" and self.behaviour != "no metrics":
            self.send(b'# HELP a b\nrequests_total 3\nbusy{slot="0"} 0\n', 200, "text/plain")
        else:
            self.reply({"error": "not found"}, 404)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        asks = self.key and self.behaviour != "needs no key"
        if asks and self.headers["Authorization"] != f"Bearer {self.key}":
            return self.reply({"error": "key"}, 401)
        try:
            asked = json.loads(body)
        except ValueError:
            return self.reply({"error": "no JSON"}, 400)
        if self.path == "/tokenize":
            shift = self.behaviour == "other tokens"
            return self.reply({"tokens": [ord(c) + shift for c in asked["content"]]})
        if self.path not in {"/v1/completions", "/v1/chat/completions"}:
            return self.reply({"error": "not found"}, 404)
        return self.generate(asked)

    def generate(self, asked: dict[str, Any]) -> None:
        chat = self.path.endswith("chat/completions")
        prompt = asked.get("messages" if chat else "prompt")
        is_wrong = not isinstance(prompt, list if chat else list | str)
        is_wrong |= asked.get("temperature") == "hot"
        is_wrong |= not chat and isinstance(prompt, list) and len(prompt) > CONTEXT
        if is_wrong and self.behaviour != "takes anything":
            return self.reply({"error": "bad"}, 400)
        match self.behaviour:
            case "html":
                return self.send(b"<html><body>Welcome to nginx</body></html>", 200, "text/html")
            case "hangs":
                time.sleep(30)
            case "drips":
                return self.drip()
            case "500 when crowded" if self.crowded():
                return self.reply({"error": "crash"}, 500)
        limit = int(asked.get("max_tokens", 16))
        pieces = self.pieces()[:limit]
        finish = (
            "stop" if limit >= len(self.pieces()) and self.behaviour != "never ends" else "length"
        )
        n = len(prompt) if isinstance(prompt, list) and not chat else 9
        if self.behaviour == "cuts prompts":
            n = min(n, 20)
        usage = {"prompt_tokens": n, "completion_tokens": len(pieces)}
        if asked.get("stream"):
            return self.stream(pieces, finish, usage)
        text = "".join(pieces)
        choice: dict[str, Any] = {"index": 0, "finish_reason": finish}
        choice |= {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        if asked.get("logprobs"):
            top = {k + (self.behaviour == "wrong model"): v for k, v in TOP.items()}
            shown = [{"id": k, "token": chr(k + 96), "logprob": v} for k, v in top.items()]
            choice["logprobs"] = {"content": [{"top_logprobs": shown}]}
        return self.reply({"choices": [choice], "usage": usage})

    def pieces(self) -> list[str]:
        if self.behaviour == "blanks":
            return [" "] * 20
        if self.behaviour == "repeats":
            return ["and so ", "it is, "] * 30
        return [f"{word} " for word in ANSWER.split()]

    def stream(self, pieces: list[str], finish: str, usage: dict[str, int]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        if self.behaviour == "streams in one piece":
            pieces = ["".join(pieces)]
        for piece in pieces:
            self.event({"choices": [{"text": piece, "finish_reason": None}]})
            time.sleep(0.01)
        self.event({"choices": [{"text": "", "finish_reason": finish}], "usage": usage})
        if self.behaviour != "never says done":
            self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def event(self, document: dict[str, Any]) -> None:
        self.wfile.write(b"data: " + json.dumps(document).encode() + b"\n\n")

    def drip(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "100000")
        self.end_headers()
        for _ in range(3000):  # much more often than any timeout of a socket
            self.wfile.write(b" ")
            time.sleep(0.02)

    def crowded(self) -> bool:
        return threading.active_count() > 8

    def reply(self, document: dict[str, Any], status: int = 200) -> None:
        self.send(json.dumps(document).encode(), status, "application/json")

    def send(self, body: bytes, status: int, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    """Waits for its answers when it is closed, but where it behaves badly."""

    daemon_threads = False
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Quietly: the client has gone, as those do who wait no longer."""


def make(port: int, behaviour: str, key: str | None) -> Server:
    """A server that is bound and not yet running."""
    handler = type("Bound", (Handler,), {"behaviour": behaviour, "key": key})
    return Server(("127.0.0.1", port), handler)


@contextmanager
def running(behaviour: str = "good", key: str | None = None) -> Iterator[str]:
    """The address of a server in a thread."""
    server = make(0, behaviour, key)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def main(port: str, behaviour: str) -> None:
    """Serve until SIGTERM."""
    if behaviour == "dies":
        sys.stderr.write("cannot load the model: out of luck\n")
        sys.exit(3)
    server = make(int(port), behaviour, os.environ.get("PAREDOWN_API_KEY"))
    if behaviour != "drops answers":

        def drain(number: int, frame: Any) -> None:
            threading.Thread(target=server.shutdown).start()

        signal.signal(signal.SIGTERM, drain)
    server.serve_forever(poll_interval=0.01)
    server.server_close()  # waits for the threads that answer


if __name__ == "__main__":
    main(*sys.argv[1:])
