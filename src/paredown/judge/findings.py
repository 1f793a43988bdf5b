"""Everything that is decided about a set of results, worked out once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from paredown.judge.front import ParetoFront, find_front
from paredown.judge.quantities import finished_baseline, quantity
from paredown.judge.recommend import Recommendation, recommend
from paredown.spec.result import TrialResult
from paredown.spec.run import Objective
from paredown.spec.target import Limits


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Results with their front and the recommendation among them.

    Attributes:
        results: by episode; the baseline is episode 0.
        limits: of the user.
    """

    results: tuple[TrialResult, ...]
    limits: Limits
    front: ParetoFront
    recommendation: Recommendation

    @property
    def baseline(self) -> TrialResult | None:
        """Episode 0, if it finished."""
        return finished_baseline(self.results)

    @property
    def on_front(self) -> tuple[TrialResult, ...]:
        """The results on the front, by episode."""
        return tuple(r for r in self.results if r in self.front)

    @property
    def kept(self) -> frozenset[int]:
        """Episodes whose artifacts are worth their disk: those of the front, and whatever the
        recommendation names. The artifacts of all others may be deleted."""
        chosen = self.recommendation
        named = (chosen.episode, chosen.runner_up, chosen.nearest)
        return frozenset({*self.front.episodes, *(n for n in named if n is not None)})

    def result(self, episode: int | None) -> TrialResult | None:
        """The result of an episode, if there is one."""
        return next((r for r in self.results if r.episode == episode), None)

    def holds(self, result: TrialResult) -> bool:
        """Whether a strategy was worth trying: on the front, and every limit known to be met."""
        return result in self.front and not result.unmet

    def best(self, objective: Objective) -> TrialResult | None:
        """The compressed result that is best in one objective; of equals the first."""
        row = quantity(objective, self.baseline)
        found = [
            (cost, result.episode, result)
            for result in self.results
            if result.episode > 0
            and result.status == "ok"
            and (cost := row.cost(result, self.baseline)) is not None
        ]
        return min(found, key=lambda entry: entry[:2])[2] if found else None


def judge(
    results: Sequence[TrialResult], objectives: tuple[Objective, ...], limits: Limits
) -> Findings:
    """The front and the recommendation of a finished or running experiment."""
    front = find_front(results, objectives)
    chosen = recommend(results, finished_baseline(results), limits, front)
    return Findings(results=tuple(results), limits=limits, front=front, recommendation=chosen)
