"""An experiment's record beside what the judge makes of it: what every page of a report reads."""

from __future__ import annotations

from dataclasses import dataclass

from paredown.judge.findings import Findings, judge
from paredown.judge.front import ParetoFront
from paredown.judge.limits import unmet
from paredown.judge.recommend import Recommendation
from paredown.language import current
from paredown.spec.result import TrialResult
from paredown.store.experiment import ExperimentRecord


@dataclass(frozen=True, kw_only=True)
class Judged:
    """An experiment and what was decided about it; the judge may not see the record itself."""

    record: ExperimentRecord
    findings: Findings

    @property
    def front(self) -> ParetoFront:
        """The results worth having."""
        return self.findings.front

    @property
    def recommendation(self) -> Recommendation:
        """The result to take, and why."""
        return self.findings.recommendation

    @property
    def baseline(self) -> TrialResult | None:
        """Episode 0, if it finished."""
        return self.findings.baseline

    @property
    def on_front(self) -> tuple[TrialResult, ...]:
        """The results on the front, by episode."""
        return self.findings.on_front

    def result(self, episode: int | None) -> TrialResult | None:
        """The result of an episode, if there is one."""
        return self.findings.result(episode)

    def missed(self, result: TrialResult) -> tuple[str, ...]:
        """The limits that a result is not known to meet, in words; recorded ones are English."""
        if current() == "en" or not result.unmet:
            return result.unmet
        return unmet(result, self.baseline, self.record.config.limits) or result.unmet


def find(record: ExperimentRecord) -> Judged:
    """A finished or running experiment, judged by its own objectives and limits."""
    config = record.config
    return Judged(record=record, findings=judge(record.results, config.objectives, config.limits))
