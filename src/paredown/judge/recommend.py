"""Which result to take under the user's limits, and why, in words with numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from paredown.judge.front import ParetoFront, find_front
from paredown.judge.limits import check, find_nearest, in_limits, missed, unmet
from paredown.judge.phrases import compared, in_words, price
from paredown.judge.quantities import SCORED, bounds, loss, quantity, speedup
from paredown.judge.words import name_of
from paredown.language import clauses, listed, say
from paredown.spec.result import TrialResult
from paredown.spec.run import Objective
from paredown.spec.target import Limits

ACCEPTED_LOSS = 5.0
"""Loss of quality, in percent, that is taken as acceptable when the user sets no limit on it."""

ACCEPTED_SPEED = 0.9
"""Decode speed, relative to the baseline, that is taken as acceptable when there is no limit."""

ACCEPTED_FLIPS, ACCEPTED_KL = 0.25, 0.25
"""Share of next tokens that may have become others, and divergence from the base in nats per
token, several times what a loss of 5 % comes with (0.09 and 0.03 in the recorded tables): beyond
it, a good score is luck or a text that happens to suit, and the model is another one."""


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """The result to take. `episode` is None when nothing was measured or no limit can be met."""

    episode: int | None
    reason: str
    runner_up: int | None = None
    runner_up_reason: str = ""
    meets_limits: bool | None = None
    """None when the user set no limit, or when what is recommended is not decided to meet them."""
    nearest: int | None = None
    """When no result meets the limits: the one that comes nearest."""


@dataclass(frozen=True, kw_only=True)
class _Case:
    """What a recommendation is drawn from: results with every objective measured, and the rest."""

    finished: list[TrialResult]
    baseline: TrialResult | None
    limits: Limits
    front: ParetoFront

    def is_sound(self, result: TrialResult) -> bool:
        """Whether a careful engineer would sign it: the loss of quality is within 5 %, or within
        the user's own bound, and the model still says what the base says."""
        row, bounded = quantity("quality", self.baseline), self.limits.accepts_loss
        lost = loss(result, self.baseline)
        if not bounded and (lost is None or lost > ACCEPTED_LOSS):
            return False
        if bounded and row is not SCORED:
            return True  # a bound on the text's own loss says what may change in the text
        agree, kl = result.value("top1_agreement"), result.value("kl")
        flips = 0.0 if agree is None else 1.0 - agree
        return flips <= ACCEPTED_FLIPS and (kl is None or kl <= ACCEPTED_KL)

    def better(self, results: Sequence[TrialResult]) -> list[TrialResult]:
        """Trials that beat the baseline in an objective by more than what a repeat would give."""
        return [r for r in results if r.episode > 0 and self._wins(r)]

    def _wins(self, result: TrialResult) -> bool:
        for objective in self.front.objectives:
            row = quantity(objective, self.baseline)
            mine = row.cost(result, self.baseline)
            base = None if self.baseline is None else row.cost(self.baseline, self.baseline)
            if base is None or mine is None or mine * (1 + row.resolution) < base:
                return True
        return False

    def foremost(self, results: Sequence[TrialResult]) -> list[TrialResult]:
        """Those on the front; where none is, those on a front of their own: limits and the guard
        may bound what is no objective, and leave only what something else has pushed off it."""
        chosen = [r for r in results if r in self.front]
        if chosen or not results:
            return chosen
        base = [] if self.baseline is None else [self.baseline]  # what ratios refer to
        own = find_front([*base, *results], self.front.objectives)
        return [r for r in results if r in own]

    def by_size(self, result: TrialResult) -> tuple[float, float, int]:
        """Smallest first."""
        return self._cost(result, "size"), self._cost(result, "quality"), result.episode

    def by_quality(self, result: TrialResult) -> tuple[float, float, int]:
        """Least loss first."""
        return self._cost(result, "quality"), self._cost(result, "size"), result.episode

    def _cost(self, result: TrialResult, objective: Objective) -> float:
        cost = quantity(objective, self.baseline).cost(result, self.baseline)
        return math.inf if cost is None else cost


def recommend(
    results: Sequence[TrialResult],
    baseline: TrialResult | None,
    limits: Limits,
    front: ParetoFront,
) -> Recommendation:
    """The artifact to take, and the runner-up.

    Limits that bound the loss of quality leave the smallest artifact that meets them all as the
    choice; other limits leave the one that loses least. Without limits it is the smallest
    artifact of the front that loses at most `ACCEPTED_LOSS` percent and is no slower than
    `ACCEPTED_SPEED`, else the knee of the front.

    No limit removes the guard on quality: where the uncompressed model meets the limits, that is
    said first, and it stays the choice unless an artifact is sound (`ACCEPTED_LOSS` or the user's
    own bound, `ACCEPTED_FLIPS`, `ACCEPTED_KL`). Where it does not, an artifact that is not sound is
    said to fit only at a price, and the price is named.
    """
    case = _Case(
        finished=[r for r in results if r.episode in front.compared],
        baseline=baseline,
        limits=limits,
        front=front,
    )
    if not case.finished:
        return Recommendation(
            episode=None, reason=say("no episode finished with every objective measured")
        )
    if not in_limits(limits):
        return _without_limits(case)
    meeting = [r for r in case.finished if not missed(r, baseline, limits)]
    missing = [r for r in case.finished if r not in meeting and r.episode > 0]
    if not meeting or (missing and all(r.episode == 0 for r in meeting)):
        return _undecided(case, missing) or _met_by_no_trial(case, missing, meeting)
    return _under_limits(case, meeting)


def _undecided(case: _Case, missing: Sequence[TrialResult]) -> Recommendation | None:
    """The best of those that are within every limit by value, but not by interval."""
    within = [
        r
        for r in missing
        if all(c.excess == 0 for c in check(r, case.baseline, case.limits)) and case.is_sound(r)
    ]
    candidates = case.better(within)
    if not candidates:
        return None
    best = _ranked(case, candidates)
    told = {
        "limits": in_limits(case.limits), "result": in_words(best[0], case.baseline),
        "open": clauses(unmet(best[0], case.baseline, case.limits)),
    }  # fmt: skip
    if case.limits.accepts_loss:
        reason = say(
            "no artifact is shown to meet every limit ({limits}); by its values this is the "
            "smallest artifact that meets them, and it stays open: {open}: {result}",
            **told,
        )
    else:
        reason = say(
            "no artifact is shown to meet every limit ({limits}); by its values this is the "
            "artifact with the least loss of quality that meets them, and it stays open: {open}: "
            "{result}",
            **told,
        )
    return _with_runner_up(case, best, reason, meets_limits=None)


def _met_by_no_trial(
    case: _Case, missing: Sequence[TrialResult], meeting: Sequence[TrialResult]
) -> Recommendation:
    nearest = find_nearest(missing or case.finished, case.baseline, case.limits)
    told = {"limits": in_limits(case.limits), "nearest": nearest.reason}
    return Recommendation(
        episode=meeting[0].episode if meeting else None,
        reason=say("only the uncompressed model meets the limits ({limits}). {nearest}", **told)
        if meeting
        else say("no result meets the limits ({limits}). {nearest}", **told),
        meets_limits=bool(meeting),
        nearest=nearest.episode,
    )


def _under_limits(case: _Case, meeting: list[TrialResult]) -> Recommendation:
    candidates = case.better(meeting)
    chosen_from = case.foremost(candidates)
    fits = _fits_already(case, meeting)
    if not chosen_from:
        return _keep_baseline(case, meets_limits=True, fits=fits)
    sound = case.foremost([r for r in candidates if case.is_sound(r)])
    ranked = _ranked(case, sound or chosen_from)
    if sound:  # what is not sound may still be the runner-up, after all that is
        ranked += _ranked(case, [r for r in chosen_from if r not in sound])
    elif fits:
        return _only_at_a_price(case, ranked, fits)
    reason = clauses(
        (
            fits,
            "" if sound else _at_a_price(case, ranked[0]),
            _rule(case, ranked[0]),
            say("{count} of {all} results meet them", count=len(meeting), all=len(case.finished)),
        )
    )
    return _with_runner_up(case, ranked, reason, meets_limits=True)


def _rule(case: _Case, best: TrialResult) -> str:
    """Why this one, under limits."""
    told = {"limits": in_limits(case.limits), "result": in_words(best, case.baseline)}
    if case.limits.accepts_loss:
        return say("the smallest artifact that meets every limit ({limits}): {result}", **told)
    return say(
        "the artifact with the least loss of quality that meets every limit ({limits}): {result}",
        **told,
    )


def _at_a_price(case: _Case, result: TrialResult) -> str:
    return say("fits only at a price: {price}", price=price(result, case.baseline))


def _fits_already(case: _Case, meeting: Sequence[TrialResult]) -> str:
    """Said first where the uncompressed model meets the limits, unless they bound quality alone."""
    told = [b for b in bounds(case.limits, case.baseline) if b.objective != "quality"]
    if not told or all(r.episode != 0 for r in meeting):
        return ""
    return say("the model fits already, uncompressed ({limits})", limits=listed(map(str, told)))


def _only_at_a_price(case: _Case, ranked: Sequence[TrialResult], fits: str) -> Recommendation:
    best = ranked[0]
    least = say(
        "every artifact that meets the limits has its price: the least is that of {name}, {price}",
        name=name_of(best), price=price(best, case.baseline),
    )  # fmt: skip
    return Recommendation(
        episode=0,
        reason=clauses((fits, least)),
        runner_up=best.episode,
        runner_up_reason=clauses((in_words(best, case.baseline), _at_a_price(case, best))),
        meets_limits=True,
    )


def _ranked(case: _Case, results: Sequence[TrialResult]) -> list[TrialResult]:
    """Results under limits, best first."""
    return sorted(results, key=case.by_size if case.limits.accepts_loss else case.by_quality)


def _without_limits(case: _Case) -> Recommendation:
    better = case.better(case.finished)
    candidates = [r for r in better if r in case.front]
    if not candidates:
        return _keep_baseline(case, meets_limits=None)
    sound = case.foremost([r for r in better if case.is_sound(r)])
    # A speed that was not measured is not held against an artifact.
    good = [r for r in sound if (speedup(r, case.baseline) or 1.0) >= ACCEPTED_SPEED]
    if good:
        ranked = sorted(good, key=case.by_size)
        ranked += sorted((r for r in candidates if r not in good), key=case.by_quality)
        reason = _within_the_usual(case, ranked[0])
    else:
        ranked = sorted(candidates, key=case.by_quality)
        bend = [r for r in ranked if r.episode == case.front.knee]
        # The knee is the choice; of the others, the one that loses least is its runner-up.
        ranked = bend + [r for r in ranked if r not in bend]
        reason = _beyond_the_usual(case, ranked[0], is_knee=bool(bend))
    return _with_runner_up(case, ranked, reason, meets_limits=None)


def _within_the_usual(case: _Case, best: TrialResult) -> str:
    told = {
        "percent": f"{ACCEPTED_LOSS:g}", "speed": f"{ACCEPTED_SPEED:g}",
        "result": in_words(best, case.baseline),
    }  # fmt: skip
    if speedup(best, case.baseline) is None:
        return say(
            "the smallest artifact of the front that loses at most {percent} % and was not timed: "
            "{result} (no limit was given)",
            **told,
        )
    return say(
        "the smallest artifact of the front that loses at most {percent} % and decodes at least "
        "{speed}x as fast: {result} (no limit was given)",
        **told,
    )


def _beyond_the_usual(case: _Case, best: TrialResult, *, is_knee: bool) -> str:
    told = {
        "percent": f"{ACCEPTED_LOSS:g}", "speed": f"{ACCEPTED_SPEED:g}",
        "result": in_words(best, case.baseline),
    }  # fmt: skip
    if is_knee:
        return say(
            "no artifact of the front is known to lose at most {percent} % of quality and to "
            "decode at least {speed}x as fast; this is the knee of the front: {result} (no limit "
            "was given)",
            **told,
        )
    return say(
        "no artifact of the front is known to lose at most {percent} % of quality and to decode at "
        "least {speed}x as fast; this is the one that loses least: {result} (no limit was given)",
        **told,
    )


def _keep_baseline(case: _Case, *, meets_limits: bool | None, fits: str = "") -> Recommendation:
    none = (
        say("no result is better than it in any objective and meets the limits")
        if meets_limits
        else say("no result is better than it in any objective")
    )
    return Recommendation(
        episode=None if case.baseline is None else case.baseline.episode,
        reason=clauses((fits, none)),
        meets_limits=meets_limits,
    )


def _with_runner_up(
    case: _Case, ranked: Sequence[TrialResult], reason: str, *, meets_limits: bool | None
) -> Recommendation:
    first = ranked[0]
    second = ranked[1] if len(ranked) > 1 else None
    if second is not None:
        why = compared(second, first, case.baseline)
    else:
        why = (
            say("no other result of the front meets the limits")
            if meets_limits
            else say("no other result of the front beats the uncompressed model in any objective")
        )
    return Recommendation(
        episode=first.episode,
        reason=reason,
        runner_up=None if second is None else second.episode,
        runner_up_reason=why,
        meets_limits=meets_limits,
    )
