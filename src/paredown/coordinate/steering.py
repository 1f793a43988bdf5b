"""Steering: what the user may ask of a run while it goes on, one line of text at a time.

What was asked stands in the event log (`user`) and is read back from there, so that a resumed run
keeps to it. Only `pause` and `stop` are of the moment: they end with the process.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast, final

from paredown.coordinate.setup import Prepared
from paredown.errors import ConfigError, did_you_mean
from paredown.judge.limits import broken_by_size
from paredown.judge.phrases import in_words
from paredown.judge.words import name_of
from paredown.methods import registry
from paredown.report.findings import find
from paredown.runtimes import registry as runtimes
from paredown.search.base import Action, Decision
from paredown.search.cost import CostModel
from paredown.search.space import Space
from paredown.spec.result import TrialResult
from paredown.spec.serial import plain
from paredown.spec.steering import COMMANDS, complaint, parted
from paredown.spec.strategy import Strategy
from paredown.store.events import read_events
from paredown.store.experiment import Begun, Experiment, read_experiment

USER = "user"
"""The event of a command, and the policy of what the user asked for."""
STOPPED = "stopped by the user (stop); continue with --resume"
ONLY_BASE = "only the uncompressed model was asked for"
ASKED = "asked for by the user"
_TICK_S = 0.2


@final
@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What the user has asked for, as far as it is outstanding.

    Attributes:
        excluded: methods that are not to be proposed.
        asked: strategies to run next, in this order.
    """

    excluded: tuple[str, ...] = ()
    asked: tuple[Strategy, ...] = ()

    def __str__(self) -> str:
        parts = []
        if self.asked:
            parts.append(f"asked for: {', '.join(map(registry.label, self.asked))}")
        if self.excluded:
            parts.append(f"excluded: {', '.join(self.excluded)}")
        return "; ".join(parts)


def read_wishes(events: Iterable[dict[str, Any]], started: Collection[str]) -> Wishes:
    """What is outstanding after these events; of two commands that disagree the later one counts.

    Args:
        events: of the experiment, in order.
        started: hashes of strategies that were run, or are running.
    """
    excluded: dict[str, None] = {}  # a set that keeps its order
    asked: dict[str, Strategy] = {}
    for event in events:
        if event["event"] != USER:
            continue
        match event["command"]:
            case "exclude":
                excluded[event["method"]] = None
                # Asked for before it was excluded; who asks again later means it.
                asked = {k: s for k, s in asked.items() if not uses(s, [event["method"]])}
            case "include":
                excluded.pop(event["method"], None)
            case "try":
                strategy = Strategy.model_validate(event["strategy"])
                asked[strategy.hash] = strategy
            case "drop":
                asked.pop(Strategy.model_validate(event["strategy"]).hash, None)
    left = tuple(s for key, s in asked.items() if key not in started)
    return Wishes(excluded=tuple(excluded), asked=left)


def uses(strategy: Strategy, methods: Collection[str]) -> bool:
    """Whether any of its steps is one of these methods."""
    return any(step.method in methods for step in strategy.steps)


@lru_cache(maxsize=4)
def without(space: Space, excluded: tuple[str, ...]) -> Space:
    """The space without the strategies that use an excluded method; remembered."""
    if not excluded:
        return space
    return space.without(excluded)


def predict(strategy: Strategy, prepared: Prepared) -> int:
    """Bytes of the weights after a strategy (canonical), in the search space or not.

    Raises:
        ConfigError: it cannot run on this model, or its size alone breaks a limit.
    """
    if strategy in prepared.space:
        return prepared.space.predicted_bytes(strategy)
    made = registry.check(strategy, prepared.base.spec, prepared.target)
    size = runtimes.load(prepared.target.runtime).weights_bytes(made)
    reason = broken_by_size(
        size,
        prepared.space.baseline_bytes / size,
        prepared.config.limits,
        parameters=prepared.base.spec.parameters,
    )
    if reason is not None:
        raise ConfigError(f"{registry.label(strategy)}: {reason}")
    return size


def decide(strategy: Strategy, prepared: Prepared, results: Sequence[TrialResult]) -> Decision:
    """The decision to run what the user asked for.

    Raises:
        ConfigError: it cannot run, as when a library has gone since it was asked for.
    """
    size = predict(strategy, prepared)
    expected = {"size": float(size), "compression_ratio": prepared.space.baseline_bytes / size}
    costs = CostModel.fit(results)
    if costs.is_fitted:
        expected["seconds"] = costs.seconds(strategy)
    action = cast("Action", registry.kind_of(strategy))
    return Decision(action=action, strategy=strategy, reason=ASKED, expected=expected, policy=USER)


@final
class Steering:
    """Takes commands for one run, from any thread.

    Attributes:
        paused: whether the run waits, or will after the running episode.
        stopped: whether it will end after the running episode.
        reason: why, where it does.
    """

    def __init__(self, *, first: Sequence[str] = (), only_base: bool = False) -> None:
        """
        Args:
            first: strategies to run before anything else, as if `try` had been said of each before
                the run began; those that were run already are not run again. They stand for what an
                earlier session asked for and did not get.
            only_base: whether the run ends once the base is measured; it may be resumed.
        """
        self.paused = False
        self.stopped = only_base
        self.reason = ONLY_BASE if only_base else STOPPED
        self._first = tuple(first)
        self._prepared: Prepared | None = None
        self._experiment: Experiment | None = None
        self._ended = False
        self._changed = threading.Condition()

    def attach(self, prepared: Prepared, experiment: Experiment) -> None:
        """From now on commands are for this run.

        Raises:
            ConfigError: one of those that come first cannot run on this model.
        """
        with self._changed:
            self._prepared, self._experiment = prepared, experiment
            self._changed.notify_all()
        wanted = {registry.canonical(text).hash for text in self._first}
        for other in self.wishes().asked if wanted else ():
            if other.hash not in wanted:
                self._drop(str(other))
        for strategy in self._first:
            answer = self._try(strategy)
            if registry.canonical(strategy).hash not in _asked_or_started(experiment):
                raise ConfigError(answer)  # there is no episode left for it

    def detach(self) -> None:
        """The run has ended, however it ended: nothing can be asked of it any more."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def command(self, text: str) -> str:
        """Carry out one command; waits until the run is ready for it.

        Returns:
            The answer: what will happen, or in one line why nothing will.
        """
        with self._changed:
            # A command may come while the request is still being checked.
            self._changed.wait_for(lambda: self._ended or self._experiment is not None)
        if self._ended:
            return "the run has ended; --resume goes on with it"
        verb, argument = parted(text)
        if not verb:
            return ""
        if (why_not := complaint(text)) is not None:
            return why_not
        actions: dict[str, Callable[[str], str]] = {
            "try": self._try, "drop": self._drop, "exclude": self._exclude,
            "include": self._include, "pause": self._pause, "resume": self._resume,
            "stop": self._stop, "front": self._front, "status": self._status, "help": _help,
        }  # fmt: skip
        try:
            return actions[verb](argument)
        except ConfigError as error:
            return f"{verb}: {' '.join(str(error).split())}"

    def close(self) -> bool:
        """No more commands will come: a run that was paused goes on, and then True is returned."""
        was_paused = self.paused and not self.stopped and not self._ended
        if was_paused:
            self._record("resume", because="no more commands can come")
        with self._changed:
            self.paused = False
            self._changed.notify_all()
        return was_paused

    def wait(self, is_interrupted: Callable[[], bool]) -> bool:
        """Return once the run is not paused, or is to end; True if that took a wait."""
        waited = False
        with self._changed:
            while self.paused and not self.stopped and not is_interrupted():
                waited = True
                self._changed.wait(_TICK_S)  # by and by, because a signal does not notify
        return waited

    def wishes(self) -> Wishes:
        """What is outstanding in the run."""
        return Wishes() if self._experiment is None else outstanding(self._experiment)

    @property
    def _open(self) -> tuple[Prepared, Experiment]:
        if self._prepared is None or self._experiment is None:
            raise AssertionError("a command is carried out before the run is ready")
        return self._prepared, self._experiment

    def _record(self, command: str, **fields: Any) -> None:
        self._open[1].events.add(USER, command=command, **fields)

    def _try(self, text: str) -> str:
        prepared, experiment = self._open
        strategy = registry.for_runtime(text, prepared.target.runtime)
        shown, results = registry.label(strategy), experiment.results()
        earlier = next((r for r in results if _hash(r.strategy) == strategy.hash), None)
        if earlier is not None:
            return f"try: {shown} was run already, as episode {earlier.episode}"
        running = experiment.in_flight()
        same = next((begun for begun in running if begun.strategy.hash == strategy.hash), None)
        if same is not None:
            return f"try: {shown} is running, as episode {same.episode}"
        asked = self.wishes().asked
        if any(other.hash == strategy.hash for other in asked):
            return f"try: {shown} was asked for already"
        # For what it raises: a strategy that cannot run is refused now, not when its turn comes.
        predict(strategy, prepared)
        episodes, begun = prepared.config.episodes, _begun(results, running)
        if begun + len(asked) >= episodes:
            return (
                f"try: no episode is left for {shown} (--episodes {episodes}); "
                "a run with more episodes can go on with --resume"
            )
        in_space = strategy in prepared.space
        self._record("try", strategy=plain(strategy), label=shown, in_space=in_space)
        return f"{shown} will be episode {begun + len(asked) + 1}"

    def _drop(self, text: str) -> str:
        strategy = registry.for_runtime(text, self._open[0].target.runtime)
        shown = registry.label(strategy)
        asked = self.wishes().asked
        if all(other.hash != strategy.hash for other in asked):
            waiting = ", ".join(map(registry.label, asked)) or "nothing"
            return f"drop: {shown} is not waiting; asked for: {waiting}"
        self._record("drop", strategy=plain(strategy), label=shown)
        return f"{shown} will not be run for you"

    def _exclude(self, method: str) -> str:
        prepared, experiment = self._open
        wishes, searched = self.wishes(), _methods(prepared.space)
        if method in wishes.excluded:
            return f"exclude: {method} is excluded already"
        if method not in searched:
            return f"exclude: {method!r} is not searched here; {did_you_mean(method, searched)}"
        left = _listed(without(prepared.space, (*wishes.excluded, method)))
        tried = _started(experiment)
        asked = [s for s in wishes.asked if not uses(s, [method])]
        if not (left - tried) and not asked:
            return f"exclude: nothing would be left to try without {method}; stop ends the run"
        self._record("exclude", method=method)
        dropped = len(wishes.asked) - len(asked)
        also = f"; {dropped} that you asked for with it will not be run" if dropped else ""
        return f"{method} will not be proposed any more{also}"

    def _include(self, method: str) -> str:
        excluded = self.wishes().excluded
        if method not in excluded:
            return f"include: {method!r} is not excluded; excluded: {', '.join(excluded) or 'none'}"
        self._record("include", method=method)
        return f"{method} may be proposed again"

    def _pause(self, _: str) -> str:
        if self.paused:
            return "pause: the run is paused already; resume goes on"
        self._record("pause")
        self.paused = True
        return "pausing after the running episode; resume goes on"

    def _resume(self, _: str) -> str:
        if not self.paused:
            return "resume: the run is not paused"
        self._record("resume")
        with self._changed:
            self.paused = False
            self._changed.notify_all()
        return "going on"

    def _stop(self, _: str) -> str:
        if self.stopped:
            return "stop: the run ends after this episode already; Ctrl-C twice ends it at once"
        self._record("stop")
        with self._changed:
            self.stopped = True
            self._changed.notify_all()
        return "stopping after the running episode; --resume goes on another time"

    def _front(self, _: str) -> str:
        findings = find(read_experiment(self._open[1].folder))
        lines = [f"{name_of(r)}: {in_words(r, findings.baseline)}" for r in findings.on_front]
        return "\n".join(lines) or "nothing has finished yet"

    def _status(self, _: str) -> str:
        prepared, experiment = self._open
        results, running, wishes = experiment.results(), experiment.in_flight(), self.wishes()
        done = sum(r.episode > 0 for r in results)
        names = ", ".join(registry.label(begun.strategy) for begun in running)
        now = f", running: {names}" if names else ""
        left = _listed(without(prepared.space, wishes.excluded)) - _started(experiment)
        methods = ", ".join(_methods(prepared.space))
        lines = (
            f"{done} of {prepared.config.episodes} episodes done{now}",
            "paused" if self.paused else "",
            str(wishes),
            f"{len(left)} strategies left to choose from, of: {methods}",
        )
        return "\n".join(filter(None, lines))


def outstanding(experiment: Experiment) -> Wishes:
    """What the user has asked for in an experiment and not got yet."""
    return read_wishes(read_events(experiment.events.path), _started(experiment))


def _started(experiment: Experiment) -> set[str]:
    """Hashes of the strategies that were run, or are running."""
    found = {_hash(result.strategy) for result in experiment.results()}
    return found | {begun.strategy.hash for begun in experiment.in_flight()}


def _asked_or_started(experiment: Experiment) -> set[str]:
    """Hashes of the strategies that were run, are running, or will be because they were asked."""
    asked = {strategy.hash for strategy in outstanding(experiment).asked}
    return _started(experiment) | asked


def _begun(results: Sequence[TrialResult], running: Sequence[Begun]) -> int:
    """Episodes that were begun, but for the baseline."""
    return sum(r.episode > 0 for r in results) + len(running)


def _hash(strategy: Strategy | None) -> str:
    return "" if strategy is None else strategy.hash


def _listed(space: Space) -> set[str]:
    """Hashes of the strategies that the space lists."""
    return {strategy.hash for strategy in space.strategies}


def _methods(space: Space) -> list[str]:
    return list(dict.fromkeys(step.method for s in space.strategies for step in s.steps))


def _help(_: str) -> str:
    return "\n".join(f"{name:<16}{what}" for name, what in COMMANDS.items())
