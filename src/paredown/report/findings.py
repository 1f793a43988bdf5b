"""Everything a report says, worked out once from an experiment's record."""

from __future__ import annotations

from dataclasses import dataclass

from paredown.judge.front import Front, find_front
from paredown.judge.recommend import Recommendation, recommend
from paredown.spec.result import TrialResult
from paredown.store.experiment import ExperimentRecord


@dataclass(frozen=True, kw_only=True)
class Findings:
    """An experiment with its front and its recommendation."""

    record: ExperimentRecord
    front: Front
    recommendation: Recommendation

    @property
    def baseline(self) -> TrialResult | None:
        """Episode 0, if it finished."""
        return finished_baseline(self.record.results)

    @property
    def on_front(self) -> tuple[TrialResult, ...]:
        """The results on the front, by episode."""
        return tuple(r for r in self.record.results if r in self.front)

    def result(self, episode: int | None) -> TrialResult | None:
        """The result of an episode, if there is one."""
        return next((r for r in self.record.results if r.episode == episode), None)


def find(record: ExperimentRecord) -> Findings:
    """The front and the recommendation of a finished or running experiment."""
    front = find_front(record.results, record.config.objectives)
    baseline = finished_baseline(record.results)
    chosen = recommend(record.results, baseline, record.config.limits, front)
    return Findings(record=record, front=front, recommendation=chosen)


def finished_baseline(results: tuple[TrialResult, ...]) -> TrialResult | None:
    """The uncompressed baseline, unless it failed or has not run yet."""
    return next((r for r in results if r.episode == 0 and r.status == "ok"), None)
