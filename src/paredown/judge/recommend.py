"""Which result to take under the user's limits, and why, in words with numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from paredown.judge.front import ParetoFront, find_front
from paredown.judge.limits import find_nearest, in_limits, missed
from paredown.judge.phrases import compared, in_words
from paredown.judge.quantities import QUANTITIES, loss, speedup
from paredown.spec.result import TrialResult
from paredown.spec.run import Objective
from paredown.spec.target import Limits

ACCEPTED_LOSS = 5.0
"""Loss of quality, in percent, that is taken as acceptable when the user sets no limit."""

ACCEPTED_SPEED = 0.9
"""Decode speed, relative to the baseline, that is taken as acceptable when there is no limit."""


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """The result to take. `episode` is None when nothing was measured or no limit can be met."""

    episode: int | None
    reason: str
    runner_up: int | None = None
    runner_up_reason: str = ""
    meets_limits: bool | None = None
    """None when the user set no limit."""
    nearest: int | None = None
    """When no result meets the limits: the one that comes nearest."""


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
    The uncompressed model is recommended only where nothing is better than it in any objective.
    """
    finished = [r for r in results if r.episode in front.compared]
    if not finished:
        return Recommendation(
            episode=None, reason="no episode finished with every objective measured"
        )
    if not in_limits(limits):
        return _without_limits(finished, baseline, front)
    meeting = [r for r in finished if not missed(r, baseline, limits)]
    missing = [r for r in finished if r not in meeting and r.episode > 0]
    if not meeting or (missing and all(r.episode == 0 for r in meeting)):
        return _met_by_no_trial(finished, missing, meeting, baseline, limits)
    return _under_limits(finished, meeting, baseline, limits, front)


def _met_by_no_trial(
    finished: Sequence[TrialResult],
    missing: Sequence[TrialResult],
    meeting: Sequence[TrialResult],
    baseline: TrialResult | None,
    limits: Limits,
) -> Recommendation:
    nearest = find_nearest(missing or finished, baseline, limits)
    who = "only the uncompressed model" if meeting else "no result"
    return Recommendation(
        episode=meeting[0].episode if meeting else None,
        reason=f"{who} meets the limits ({in_limits(limits)}). {nearest.reason}",
        meets_limits=bool(meeting),
        nearest=nearest.episode,
    )


def _under_limits(
    finished: Sequence[TrialResult],
    meeting: list[TrialResult],
    baseline: TrialResult | None,
    limits: Limits,
    front: ParetoFront,
) -> Recommendation:
    candidates = _better(meeting, baseline, front)
    chosen_from = [r for r in candidates if r in front]
    if not chosen_from:  # a limit on something that is no objective: a front of their own
        own = find_front(candidates, front.objectives)
        chosen_from = [r for r in candidates if r in own]
    if not chosen_from:
        return _keep_baseline(baseline, meets_limits=True)
    if limits.max_accuracy_loss is not None:
        ranked = sorted(chosen_from, key=_by_size)
        rule = "the smallest artifact that meets"
    else:
        ranked = sorted(chosen_from, key=_by_quality)
        rule = "the artifact with the least loss of quality that meets"
    reason = (
        f"{rule} every limit ({in_limits(limits)}): {in_words(ranked[0], baseline)}; "
        f"{len(meeting)} of {len(finished)} measured results meet them"
    )
    return _with_runner_up(ranked, reason, baseline, meets_limits=True)


def _without_limits(
    finished: Sequence[TrialResult], baseline: TrialResult | None, front: ParetoFront
) -> Recommendation:
    candidates = _better([r for r in finished if r in front], baseline, front)
    if not candidates:
        return _keep_baseline(baseline, meets_limits=None)
    small_loss = [r for r in candidates if _loses_at_most(r, baseline, ACCEPTED_LOSS)]
    good = [r for r in small_loss if (speedup(r, baseline) or 1.0) >= ACCEPTED_SPEED]
    if good:
        ranked = sorted(good, key=_by_size)
        ranked += sorted((r for r in candidates if r not in good), key=_by_quality)
        rule = (
            f"the smallest artifact of the front that loses at most {ACCEPTED_LOSS:g} % "
            f"and decodes at least {ACCEPTED_SPEED:g}x as fast"
        )
    else:
        ranked = sorted(candidates, key=_by_quality)
        bend = [r for r in ranked if r.episode == front.knee]
        ranked = bend + [r for r in ranked if r not in bend]
        high = (
            f"no artifact of the front is known to lose at most {ACCEPTED_LOSS:g} % of quality "
            f"and to decode at least {ACCEPTED_SPEED:g}x as fast"
        )
        rule = f"{high}; this is the " + ("knee of the front" if bend else "one that loses least")
    reason = f"{rule}: {in_words(ranked[0], baseline)} (no limit was given)"
    return _with_runner_up(ranked, reason, baseline, meets_limits=None)


def _keep_baseline(baseline: TrialResult | None, *, meets_limits: bool | None) -> Recommendation:
    condition = " and meets the limits" if meets_limits else ""
    return Recommendation(
        episode=None if baseline is None else baseline.episode,
        reason=f"no result is better than it in any objective{condition}",
        meets_limits=meets_limits,
    )


def _with_runner_up(
    ranked: Sequence[TrialResult],
    reason: str,
    baseline: TrialResult | None,
    *,
    meets_limits: bool | None,
) -> Recommendation:
    first = ranked[0]
    second = ranked[1] if len(ranked) > 1 else None
    if second is not None:
        why = compared(second, first, baseline)
    else:
        why = "no other result of the front " + (
            "meets the limits" if meets_limits else "beats the uncompressed model in any objective"
        )
    return Recommendation(
        episode=first.episode,
        reason=reason,
        runner_up=None if second is None else second.episode,
        runner_up_reason=why,
        meets_limits=meets_limits,
    )


def _better(
    results: Sequence[TrialResult], baseline: TrialResult | None, front: ParetoFront
) -> list[TrialResult]:
    """Trials that beat the baseline in an objective, by more than what a repeat would give."""

    def wins(result: TrialResult) -> bool:
        for objective in front.objectives:
            quantity = QUANTITIES[objective]
            mine = quantity.value(result)
            base = None if baseline is None else quantity.value(baseline)
            if base is None or mine is None or mine * (1 + quantity.resolution) < base:
                return True
        return False

    return [r for r in results if r.episode > 0 and wins(r)]


def _loses_at_most(result: TrialResult, baseline: TrialResult | None, percent: float) -> bool:
    lost = loss(result, baseline)
    return lost is not None and lost <= percent


def _by_size(result: TrialResult) -> tuple[float, float, int]:
    return _known(result, "size"), _known(result, "quality"), result.episode


def _by_quality(result: TrialResult) -> tuple[float, float, int]:
    return _known(result, "quality"), _known(result, "size"), result.episode


def _known(result: TrialResult, objective: Objective) -> float:
    value = QUANTITIES[objective].value(result)
    return math.inf if value is None else value
