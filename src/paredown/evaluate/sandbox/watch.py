"""Reading what a sandboxed process writes, without trusting it to stop."""

from __future__ import annotations

import os
import selectors
import time
from dataclasses import dataclass, field
from typing import Literal

_TAIL = 4000
"""Bytes of printed text that are kept."""
_CHUNK = 1 << 16
START_S = 60.0
"""Seconds within which a sandbox must be ready; a busy machine is no program's fault."""


@dataclass
class Watched:
    """What was read.

    Attributes:
        ended: why reading ended: there are two `lines` or will never be (`closed`), the time is
            over (`late`), or too much was printed (`flood`).
        lines: what came through the verdict pipe.
        stdout, stderr: the last that was printed.
        printed: bytes that were printed.
    """

    ended: Literal["closed", "late", "flood"] = "closed"
    lines: list[bytes] = field(default_factory=list)
    stdout: bytes = b""
    stderr: bytes = b""
    printed: int = 0


def watch(verdict: int, stdout: int, stderr: int, *, wall_s: float, output_bytes: int) -> Watched:
    """Read three pipes until the second line of `verdict`, or a limit.

    Args:
        verdict: the checker's pipe: `ready`, then its verdict.
        stdout, stderr: the program's.
        wall_s: seconds from `ready` on; before it, the start of the sandbox has `START_S`.
        output_bytes: that may be printed.
    """
    seen = Watched()
    received = b""
    with selectors.DefaultSelector() as selector:
        for pipe, name in ((verdict, "verdict"), (stdout, "stdout"), (stderr, "stderr")):
            os.set_blocking(pipe, False)
            selector.register(pipe, selectors.EVENT_READ, name)
        closed = False
        deadline = time.monotonic() + START_S
        while not closed and received.count(b"\n") < 2:
            left = deadline - time.monotonic()
            if left <= 0:
                seen.ended = "late"
                break
            for key, _ in selector.select(left):
                chunk = os.read(key.fd, _CHUNK)
                if not chunk:
                    selector.unregister(key.fd)
                    closed |= key.fd == verdict
                elif key.fd == verdict:
                    # `ready`: from here on it is the program's time, not that of the sandbox's
                    # start.
                    if not received:
                        deadline = time.monotonic() + wall_s
                    received += chunk
                else:
                    _keep(seen, key.data, chunk)
            if seen.printed > output_bytes:
                seen.ended = "flood"
                break
    seen.lines = received.splitlines()
    for pipe, name in ((stdout, "stdout"), (stderr, "stderr")):
        _keep(seen, name, _rest(pipe))
    return seen


def _keep(seen: Watched, name: str, chunk: bytes) -> None:
    seen.printed += len(chunk)
    setattr(seen, name, (getattr(seen, name) + chunk)[-_TAIL:])


def _rest(pipe: int) -> bytes:
    """What is in a pipe now, at most; whoever holds its other end may never close it."""
    try:
        return os.read(pipe, 1 << 20)
    except BlockingIOError:
        return b""
