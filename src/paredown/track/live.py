"""A tracker told while a run goes on, without ever keeping it waiting."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, final

from paredown.errors import ParedownError
from paredown.store.experiment import ExperimentRecord, read_experiment

PATIENCE_S = 30.0
"""Seconds that the end of a run waits for what has not been told yet."""


@final
class Live:
    """Listens to a run, and has a thread of its own tell a tracker; a context manager.

    The thread reads the experiment's folder, so what it could not tell is told the next time.

    Attributes:
        trouble: what the tracker said last, if it was not told all; else None.
    """

    def __init__(
        self, folder: Path, tell: Callable[[ExperimentRecord], object], *,
        patience_s: float = PATIENCE_S,
    ) -> None:  # fmt: skip
        self.folder = folder
        self.trouble: str | None = None
        self._tell, self._patience_s = tell, patience_s
        self._wanted, self._ending = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="tracker", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ending.set()
        self._wanted.set()
        self._thread.join(self._patience_s)
        if self._thread.is_alive():
            self.trouble = f"no answer within {self._patience_s:.0f} s"

    def __call__(self, event: str, fields: dict[str, Any]) -> None:
        """Hear an event of the run."""
        if event == "result":
            self._wanted.set()

    def _work(self) -> None:
        while True:
            self._wanted.wait()
            self._wanted.clear()
            is_last = self._ending.is_set()  # before the look: nothing comes after it
            try:
                self._tell(read_experiment(self.folder))
                self.trouble = None
            except ParedownError as error:
                self.trouble = str(error)
            if is_last:
                return
