"""Who may work on a machine: many at once, or one alone where time is measured."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import final


@final
class Turns:
    """Lets jobs in side by side, and timed ones only by themselves.

    Who wants to be alone goes before those who came later and do not: else a stream of others
    could keep it waiting for ever.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._is_alone = False
        self._want_alone = 0

    @contextmanager
    def taken(self, *, alone: bool, is_stopped: Callable[[], bool]) -> Iterator[float]:
        """A turn, for as long as the context lives; gives the seconds it was waited for.

        Raises:
            CancelledError: `is_stopped` said so, and `wake` was called, before it came.
        """
        start = time.monotonic()
        self._enter(alone, is_stopped)
        try:
            yield time.monotonic() - start
        finally:
            with self._changed:
                self._inside -= 1
                self._is_alone = False
                self._changed.notify_all()

    def wake(self) -> None:
        """Have those who wait ask again whether they are stopped."""
        with self._changed:
            self._changed.notify_all()

    def _enter(self, alone: bool, is_stopped: Callable[[], bool]) -> None:
        with self._changed:
            self._want_alone += alone
            try:
                self._changed.wait_for(lambda: is_stopped() or self._may_enter(alone))
            finally:
                self._want_alone -= alone
                self._changed.notify_all()  # who gives up no longer keeps others out
            if is_stopped():
                raise CancelledError
            self._inside += 1
            self._is_alone = alone

    def _may_enter(self, alone: bool) -> bool:
        if alone:
            return self._inside == 0
        return not self._is_alone and self._want_alone == 0
