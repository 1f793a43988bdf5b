"""Imported once by the fork server, so that every worker begins with torch imported.

Named in `multiprocessing.set_forkserver_preload`: importing it is its work. While it goes on the
server does not look whether the main process is still there, writes to the user's terminal, and
would die of a Ctrl-C that is meant for the main process; all three are seen to here.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from paredown.pipeline.executors.worker import PARENT, killed_with_parent

_LOOK_S = 0.1


@contextmanager
def _ended_with_parent() -> Iterator[None]:
    """End this process when its parent is gone: on Linux for good, elsewhere in this context.

    Elsewhere a thread looks. It is joined, because the server forks afterwards.
    """
    told = os.environ.pop(PARENT, None)
    if told is None:  # begun by somebody else's use of multiprocessing
        yield
        return
    parent, done = int(told), threading.Event()
    is_promised = killed_with_parent()

    def look() -> None:
        while os.getppid() == parent:
            if is_promised or done.wait(_LOOK_S):
                return
        os._exit(0)

    if is_promised:
        look()  # once: it may have gone before the promise
        yield
        return
    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextmanager
def _quiet() -> Iterator[None]:
    """What libraries say at import goes nowhere; the server's own voice comes back after it."""
    saved = os.dup(1), os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        for stream in (1, 2):
            os.dup2(null, stream)
        yield
    finally:
        for stream, copy in zip((1, 2), saved, strict=True):
            os.dup2(copy, stream)
            os.close(copy)
        os.close(null)


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:  # a worker takes over what stands here; from now on the server itself sees to it
        signal.signal(signal.SIGINT, before)


with _deaf_to_interrupts(), _ended_with_parent(), _quiet():
    # Read when the OpenMP library is loaded: threads that sleep while they wait are a little slower
    # on an idle machine than threads that spin, and several times faster on a busy one.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # transformers imports lazily: without these each worker would spend seconds on them.
    import transformers.modeling_utils  # noqa: F401
    import transformers.models.auto.modeling_auto  # noqa: F401
    import transformers.models.llama.modeling_llama  # noqa: F401

    import paredown.pipeline.work  # noqa: F401
