"""After the search: further benchmark items, where a decision depends on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from paredown.coordinate.final import ask, shown_scores
from paredown.coordinate.nodes import keep_front_only
from paredown.coordinate.state import Run
from paredown.coordinate.turn import time_limit
from paredown.judge.findings import judge
from paredown.judge.limits import broken
from paredown.judge.undecided import Undecided, items_left, undecided
from paredown.report.write import write_progress_files
from paredown.spec.result import TrialResult
from paredown.store.experiment import read_experiment


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


def ask_further(run: Run) -> None:
    """Buy items until every decision is made, or rounds, time or items are used up.

    The cheapest purchase comes first, and what is open is judged again after each: one may settle
    several decisions. A result is asked twice as many items each time, for an interval shrinks
    with the square root of them. All together take no longer than measuring took in the search,
    so that a tie that no number of items would break does not eat the night.
    """
    config = run.prepared.config
    first = _open(run)
    bought: Counter[int] = Counter()
    allowance = sum(r.evaluate_s for r in run.experiment.results())
    reason = ""
    while still := _open(run):
        results = run.experiment.results()
        chosen = cheapest(results, still, bought, rounds=config.further_rounds)
        if chosen is None:
            reason = _used_up(still, bought, config.further_rounds)
            break
        if reason := _why_not(run, chosen, allowance):
            break
        before = sum(r.evaluate_s for r in results)
        was_asked = _buy(run, chosen)
        # What failed once would fail again: it has had all of its rounds.
        bought[chosen.result.episode] += 1 if was_asked else config.further_rounds
        allowance -= sum(r.evaluate_s for r in run.experiment.results()) - before
    if not run.interrupt.asked:  # else they may be needed when the run goes on
        keep_front_only(run.experiment, config, ended=True)
    if not first:
        return
    words = [each.reason for each in still]
    run.experiment.events.add("open_decisions", open=words, reason=reason or None)
    write_progress_files(read_experiment(run.experiment.folder))


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


def _buy(run: Run, purchase: Purchase) -> bool:
    """Ask the result, and the base before it if it was asked fewer; whether that succeeded.

    Tables show both scores, and a share is of what the base scores on the same items.
    """
    results, limit = run.experiment.results(), purchase.limit
    behind = [
        r
        for r in results
        if r.episode == 0 and any(s.n < min(limit, s.n_available) for s in r.scores)
    ]
    return all(_ask_one(run, result, purchase) for result in (*behind, purchase.result))


def _ask_one(run: Run, result: TrialResult, purchase: Purchase) -> bool:
    why = f"{purchase.limit} items decide {purchase.decides}"
    left = time_limit(run)
    answer = ask(run, result, limit=purchase.limit, timeout_s=left, why=why)
    succeeded = isinstance(answer, TrialResult)
    run.experiment.events.add(
        "further_items",
        episode=result.episode,
        status="ok" if succeeded else "failed",
        reason=None if isinstance(answer, TrialResult) else answer.message,
        decides=purchase.decides,
        scores=shown_scores(answer if isinstance(answer, TrialResult) else result),
    )
    return succeeded
