"""Many at once, or one alone."""

from __future__ import annotations

import threading
import time
from concurrent.futures import CancelledError

import pytest

from paredown.pipeline.executors.turns import Turns


class Worker:
    """A thread that takes a turn and keeps it until it is told to go."""

    def __init__(self, turns: Turns, *, alone: bool) -> None:
        self.inside, self.go, self.stopped = threading.Event(), threading.Event(), False
        self.cancelled = False
        self.waited = -1.0
        self.thread = threading.Thread(target=self._work, args=(turns, alone), daemon=True)
        self.thread.start()

    def _work(self, turns: Turns, alone: bool) -> None:
        try:
            with turns.taken(alone=alone, is_stopped=lambda: self.stopped) as waited:
                self.waited = waited
                self.inside.set()
                self.go.wait(10)
        except CancelledError:
            self.cancelled = True

    def is_in(self) -> bool:
        return self.inside.wait(5)

    def is_out(self) -> bool:
        return not self.inside.wait(0.2)

    def end(self) -> None:
        self.go.set()
        self.thread.join(5)
        assert not self.thread.is_alive()


def test_many_work_side_by_side() -> None:
    turns = Turns()
    workers = [Worker(turns, alone=False) for _ in range(3)]
    assert all(w.is_in() for w in workers)
    for worker in workers:
        worker.end()


def test_one_alone_waits_for_the_others_and_keeps_them_out() -> None:
    turns = Turns()
    first = Worker(turns, alone=False)
    assert first.is_in()
    alone = Worker(turns, alone=True)
    assert alone.is_out()
    late = Worker(turns, alone=False)
    assert late.is_out()  # who wants to be alone came first: else it might never be
    first.end()
    assert alone.is_in()
    assert late.is_out()
    assert alone.waited > 0.3
    alone.end()
    assert late.is_in()
    late.end()


def test_two_never_are_alone_together() -> None:
    turns = Turns()
    first, second = Worker(turns, alone=True), None
    assert first.is_in()
    second = Worker(turns, alone=True)
    assert second.is_out()
    first.end()
    assert second.is_in()
    second.end()


def test_who_is_stopped_in_line_leaves_it_and_lets_others_in() -> None:
    turns = Turns()
    first = Worker(turns, alone=False)
    assert first.is_in()
    alone = Worker(turns, alone=True)
    assert alone.is_out()
    late = Worker(turns, alone=False)
    alone.stopped = True
    turns.wake()
    alone.thread.join(5)
    assert alone.cancelled
    assert late.is_in()
    first.end()
    late.end()


def test_a_turn_ends_with_an_exception() -> None:
    turns = Turns()
    with pytest.raises(ZeroDivisionError), turns.taken(alone=True, is_stopped=lambda: False):
        raise ZeroDivisionError
    start = time.monotonic()
    with turns.taken(alone=True, is_stopped=lambda: False) as waited:
        assert waited < 1
    assert time.monotonic() - start < 1
