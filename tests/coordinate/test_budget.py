"""What is left of the budget: hand-worked cases of trials one after another and side by side."""

from __future__ import annotations

from typing import Any

import pytest

from paredown.coordinate.budget import budget_left, spent_s
from paredown.spec.result import TrialResult
from paredown.spec.run import RunConfig
from tests.search.search_fakes import result, timed


def decided(episode: int, time: float) -> dict[str, Any]:
    return {"event": "decision", "episode": episode, "time": time}


def ended(episode: int, time: float, seconds: float) -> dict[str, Any]:
    return {"event": "episode", "episode": episode, "time": time, "seconds": seconds}


def took(**seconds: float) -> tuple[TrialResult, ...]:
    made = (result(None, episode=int(n[1:]), perplexity=1.0, size=1.0) for n in seconds)
    return tuple(timed(one, s) for one, s in zip(made, seconds.values(), strict=True))


def test_one_after_another_count_as_what_they_say_they_took() -> None:
    """To the digit: not by the clock, which counts the writing of reports as well."""
    events = [
        ended(0, 10.0, 9.9), decided(1, 10.5), ended(1, 15.0, 4.2), decided(2, 15.0),
        ended(2, 20.0, 4.7),
    ]  # fmt: skip
    results = took(e0=9.93, e1=4.21, e2=4.66)
    assert spent_s(results, events, (), now=99.0) == 9.93 + 4.21 + 4.66


def test_side_by_side_count_once_by_the_clock() -> None:
    """2 ran from 20 to 50 within 1, from 10 to 60; 3 from 55 to 80: 70 s in all, and 5 of base."""
    events = [
        ended(0, 5.0, 5.0), decided(1, 10.0), decided(2, 20.0), ended(2, 50.0, 28.0),
        decided(3, 55.0), ended(1, 60.0, 45.0), ended(3, 80.0, 24.0), decided(4, 80.0),
        ended(4, 90.0, 9.0),
    ]  # fmt: skip
    results = took(e0=5.0, e1=45.0, e2=28.0, e3=24.0, e4=9.0)
    assert spent_s(results, events, (), now=999.0) == pytest.approx(5 + 70 + 9)


def test_what_is_under_way_has_used_time() -> None:
    events = [ended(0, 5.0, 5.0), decided(1, 10.0), decided(2, 12.0), ended(2, 30.0, 17.0)]
    assert spent_s(took(e0=5.0, e2=17.0), events, (1,), now=50.0) == pytest.approx(5 + 40)
    alone = [ended(0, 5.0, 5.0), decided(1, 10.0)]
    assert spent_s(took(e0=5.0), alone, (1,), now=50.0) == pytest.approx(5 + 40)


def test_an_attempt_that_was_killed_counts_nothing_and_its_second_all() -> None:
    events = [
        ended(0, 5.0, 5.0), decided(1, 10.0), decided(2, 11.0),  # killed
        decided(1, 100.0), ended(1, 130.0, 29.0), decided(2, 130.0), ended(2, 140.0, 9.0),
    ]  # fmt: skip
    assert spent_s(took(e0=5.0, e1=29.0, e2=9.0), events, (), now=150.0) == 5 + 29 + 9


def test_more_items_after_the_search_count_besides() -> None:
    events = [decided(1, 10.0), decided(2, 10.0), ended(1, 40.0, 30.0), ended(2, 50.0, 40.0)]
    results = took(e1=30.0, e2=40.0 + 7.0)
    assert spent_s(results, events, (), now=99.0) == pytest.approx(40 + 7)


def test_what_is_under_way_is_taken_off_the_episodes() -> None:
    config = RunConfig(model="m", episodes=5, budget_h=0.1)
    events = [ended(0, 5.0, 5.0), decided(1, 5.0), ended(1, 35.0, 30.0)]
    left = budget_left(config, took(e0=5.0, e1=30.0), events)
    assert (left.episodes_left, left.seconds_left) == (4, 360.0 - 35.0)
    assert budget_left(config, took(e0=5.0, e1=30.0), events, (2, 3)).episodes_left == 2
    endless = config.model_copy(update={"budget_h": None})
    assert budget_left(endless, took(e0=5.0), ()).seconds_left is None
