"""One exchange over HTTP within bounds of time and bytes; knows no library by name.

A time limit of an HTTP library counts from one byte to the next, so a server that sends a byte now
and then (of headers, of `100 Continue`, of a body, of trailers) holds its client for ever. Here one
deadline ends the whole exchange: when it comes, the connections are shut from outside.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, final

MAX_ANSWER_BYTES = 200_000
"""Largest body of an answer that is read; a whole one takes some kilobytes."""
_OPENED = "connect_tcp.complete"
_PHASES = ("connect", "read", "write", "pool")


class BoundsError(Exception):
    """An answer is refused: too late, too long, compressed, or from elsewhere."""


@final
class Exchange:
    """Hooks for an HTTP client (of httpx's interface), and the deadline that they keep.

    For one thread at a time; only `_cut_off` runs in another.
    """

    def __init__(self) -> None:
        self._deadline = 0.0
        self._limit_s = 0.0
        self._over = threading.Event()
        self._connections: list[socket.socket] = []

    @property
    def hooks(self) -> dict[str, list[Callable[..., Any]]]:
        """`event_hooks` for the client."""
        return {"request": [self._before], "response": [self._after]}

    @property
    def left_s(self) -> float:
        """Seconds until the deadline; negative behind it."""
        return self._deadline - time.monotonic()

    @property
    def late(self) -> str | None:
        """Words for an exchange that the deadline has ended; None while it has not."""
        return f"no whole answer in {self._limit_s:g} s" if self._over.is_set() else None

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Let whatever is exchanged in the block end after so many seconds."""
        self._limit_s, self._deadline = seconds, time.monotonic() + seconds
        self._over.clear()
        timer = threading.Timer(seconds, self._cut_off)
        timer.daemon = True  # a program that ends does not wait for it
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            while self._connections:
                self._connections.pop().close()

    def _cut_off(self) -> None:
        self._over.set()
        for connection in list(self._connections):
            with suppress(OSError):  # it is closed already
                # Wakes a thread that waits in `recv`, which closing would not.
                connection.shutdown(socket.SHUT_RDWR)

    def _before(self, request: Any) -> None:
        left = self.left_s
        if left <= 0:
            raise BoundsError(f"no whole answer in {self._limit_s:g} s")
        request.extensions = {
            **request.extensions,
            "timeout": dict.fromkeys(_PHASES, left),
            "trace": self._trace,
        }

    def _trace(self, event: str, info: dict[str, Any]) -> None:
        """Take hold of a connection as soon as it is open, before anything is sent over it."""
        if event.endswith(_OPENED):
            opened: socket.socket = info["return_value"].get_extra_info("socket")
            # A handle of our own: TLS takes the socket out of the object that is seen here.
            self._connections.append(socket.socket(fileno=os.dup(opened.fileno())))
            if self._over.is_set():  # the deadline came before there was anything to shut
                raise BoundsError(f"no whole answer in {self._limit_s:g} s")

    def _after(self, response: Any) -> None:
        """Read the body before the client does, within bounds."""
        if 300 <= response.status_code < 400:  # the prompt, and the key, would go elsewhere
            raise BoundsError(f"the endpoint redirects ({response.status_code}); refused")
        encoding = response.headers.get("content-encoding", "identity")
        if encoding != "identity":  # a small compressed body may be a huge one
            raise BoundsError(f"the answer is compressed ({encoding[:20]})")
        # The client's HTTP library, by way of the response: which one it is depends on its version.
        library = __import__(type(response).__module__.partition(".")[0])
        stream = response.stream
        try:
            response.stream = library.ByteStream(b"".join(self._bounded(stream)))
        finally:
            stream.close()

    def _bounded(self, stream: Any) -> Iterator[bytes]:
        size = 0
        for part in stream:
            size += len(part)
            if size > MAX_ANSWER_BYTES:
                raise BoundsError(f"the answer is longer than {MAX_ANSWER_BYTES} bytes")
            yield part
