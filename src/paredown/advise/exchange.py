"""One exchange over HTTP within bounds of time and bytes; knows no library by name.

A time limit of an HTTP library counts from one byte to the next, so a server that sends a byte now
and then (of headers, of `100 Continue`, of a body, of trailers) holds its client for ever. Here one
deadline ends the whole exchange: when it comes, the connections are shut from outside, and nobody
waits any longer for what cannot be ended.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import suppress
from contextvars import copy_context
from typing import Any, TypeVar, final

MAX_ANSWER_BYTES = 200_000
"""Largest body of an answer that is read; a whole one takes some kilobytes."""
_OPENED = "connect_tcp.complete"
_PHASES = ("connect", "read", "write", "pool")
_GRACE_S = 0.5
"""Within which an exchange that was cut off comes to its end."""
T = TypeVar("T")


class BoundsError(Exception):
    """An answer is refused: too late, too long, compressed, or from elsewhere."""


class _Bounds:
    """The deadline of one exchange, and the connections that it has opened."""

    def __init__(self, seconds: float) -> None:
        self.limit_s, self.deadline = seconds, time.monotonic() + seconds
        self.over = threading.Event()
        self.connections: list[socket.socket] = []

    @property
    def left_s(self) -> float:
        return self.deadline - time.monotonic()

    @property
    def words(self) -> str:
        return f"no whole answer in {self.limit_s:g} s"

    def cut_off(self) -> None:
        """Called at the deadline, in another thread than the exchange's."""
        self.over.set()
        for connection in list(self.connections):
            with suppress(OSError):  # it is closed already
                # Wakes a thread that waits in `recv`, which closing would not.
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """From here on nothing is sent any more, whoever may still be at work."""
        self.deadline = min(self.deadline, time.monotonic())
        while self.connections:
            self.connections.pop().close()


@final
class Exchange:
    """Hooks for an HTTP client (of httpx's interface), and the deadline that they keep.

    One exchange at a time. Each has a thread of its own, because nothing can end a look-up of a
    name in the system's library: where that outlives the deadline, the thread is left to itself,
    and sends nothing when it wakes.
    """

    def __init__(self) -> None:
        self._last = _Bounds(0.0)
        self._mine = threading.local()

    @property
    def hooks(self) -> dict[str, list[Callable[..., Any]]]:
        """`event_hooks` for the client."""
        return {"request": [self._before], "response": [self._after]}

    @property
    def _bounds(self) -> _Bounds:
        """Those of the exchange whose thread asks; of the last one, for anybody else."""
        found: _Bounds = getattr(self._mine, "bounds", self._last)
        return found

    @property
    def left_s(self) -> float:
        """Seconds until the deadline; negative behind it."""
        return self._bounds.left_s

    @property
    def late(self) -> str | None:
        """Words for an exchange that the deadline has ended; None while it has not."""
        return self._bounds.words if self._bounds.over.is_set() else None

    def carry_out(self, work: Callable[[], T], seconds: float) -> T:
        """The result of `work`, which asks by way of the hooks; whatever it does, so long at most.

        Raises:
            BoundsError: there is none in time. What `work` raises goes through.
        """
        bounds = self._last = _Bounds(seconds)
        result: Future[T] = Future()

        def ask() -> None:
            self._mine.bounds = bounds
            try:
                result.set_result(work())
            except BaseException as error:  # noqa: BLE001  it is raised where it is waited for
                result.set_exception(error)

        timer = threading.Timer(seconds, bounds.cut_off)
        timer.daemon = True  # a program that ends does not wait for it
        timer.start()
        # In this thread's context, which keeps tracing services out.
        here = copy_context()
        threading.Thread(target=here.run, args=(ask,), name="question", daemon=True).start()
        try:
            # An exchange that the deadline has cut off tells why by itself, a moment later.
            done, _ = wait([result], timeout=seconds + _GRACE_S)
            if not done:
                raise BoundsError(f"{bounds.words} (its name is still being looked up)")
            return result.result()
        finally:
            timer.cancel()
            bounds.close()

    def _before(self, request: Any) -> None:
        bounds = self._bounds
        if bounds.left_s <= 0:
            raise BoundsError(bounds.words)
        request.extensions = {
            **request.extensions,
            "timeout": dict.fromkeys(_PHASES, bounds.left_s),
            "trace": self._trace,
        }

    def _trace(self, event: str, info: dict[str, Any]) -> None:
        """Take hold of a connection as soon as it is open, before anything is sent over it."""
        if event.endswith(_OPENED):
            bounds = self._bounds
            opened: socket.socket = info["return_value"].get_extra_info("socket")
            # A handle of our own: TLS takes the socket out of the object that is seen here.
            bounds.connections.append(socket.socket(fileno=os.dup(opened.fileno())))
            # The deadline came before there was anything to shut.
            if bounds.over.is_set() or bounds.left_s <= 0:
                raise BoundsError(bounds.words)

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
