"""Further benchmark items, where a decision depends on them: between trials, and at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from paredown.coordinate.final import ask, shown_scores
from paredown.coordinate.keeping import keep_front_only
from paredown.coordinate.state import Run
from paredown.coordinate.turn import time_limit
from paredown.judge.findings import judge
from paredown.judge.limits import broken
from paredown.judge.undecided import Undecided, items_left, undecided
from paredown.report.write import write_progress_files
from paredown.spec.result import TrialResult
from paredown.store.events import read_events
from paredown.store.experiment import read_experiment

FURTHER = "further_items"
"""The event that tells of a purchase."""
_BETWEEN = 0.5
"""Share of the time of measuring that items bought in the search may have taken."""


@dataclass(frozen=True, kw_only=True)
class Purchase:
    """Further items for one result.

    Attributes:
        limit: items per benchmark that it will have been asked.
        seconds: that they are expected to take, from what those so far took.
        decides: the first open decision that needs them, in words.
    """

    result: TrialResult
    limit: int
    seconds: float
    decides: str


@dataclass(frozen=True, kw_only=True)
class Bought:
    """What was bought so far, in this session and earlier ones.

    Attributes:
        rounds: by episode, how often it was asked for a decision.
        seconds: that all of it took.
    """

    rounds: Mapping[int, int]
    seconds: float

    @staticmethod
    def in_log(events: Iterable[Mapping[str, Any]], rounds: int) -> Bought:
        """Read off the events of an experiment.

        Args:
            rounds: that a result may have at most. What failed once would fail again: it has had
                all of them.
        """
        had: Counter[int] = Counter()
        seconds = 0.0
        for event in events:
            if event["event"] != FURTHER:
                continue
            episode = event.get("asked_for", event["episode"])
            if event["status"] != "ok":
                had[episode] += rounds
            elif episode == event["episode"]:  # else it is the base, asked along with it
                had[episode] += 1
            seconds += event.get("seconds", 0.0)
        return Bought(rounds=had, seconds=seconds)


def ask_between(run: Run) -> None:
    """Between two trials: buy items for what is open, so that the search goes on from what is sure.

    Cheapest first, as after the search, and within `_BETWEEN` of the time of measuring: what a
    later trial beats anyway needs no decision.
    """
    _ask_until_decided(run, _BETWEEN)


def ask_further(run: Run) -> None:
    """After the search: buy items until every decision is made, or rounds, time or items are
    used up, and say what stays open.

    All together, with those that were bought in the search, take no longer than measuring took, so
    that a tie that no number of items would break does not eat the night.
    """
    first = _open(run)
    still, reason = _ask_until_decided(run, 1.0)
    if not run.interrupt.asked:  # else they may be needed when the run goes on
        keep_front_only(run.experiment, run.prepared.config, ended=True)
    if not first:
        return
    words = [each.reason for each in still]
    run.experiment.events.add("open_decisions", open=words, reason=reason or None)
    write_progress_files(read_experiment(run.experiment.folder))


def _ask_until_decided(run: Run, share: float) -> tuple[tuple[Undecided, ...], str]:
    """Buy until nothing is open; what is, and why no more is bought.

    The cheapest purchase comes first, and what is open is judged again after each: one may settle
    several decisions. A result is asked twice as many items each time, for an interval shrinks
    with the square root of them.

    Args:
        share: of the time that measuring took, which all purchases together may take.
    """
    rounds = run.prepared.config.further_rounds
    while still := _open(run):
        results = run.experiment.results()
        bought = Bought.in_log(read_events(run.experiment.events.path), rounds)
        chosen = cheapest(results, still, bought.rounds, rounds=rounds)
        if chosen is None:
            return still, _used_up(still, bought.rounds, rounds)
        measuring = sum(r.evaluate_s for r in results) - bought.seconds
        if reason := _why_not(run, chosen, share * measuring - bought.seconds):
            return still, reason
        _buy(run, chosen)
    return (), ""


def cheapest(
    results: Sequence[TrialResult],
    still: Sequence[Undecided],
    bought: Mapping[int, int],
    *,
    rounds: int,
) -> Purchase | None:
    """The purchase that takes least time; None where nothing that is open can be asked more.

    Args:
        still: what is open.
        bought: rounds that each episode has had.
    """
    decided_by: dict[int, str] = {}
    for each in still:
        decided_by.setdefault(each.episode, each.reason)
    found = [
        _purchase(result, decided_by[result.episode])
        for result in results
        if result.episode in decided_by
        # Without its artifact nobody can be asked; what was asked everything has no more to say.
        and result.artifact is not None
        and items_left(result)
        and bought.get(result.episode, 0) < rounds
    ]
    return min(found, key=lambda p: (p.seconds, p.result.episode), default=None)


def _purchase(result: TrialResult, decides: str) -> Purchase:
    limit = 2 * max(score.n for score in result.scores)
    more = sum(max(min(limit, s.n_available) - s.n, 0) for s in result.scores)
    # Its other measurements took a part of the time, so this is at most what an item takes.
    per_item = result.evaluate_s / sum(score.n for score in result.scores)
    return Purchase(result=result, limit=limit, seconds=more * per_item, decides=decides)


def _used_up(still: Sequence[Undecided], bought: Mapping[int, int], rounds: int) -> str:
    """Why nothing that is open can be asked more."""
    if all(bought.get(each.episode, 0) >= rounds for each in still):
        return "the rounds are used up (--further-rounds)"
    return "the rounds are used up (--further-rounds), or the artifact was not kept"


def _why_not(run: Run, chosen: Purchase, allowance: float) -> str:
    """Why no further items are asked; empty where they are."""
    if run.interrupt.asked:
        return "the run was interrupted"
    if chosen.seconds > allowance:
        return "further items would take longer than all measuring in the search"
    if time_limit(run) <= 0:
        return "the budget is spent"
    return ""


def _open(run: Run) -> tuple[Undecided, ...]:
    config = run.prepared.config
    found = judge(run.experiment.results(), config.objectives, config.limits)
    # What breaks another limit is not taken, however good its scores turn out to be.
    lost = [r.episode for r in found.results if broken(r, found.baseline, found.limits)]
    return tuple(each for each in undecided(found) if each.episode not in lost)


def _buy(run: Run, purchase: Purchase) -> None:
    """Ask the result, and the base before it if it was asked fewer.

    Tables show both scores, and a share is of what the base scores on the same items.
    """
    results, limit = run.experiment.results(), purchase.limit
    behind = [
        r
        for r in results
        if r.episode == 0 and any(s.n < min(limit, s.n_available) for s in r.scores)
    ]
    for result in (*behind, purchase.result):
        if not _ask_one(run, result, purchase):
            return


def _ask_one(run: Run, result: TrialResult, purchase: Purchase) -> bool:
    """Whether it succeeded; an event tells of it either way, from which rounds are counted."""
    why = f"{purchase.limit} items decide {purchase.decides}"
    left = time_limit(run)
    answer = ask(run, result, limit=purchase.limit, timeout_s=left, why=why, action="further")
    told = answer if isinstance(answer, TrialResult) else result
    run.experiment.events.add(
        FURTHER,
        episode=result.episode,
        asked_for=purchase.result.episode,
        status="ok" if isinstance(answer, TrialResult) else "failed",
        reason=None if isinstance(answer, TrialResult) else answer.message,
        decides=purchase.decides,
        seconds=round(told.evaluate_s - result.evaluate_s, 1),
        scores=shown_scores(told),
    )
    return isinstance(answer, TrialResult)
