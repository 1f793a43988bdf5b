"""What a turn of the loop hands out: interrupted, asked for by the user, or proposed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from paredown.coordinate import budget
from paredown.coordinate.crew import Assigned
from paredown.coordinate.interrupt import REASON
from paredown.coordinate.state import Run
from paredown.coordinate.steering import USER, decide, outstanding, without
from paredown.errors import ConfigError
from paredown.methods import registry
from paredown.search.base import Action, Budget, Decision, end
from paredown.search.convergence import converged
from paredown.spec.result import TrialResult
from paredown.spec.serial import plain
from paredown.spec.strategy import Strategy
from paredown.store.events import read_events
from paredown.store.experiment import Decided, Experiment

Results = tuple[TrialResult, ...]


def is_ending(run: Run) -> bool:
    """Whether the user has asked for the end of the run."""
    return run.interrupt.asked or run.steering.stopped


def next_trials(run: Run, results: Results, count: int) -> tuple[Assigned, ...]:
    """Up to `count` trials that can run side by side, or a single `end`.

    What an earlier session began and did not finish comes first, then what the user has asked for,
    then what the policy proposes.
    """
    begun = run.experiment.in_flight()
    last = max((r.episode for r in results), default=0)
    if is_ending(run):
        reason = REASON if run.interrupt.asked else run.steering.reason
        return (Assigned(episode=last + 1, decision=end(reason, policy=USER)),)
    under_way = {assigned.episode for assigned in run.crew.under_way}
    again = [
        Assigned(episode=episode, decision=_again(run.experiment, episode, strategy))
        for episode, strategy in begun
        if episode not in under_way
    ][:count]
    new = _new(run, results, count - len(again), [a.decision for a in again])
    # Numbers of interrupted episodes are taken, even where they do not run again in this turn.
    last = max((last, *(episode for episode, _ in begun)))
    return (
        *again,
        *(Assigned(episode=last + i, decision=decision) for i, decision in enumerate(new, 1)),
    )


def _again(experiment: Experiment, episode: int, strategy: Strategy) -> Decision:
    decided = experiment.decided(episode) or _in_log(experiment, episode, strategy)
    return Decision(
        action=cast("Action", registry.kind_of(strategy)),
        strategy=strategy,
        reason="was interrupted; runs again",
        expected=decided.expected if decided else None,
        policy=decided.policy if decided else "resume",
    )


def _new(run: Run, results: Results, count: int, chosen: Sequence[Decision]) -> list[Decision]:
    """Up to `count` decisions besides those that are `chosen`; an `end` only if it is all."""
    asked = wished(run, results, count, chosen)
    if len(asked) >= count:
        return asked
    both = [*chosen, *asked]
    proposed = searched(run, results, count - len(asked), both)
    # That the policy is done ends nothing while there is something else to do.
    if both and proposed[0].action == "end":
        return asked
    return [*asked, *proposed]


def wished(
    run: Run, results: Results, count: int, chosen: Sequence[Decision] = ()
) -> list[Decision]:
    """What the user has asked for, as far as the budget and `count` go."""
    left = budget_left(run, results, len(chosen))
    if left.seconds_left is not None and left.seconds_left <= 0:
        return []
    found: list[Decision] = []
    for strategy in outstanding(run.experiment).asked:
        if len(found) >= min(count, left.episodes_left):
            break
        try:
            found.append(decide(strategy, run.prepared, results))
        except ConfigError as error:  # asked for in another session, and no longer possible
            shown = {"strategy": plain(strategy), "label": str(strategy), "because": str(error)}
            run.experiment.events.add(USER, command="drop", **shown)
            run.listen("dropped", shown)
    return found


def searched(
    run: Run, results: Results, count: int, chosen: Sequence[Decision] = ()
) -> tuple[Decision, ...]:
    """What the policy proposes, or why it is enough.

    The policy sees nothing of what the user has excluded, and knows what is under way.
    """
    if reason := why_stop(run, results):
        return (end(reason, policy="convergence"),)
    excluded = outstanding(run.experiment).excluded
    left = budget_left(run, results, len(chosen))
    proposed = run.policy.propose_batch(
        results,
        without(run.prepared.space, excluded),
        run.prepared.config.limits,
        budget=left,
        count=count,
        pending=(*(assigned.decision for assigned in run.crew.under_way), *chosen),
    )
    if proposed[0].action == "end" and left.episodes_left > 0 and excluded:
        reason = f"{proposed[0].reason}; excluded by the user: {', '.join(excluded)}"
        return (replace(proposed[0], reason=reason),)
    return proposed


def budget_left(run: Run, results: Results, chosen: int = 0) -> Budget:
    """Episodes and seconds that may still be used, with those under way and `chosen` taken off."""
    config = run.prepared.config
    # Read only where the clock counts: with every turn the log is longer.
    events = read_events(run.experiment.events.path) if config.budget_h is not None else ()
    under_way = [assigned.episode for assigned in run.crew.under_way]
    left = budget.budget_left(config, results, events, under_way)
    return replace(left, episodes_left=left.episodes_left - chosen)


def time_limit(run: Run) -> float:
    """Seconds a trial may take: its own limit, or what is left of the budget."""
    left = budget_left(run, run.experiment.results()).seconds_left
    limit = run.prepared.config.trial_timeout_h * 3600
    return limit if left is None else max(min(limit, left), 0.0)


def why_stop(run: Run, results: Results) -> str | None:
    """Why the search has converged, if it has and may stop for that."""
    config = run.prepared.config
    left = budget_left(run, results)
    if config.patience is None or left.episodes_left <= 0:  # then the policy says so
        return None
    return converged(results, config.objectives, config.limits, patience=config.patience)


def _in_log(experiment: Experiment, episode: int, strategy: Strategy) -> Decided | None:
    """The decision to try `strategy` in an episode, for folders that keep it in the log alone.

    The last such: an earlier one was decided again, for nobody had carried it out.
    """
    found = None
    for event in read_events(experiment.events.path):
        if event["event"] != "decision" or event["episode"] != episode:
            continue
        if event.get("strategy") == plain(strategy):
            found = Decided(
                policy=str(event["policy"]),
                reason=str(event["reason"]),
                expected=event.get("expected") or {},
            )
    return found
