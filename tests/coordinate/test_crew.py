"""Who is under way, and what comes in."""

from __future__ import annotations

import threading

import pytest

from paredown.coordinate.crew import Assigned, Crew
from paredown.search.base import end
from paredown.spec.result import TrialResult
from tests.search.search_fakes import result


def assigned(episode: int) -> Assigned:
    return Assigned(episode=episode, decision=end("made up", policy="none"))


def made(episode: int) -> TrialResult:
    return result(None, episode=episode, perplexity=1.0, size=1.0)


def test_what_is_done_comes_in_and_frees_a_place() -> None:
    go = threading.Event()

    def later() -> TrialResult:
        assert go.wait(10)
        return made(1)

    with Crew(2) as crew:
        assert crew.free == 2
        crew.hand_out(assigned(1), later)
        crew.hand_out(assigned(2), lambda: made(2))
        assert (crew.free, [a.episode for a in crew.under_way]) == (0, [1, 2])
        (second,) = crew.take_in()
        assert (second.assigned.episode, second.result) == (2, made(2))
        assert (crew.free, [a.episode for a in crew.under_way]) == (1, [1])
        go.set()
        (first,) = crew.take_in()
        assert first.result == made(1)
        assert crew.under_way == ()


def test_each_comes_in_once() -> None:
    done = threading.Barrier(3)

    def work(episode: int) -> TrialResult:
        done.wait(10)
        return made(episode)

    with Crew(2) as crew:
        crew.hand_out(assigned(2), lambda: work(2))
        crew.hand_out(assigned(1), lambda: work(1))
        done.wait(10)
        taken = []
        while crew.under_way:
            taken += [f.assigned.episode for f in crew.take_in()]
    assert sorted(taken) == [1, 2]


def test_an_exception_comes_in_as_one() -> None:
    def work() -> TrialResult:
        raise ZeroDivisionError

    with Crew() as crew:
        crew.hand_out(assigned(1), work)
        (found,) = crew.take_in()
    assert isinstance(found.result, ZeroDivisionError)


def test_leaving_stops_what_is_under_way_and_waits_for_it() -> None:
    stopped, ended = threading.Event(), threading.Event()

    def work() -> TrialResult:
        assert stopped.wait(10)
        ended.set()
        return made(1)

    def interrupted() -> None:
        with Crew(stop=stopped.set) as crew:
            crew.hand_out(assigned(1), work)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert ended.is_set()


def test_leaving_with_nothing_under_way_stops_nothing() -> None:
    def stop() -> None:
        raise AssertionError

    with Crew(stop=stop) as crew:
        crew.hand_out(assigned(1), lambda: made(1))
        crew.take_in()
