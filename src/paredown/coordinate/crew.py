"""Several trials at once: who is under way, and what they hand in."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from types import TracebackType
from typing import Self, final

from paredown.search.base import Decision
from paredown.spec.result import TrialResult


@dataclass(frozen=True, kw_only=True)
class Assigned:
    """A decision that is to be carried out, as an episode of the experiment."""

    episode: int
    decision: Decision


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What came of an assignment: the result, or the exception that must end the run."""

    assigned: Assigned
    result: TrialResult | BaseException


@final
class Crew:
    """Threads that carry out trials; each of them mostly waits for its worker processes.

    Used by one thread, the graph's. One that is left by an exception stops what is under way and
    waits until it has stopped: nothing may still write where a resumed run begins.
    """

    def __init__(self, workers: int = 1, *, stop: Callable[[], None] = lambda: None) -> None:
        """A crew of `workers`; `stop` ends the jobs of those under way."""
        self.workers = workers
        self._stop = stop
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="trial")
        self._under_way: dict[Future[TrialResult], Assigned] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._under_way:
            self._stop()
        self._pool.shutdown(wait=True, cancel_futures=True)

    @property
    def under_way(self) -> tuple[Assigned, ...]:
        """What was handed out and not taken in, in this order."""
        return tuple(self._under_way.values())

    @property
    def free(self) -> int:
        """How many more may be handed out now."""
        return self.workers - len(self._under_way)

    def hand_out(self, assigned: Assigned, work: Callable[[], TrialResult]) -> None:
        """Have `work` done in a thread."""
        self._under_way[self._pool.submit(work)] = assigned

    def take_in(self) -> tuple[Finished, ...]:
        """Wait until one is done; all that are, in the order in which they were handed out."""
        done, _ = wait(self._under_way, return_when=FIRST_COMPLETED)
        found = []
        for future in [future for future in self._under_way if future in done]:
            error = future.exception()
            result = future.result() if error is None else error
            found.append(Finished(assigned=self._under_way.pop(future), result=result))
        return tuple(found)
