"""The time that a run still takes, told on a clock of our own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from paredown.coordinate.remaining import Remaining, with_time_left
from tests.report.report_samples import baseline, failed, ok

Costs = dict[str, float]
BASE: Costs = {"evaluate": 120.0}
TRIAL: Costs = {"compress": 60.0, "verify": 12.0, "evaluate": 150.0}


@dataclass
class Simulated:
    """A run of which every second is told; `shown` are the times left, `truth` the real ones."""

    episodes: int
    share: Callable[[float], float] = lambda done: done
    benchmarks: bool = False
    now: float = 1000.0
    shown: list[float | None] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    results: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.remaining = Remaining(
            self.episodes, benchmarks=self.benchmarks, clock=lambda: self.now
        )
        self.tell = with_time_left(self._hear, self.remaining)

    def _hear(self, event: str, fields: dict[str, Any]) -> None:
        if event == "progress":
            self.shown.append(fields["left_s"])
            self.ends.append(self.now)

    def trial(self, episode: int, costs: Costs, *, fails: bool = False) -> None:
        for stage, seconds in costs.items():
            for second in range(int(seconds)):
                told = {"episode": episode, "stage": stage, "message": "",
                        "share": self.share(second / seconds)}  # fmt: skip
                self.tell("progress", told)
                self.now += 1
        build = sum(s for stage, s in costs.items() if stage in ("compress", "verify"))
        times = {"compress_s": build, "evaluate_s": sum(costs.values()) - build}
        if episode == 0:
            result = baseline()
        elif fails:
            result = failed(episode)
        else:
            result = ok(episode, "rtn", {})
        self.results.append(len(self.shown))
        self.tell("result", {"result": result.model_copy(update=times)})

    def rises(self) -> Iterator[int]:
        """Places at which more time is left than a second before, but for those behind a result."""
        for i, (before, after) in enumerate(zip(self.shown, self.shown[1:], strict=False), 1):
            if before is not None and after is not None and after > before + 1e-9:
                yield i

    def errors(self) -> list[float | None]:
        """Told over true time left, second by second."""
        end = self.now
        return [
            None if told is None else told / (end - at)
            for told, at in zip(self.shown, self.ends, strict=True)
        ]


def test_it_is_right_once_a_trial_was_seen_and_nothing_at_the_end() -> None:
    run = Simulated(3)
    run.trial(0, BASE)
    for episode in (1, 2, 3):
        run.trial(episode, TRIAL)
    behind_first = run.errors()[run.results[1] : -20]
    assert all(error is not None and 0.85 < error < 1.15 for error in behind_first)
    assert run.shown[-1] == pytest.approx(1.0, abs=2.0)


def test_before_anything_is_known_nothing_is_told_and_then_by_its_own_pace() -> None:
    run = Simulated(1)
    run.trial(0, BASE)
    assert run.shown[0] is None
    assert run.shown[17] is None  # a seventh of the stage is the least that tells anything
    # All of the base, and a trial of three stages that are taken to cost as much each.
    assert run.shown[60] == pytest.approx(60 + 3 * 120)


@pytest.mark.parametrize("share", [lambda x: x, lambda x: x**2, lambda x: x**0.5, lambda x: 0.0])
@pytest.mark.parametrize("slower", [1.0, 3.0, 8.0])
def test_it_never_grows_for_long(share: Callable[[float], float], slower: float) -> None:
    """Whatever shares say, and although the second trial is of a method that takes much longer."""
    run = Simulated(4, share=share)
    run.trial(0, BASE)
    run.trial(1, TRIAL)
    run.trial(2, {**TRIAL, "compress": slower * TRIAL["compress"]})
    run.trial(3, {"compress": 60.0, "verify": 10.0}, fails=True)
    run.trial(4, TRIAL)
    grown = [at for at in run.rises() if at not in run.results]
    # A correction is a step, and the next one is far: it doubles what is told.
    assert len(grown) <= 3
    assert all(later - earlier > 10 for earlier, later in itertools.pairwise(grown))


def test_between_two_events_it_counts_down_with_the_clock() -> None:
    run = Simulated(2)
    run.trial(0, BASE)
    first = run.remaining.left_s()
    run.now += 5
    again = run.remaining.left_s()
    assert first is not None
    assert again is not None
    assert again <= first


def test_a_resumed_run_knows_what_its_trials_took() -> None:
    run = Simulated(3)
    took = {"compress_s": 72.0, "evaluate_s": 150.0}
    earlier = [baseline().model_copy(update={"evaluate_s": 150.0}),
               ok(1, "rtn", {}).model_copy(update=took)]  # fmt: skip
    run.tell("earlier", {"results": earlier})
    assert run.remaining.left_s() == pytest.approx(2 * 222.0)


def test_trials_side_by_side_take_their_part_of_the_time_and_a_budget_bounds_it() -> None:
    took = {"compress_s": 72.0, "evaluate_s": 150.0}
    earlier = {"results": [ok(1, "rtn", {}).model_copy(update=took)]}
    two = Remaining(5, benchmarks=False, workers=2, clock=lambda: 0.0)
    two.take("earlier", earlier)
    assert two.left_s() == pytest.approx(4 * 222.0 / 2)
    now = 0.0
    short = Remaining(5, benchmarks=False, budget_s=300.0, clock=lambda: now)
    short.take("earlier", earlier)
    assert short.left_s() == pytest.approx(300.0)
    now = 100.0
    assert short.left_s() == pytest.approx(200.0)


def test_what_is_asked_again_is_part_of_it_only_while_it_lasts() -> None:
    run = Simulated(1, benchmarks=True)
    run.trial(0, {"evaluate": 100.0, "score": 100.0})
    run.trial(1, {"compress": 100.0, "verify": 20.0, "evaluate": 100.0, "score": 100.0})
    assert run.remaining.left_s() == 0.0
    run.tell("final", {"episode": 1})
    run.tell("progress", {"episode": 1, "stage": "score", "share": 0.0, "message": ""})
    assert run.shown[-1] is not None
    assert run.shown[-1] > 50
    run.tell("decision", {"episode": 2, "action": "end"})
    run.now += 1
    assert run.remaining.left_s() == 0.0
