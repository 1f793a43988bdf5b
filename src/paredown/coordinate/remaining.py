"""How long a run still takes: what its stages cost on this machine, corrected as it goes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, final

from paredown.coordinate.state import Listener
from paredown.spec.result import TrialResult

_BUILDING = ("compress", "verify")
_MEASURING = ("evaluate", "score")
_TELLING = 0.15
"""Share of a stage from which on the time it took says how long all of it takes."""
_TELLING_S = 3.0
_PLAINLY_WRONG = 2.0
"""An estimate that is too small by this factor is mended at once; smaller errors wait."""


@dataclass
class _UnderWay:
    """A trial that is being made or measured: its stage, and since when."""

    stage: str
    since: float
    share: float = 0.0
    done: set[str] = field(default_factory=set)


@final
class Remaining:
    """Estimates what is left of a run from its events.

    A trial is reckoned as the mean of those before it, stage by stage, and the stage that is under
    way by its own pace, the more so the further it is. Before anything was compressed, compressing
    is taken to cost what measuring does.

    The estimate counts down with the clock. It follows down at once, while a rise waits for the
    next result, unless it is plainly wrong: somebody who waits must not see it grow and grow.
    """

    def __init__(
        self,
        episodes: int,
        *,
        benchmarks: bool,
        workers: int = 1,
        budget_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            episodes: trials after the base, at most.
            benchmarks: whether results are scored besides.
            workers: trials that run side by side.
            budget_s: of all that is ahead; None: as long as it takes.
        """
        self._episodes, self._workers = episodes, workers
        self._stages = (*_BUILDING, *(_MEASURING if benchmarks else _MEASURING[:1]))
        self._clock, self._budget_s, self._start = clock, budget_s, clock()
        self._took: dict[str, list[float]] = {stage: [] for stage in self._stages}
        self._halves: dict[tuple[str, ...], list[float]] = {_BUILDING: [], _MEASURING: []}
        self._under_way: dict[int, _UnderWay] = {}
        self._finished: set[int] = set()
        self._told: tuple[float, float] | None = None  # seconds left, and when that was said

    def take(self, event: str, fields: dict[str, Any]) -> None:
        """Take one event of the run."""
        if event == "earlier":
            for result in fields["results"]:
                self._end(result)
        elif event == "progress":
            self._progress(fields["episode"], fields["stage"], fields["share"])
        elif event == "result":
            self._end(fields["result"])
            self._told = None
        elif event in {"decision", "final"}:
            # Nobody tells when an episode that was asked further items has answered them.
            for episode in self._finished & self._under_way.keys():
                del self._under_way[episode]

    def left_s(self) -> float | None:
        """Seconds until the end; None while nothing has told yet what a trial takes here."""
        raw = self._raw()
        if raw is None:
            return None
        now = self._clock()
        if self._budget_s is not None:
            raw = min(raw, max(self._budget_s - (now - self._start), 0.0))
        if self._told is not None:
            said, then = self._told
            counted = max(said - (now - then), 0.0)
            if counted < raw < _PLAINLY_WRONG * said + _TELLING_S:
                raw = min(raw, said)  # it stands still until the work has caught up
        self._told = raw, now
        return raw

    def _progress(self, episode: int, stage: str, share: float) -> None:
        now = self._clock()
        before = self._under_way.get(episode)
        if before is not None and before.stage == stage:
            before.share = max(before.share, share)
            return
        done = set() if before is None else before.done | {before.stage}
        # Of the base there is no first half, and an episode that is asked again has no second.
        if before is not None and episode not in self._finished and before.stage in self._took:
            self._took[before.stage].append(now - before.since)
        self._under_way[episode] = _UnderWay(stage, now, share, done)

    def _end(self, result: TrialResult) -> None:
        last = self._under_way.pop(result.episode, None)
        if last is not None and result.failure is None and last.stage in self._took:
            self._took[last.stage].append(self._clock() - last.since)
        self._finished.add(result.episode)
        if result.strategy is not None:
            self._halves[_BUILDING].append(result.compress_s)
        if result.failure is None:
            self._halves[_MEASURING].append(result.evaluate_s)

    def _raw(self) -> float | None:
        expected = {stage: self._expected(stage) for stage in self._stages}
        known = [seconds for seconds in expected.values() if seconds is not None]
        if not known:
            return None
        # What has no sign yet costs what the others do.
        usual = sum(known) / len(known)
        cost = {stage: usual if s is None else s for stage, s in expected.items()}
        waiting = {e for e in self._under_way if e > 0} | {e for e in self._finished if e > 0}
        trials = max(self._episodes - len(waiting), 0) * sum(cost.values())
        current = [self._rest(episode, cost) for episode in self._under_way]
        return max([(trials + sum(current)) / self._workers, *current])

    def _expected(self, stage: str) -> float | None:
        """Seconds of a whole stage."""
        if self._took[stage]:
            return _mean(self._took[stage])
        half = _BUILDING if stage in _BUILDING else _MEASURING
        if self._halves[half]:  # of an earlier session, which tells no stages apart
            # Of equal parts; reloading an artifact takes less than making it.
            share = {"compress": 0.8, "verify": 0.2}.get(stage, 1 / (len(self._stages) - 2))
            return share * _mean(self._halves[half])
        paces = [self._pace(trial) for trial in self._under_way.values() if trial.stage == stage]
        return next((pace for pace in paces if pace is not None), None)

    def _pace(self, trial: _UnderWay) -> float | None:
        """Seconds of the whole stage under way, from its own share; None where it is too early."""
        elapsed = self._clock() - trial.since
        if trial.share < _TELLING or elapsed < _TELLING_S:
            return None
        return elapsed / trial.share

    def _rest(self, episode: int, cost: dict[str, float]) -> float:
        trial = self._under_way[episode]
        again = episode in self._finished  # only asked further items
        later = () if again else [s for s in self._stages if s not in {trial.stage, *trial.done}]
        if episode == 0:
            later = [s for s in later if s not in _BUILDING]
        elapsed, pace = self._clock() - trial.since, self._pace(trial)
        whole = cost.get(trial.stage, elapsed)
        if pace is not None:
            # Early shares may be far off, what others took may be another method's.
            whole = trial.share * pace + (1 - trial.share) * whole
        # What takes longer than expected is not at its end for that.
        rest = max(whole - elapsed, 0.5 * (1 - trial.share) * min(elapsed, whole))
        return rest + sum(cost[stage] for stage in later)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def with_time_left(listen: Listener, remaining: Remaining) -> Listener:
    """A listener that tells `listen`, with `left_s` (None: not known yet) beside each progress."""

    def told(event: str, fields: dict[str, Any]) -> None:
        remaining.take(event, fields)
        if event == "progress":
            fields = {**fields, "left_s": remaining.left_s()}
        listen(event, fields)

    return told
