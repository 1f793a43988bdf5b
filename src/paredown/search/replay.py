"""Searches replayed on a table of trials that were run before: many seeds for the price of none.

Every policy gets the same table, budget and prices; what it proposes is looked up, not run.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, final

import numpy as np

from paredown.analysis.pareto import FloatArray
from paredown.judge.hypervolume import covered, gains
from paredown.search.base import Budget, Policy
from paredown.search.cost import spent
from paredown.search.enumerated import Enumerated, in_turns
from paredown.spec.result import TrialResult
from paredown.spec.run import Objective
from paredown.spec.serial import SCHEMA_VERSION, canonical
from paredown.spec.strategy import Strategy
from paredown.spec.target import Limits


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """Trials of every strategy of a space.

    Attributes:
        about: where they come from: model, text, settings, machine, versions.
        baseline: the uncompressed model.
        by_hash: the trial of each strategy, by the strategy's hash, in the order recorded.
        predicted_bytes: of each strategy, by its hash.
    """

    about: dict[str, Any]
    baseline: TrialResult
    by_hash: dict[str, TrialResult]
    predicted_bytes: dict[str, int]

    @classmethod
    def read(cls, path: Path) -> Self:
        """From a .json.gz file."""
        document = json.loads(gzip.decompress(path.read_bytes()))
        rows = [TrialResult.model_validate(row) for row in document["trials"]]
        return cls(
            about=document["about"],
            baseline=TrialResult.model_validate(document["baseline"]),
            by_hash={row.strategy.hash: row for row in rows if row.strategy is not None},
            predicted_bytes=document["predicted_bytes"],
        )

    def write(self, path: Path) -> None:
        """To a .json.gz file; equal tables give equal files."""
        document = {
            "schema_version": SCHEMA_VERSION,
            "about": self.about,
            "baseline": self.baseline,
            "trials": list(self.by_hash.values()),
            "predicted_bytes": self.predicted_bytes,
        }
        partial = path.with_suffix(".partial")
        # No time stamp in the header: it would tell equal tables apart.
        partial.write_bytes(gzip.compress(canonical(document).encode(), mtime=0))
        partial.replace(path)

    @property
    def trials(self) -> list[TrialResult]:
        return list(self.by_hash.values())

    @property
    def space(self) -> Enumerated:
        """What policies choose from: exactly the strategies of the table.

        In the order that `Enumerated.build` gives a space, whatever order they were recorded in:
        the methods in turns, single ones before pipelines.
        """
        size = self.baseline.value("size")
        if size is None:
            raise AssertionError("a baseline has a size")
        templates: dict[tuple[str, ...], list[Strategy]] = {}
        for strategy in (r.strategy for r in self.trials if r.strategy is not None):
            templates.setdefault(tuple(s.method for s in strategy.steps), []).append(strategy)
        lengths = sorted({len(names) for names in templates})
        ordered = [
            strategy
            for length in lengths
            for strategy in in_turns(among for t, among in templates.items() if len(t) == length)
        ]
        return Enumerated(
            by_hash={strategy.hash: strategy for strategy in ordered},
            sizes=self.predicted_bytes,
            refused={},
            baseline_bytes=int(size),
        )


@dataclass(frozen=True, kw_only=True)
class Curve:
    """How a search went.

    Attributes:
        seconds: (n,) ascending: when each trial finished.
        share: (n,) ascending: of the table's whole hypervolume, covered by then.
    """

    seconds: FloatArray
    share: FloatArray

    def at(self, seconds: FloatArray) -> FloatArray:
        """Share covered at each of the given times, 0 before the first trial has finished."""
        steps = np.concatenate([[0.0], self.share])
        return np.asarray(steps[np.searchsorted(self.seconds, seconds, side="right")])

    def area(self, horizon: float) -> float:
        """Mean share covered over the time from 0 to `horizon`."""
        inside = self.seconds < horizon
        gaps = np.diff(np.concatenate([self.seconds[inside], [horizon]]))
        return float(gaps @ self.share[inside] / horizon)

    def time_to(self, share: float) -> float:
        """Seconds until `share` was covered; infinite if it never was."""
        reached = np.flatnonzero(self.share >= share)
        return float(self.seconds[reached[0]]) if len(reached) else float("inf")


def replay(
    policy: Policy,
    table: Table,
    *,
    space: Enumerated,
    episodes: int,
    seconds: float | None,
    limits: Limits,
    enough: Callable[[Sequence[TrialResult]], bool] = lambda results: False,
) -> tuple[TrialResult, ...]:
    """Run a policy until `seconds` are spent; a trial that would run over is not counted.

    Args:
        policy: asked for one strategy at a time, with all results so far.
        table: what comes of each strategy.
        space: `table.space`; the same object for all replays, so that what policies remember of
            a space is computed once.
        episodes: that the policy is told to have; it may go beyond while time is left.
        seconds: of trials, the baseline not counted; None: until the space is used up.
        limits: of the user.
        enough: ends the replay earlier; asked with all results after each.
    """
    results = [table.baseline]
    left = seconds
    while not enough(results):
        # + 1 for the baseline, which is among the results and costs no episode.
        budget = Budget(episodes_left=max(episodes - len(results) + 1, 1), seconds_left=left)
        decision = policy.propose(results, space, limits, budget=budget)
        if decision.strategy is None:
            break
        found = table.by_hash[decision.strategy.hash]
        if left is not None:
            left -= spent(found)
            if left < 0:
                break
        found = found.model_copy(update={"episode": len(results), "proposed_by": decision.policy})
        results.append(found)
    return tuple(results)


def whole(table: Table, objectives: tuple[Objective, ...], limits: Limits) -> float:
    """Hypervolume that all trials of the table cover together, beyond the baseline's."""
    return covered([table.baseline, *table.trials], objectives, limits)


def curve(
    results: Sequence[TrialResult],
    objectives: tuple[Objective, ...],
    limits: Limits,
    *,
    whole: float,
) -> Curve:
    """The progress of a replayed search, as a share of the hypervolume `whole`."""
    trials = [result for result in results if result.strategy is not None]
    return Curve(
        seconds=np.cumsum([spent(result) for result in trials], dtype=np.float64),
        share=np.cumsum(gains(results, objectives, limits), dtype=np.float64) / whole,
    )
