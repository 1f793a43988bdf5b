"""The nodes of the graph as plain functions of (state, run); no LangGraph here."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from paredown.coordinate.interrupt import REASON, Interrupt
from paredown.coordinate.setup import Plan
from paredown.coordinate.state import State
from paredown.coordinate.steering import (
    STOPPED,
    USER,
    Steering,
    Wishes,
    decide,
    outstanding,
    without,
)
from paredown.errors import ConfigError
from paredown.judge.findings import judge
from paredown.methods import registry
from paredown.pipeline import trial
from paredown.pipeline.bench import Bench, discard
from paredown.pipeline.build import Built, build
from paredown.report.write import write_progress_files
from paredown.search.base import Budget, Decision, Policy, end
from paredown.search.convergence import converged
from paredown.spec.progress import StageProgress
from paredown.spec.result import TrialResult
from paredown.spec.run import RunConfig
from paredown.spec.serial import plain
from paredown.spec.strategy import Strategy
from paredown.store.events import read_events
from paredown.store.experiment import Experiment, read_experiment

Listener = Callable[[str, dict[str, Any]], None]
"""Told what happens (`decision`, `progress`, `result`, `interrupted`, ...), for displays."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What nodes work with; the state is what they pass on."""

    plan: Plan
    experiment: Experiment
    bench: Bench
    policy: Policy
    listen: Listener
    interrupt: Interrupt = field(default_factory=Interrupt)
    steering: Steering = field(default_factory=Steering)


def coordinator(state: State, run: Run) -> State:
    """Decide what to try next, or that it is enough; first wait while the user has paused."""
    wait_while_paused(run)
    results = run.experiment.results()
    episode = max((r.episode for r in results), default=0) + 1
    interrupted = run.experiment.in_flight()
    if run.interrupt.asked:
        decision = end(REASON, policy=USER)
    elif run.steering.stopped:
        decision = end(STOPPED, policy=USER)
    elif interrupted is not None:
        episode, strategy = interrupted
        decision = Decision(
            action=registry.kind_of(strategy),  # type: ignore[arg-type]
            strategy=strategy,
            reason="was interrupted; runs again",
            policy=proposed_by(run.experiment, episode) or "resume",
        )
    else:
        decision = wished(run, results) or searched(run, results)
    document = plain(asdict(decision) | {"strategy": plain(decision.strategy)})
    run.experiment.events.add("decision", episode=episode, **document)
    run.listen("decision", {"episode": episode, **document})
    stop = decision.reason if decision.action == "end" else None
    return {"episode": episode, "decision": document, "stop_reason": stop}


def wait_while_paused(run: Run) -> None:
    """Return once the user lets the run go on, or ends it; the pause costs no budget."""
    if not run.steering.paused:
        return
    run.experiment.events.add("paused")
    run.listen("paused", {})
    run.steering.wait(lambda: run.interrupt.asked)
    run.experiment.events.add("resumed")
    run.listen("resumed", {})


def wished(run: Run, results: tuple[TrialResult, ...]) -> Decision | None:
    """What the user has asked for, as far as the budget goes."""
    left = budget_left(run, results)
    if left.episodes_left <= 0 or (left.seconds_left is not None and left.seconds_left <= 0):
        return None
    for strategy in outstanding(run.experiment).asked:
        try:
            return decide(strategy, run.plan, results)
        except ConfigError as error:  # asked for in another session, and no longer possible
            shown = {"strategy": plain(strategy), "label": str(strategy), "because": str(error)}
            run.experiment.events.add(USER, command="drop", **shown)
            run.listen("dropped", shown)
    return None


def searched(run: Run, results: tuple[TrialResult, ...]) -> Decision:
    """What the policy proposes, or why it is enough."""
    wishes = outstanding(run.experiment)
    if reason := why_stop(run, results):
        return end(reason, policy="convergence")
    decision = propose(run, results, wishes)
    few = decision.action == "end" and budget_left(run, results).episodes_left > 0
    if few and wishes.excluded:
        shown = ", ".join(wishes.excluded)
        return replace(decision, reason=f"{decision.reason}; excluded by the user: {shown}")
    return decision


def propose(run: Run, results: tuple[TrialResult, ...], wishes: Wishes) -> Decision:
    """Ask the policy, which sees nothing of what the user has excluded."""
    return run.policy.propose(
        results,
        without(run.plan.space, wishes.excluded),
        run.plan.config.limits,
        budget=budget_left(run, results),
    )


def budget_left(run: Run, results: tuple[TrialResult, ...]) -> Budget:
    """Episodes and seconds that may still be used."""
    config = run.plan.config
    spent = sum(r.wall_s for r in results)
    done = sum(r.episode > 0 for r in results)
    return Budget(
        episodes_left=config.episodes - done,
        seconds_left=None if config.budget_h is None else config.budget_h * 3600 - spent,
    )


def why_stop(run: Run, results: tuple[TrialResult, ...]) -> str | None:
    """Why the search has converged, if it has and may stop for that."""
    config = run.plan.config
    left = budget_left(run, results)
    if config.patience is None or left.episodes_left <= 0:  # then the policy says so
        return None
    return converged(results, config.objectives, config.limits, patience=config.patience)


def proposed_by(experiment: Experiment, episode: int) -> str | None:
    """The policy that decided on an episode, from the event log."""
    decisions = (
        event
        for event in read_events(experiment.events.path)
        if event["event"] == "decision" and event["episode"] == episode
    )
    return next((str(event["policy"]) for event in decisions), None)


def route(state: State) -> str:
    """Name of the node that carries out the decision."""
    decision = state.get("decision")
    return "end" if decision is None else str(decision["action"])


def compress(state: State, run: Run) -> State:
    """Build the artifact of the decided strategy (quantization, pruning, tuning, pipeline)."""
    strategy = _strategy(state)
    episode = state["episode"]
    folder = run.experiment.begin(episode, strategy)
    discard(folder / "artifact")
    by_user = (state.get("decision") or {}).get("policy") == USER
    built = build(
        run.bench,
        strategy,
        folder,
        folder / "artifact",
        timeout_s=time_limit(run),
        worst=None if by_user else screen_limit(run.plan.config),
        watch=_watch(run, episode),
    )
    if built.failure is not None and built.config_error and not by_user:
        # Not this strategy but the request (or the disk) is at fault: the next would fail alike.
        raise ConfigError(f"{registry.label(strategy)}: {built.failure.message}")
    return {"built": built.model_dump(mode="json")}


def screen_limit(config: RunConfig) -> float | None:
    """Multiple of the base's perplexity beyond which a candidate is measured no further: not what
    the user still accepts. Who asks for a strategy wants its numbers, however bad."""
    loss = config.limits.max_accuracy_loss or 0.0
    return None if config.evaluate.screen is None else max(config.evaluate.screen, 1 + loss / 100)


def search(state: State, run: Run) -> State:
    """Let the classical policy choose the strategy, then build it."""
    decision = propose(run, run.experiment.results(), outstanding(run.experiment))
    if decision.strategy is None:
        return {"stop_reason": decision.reason, "built": None}
    document = plain(asdict(decision) | {"strategy": plain(decision.strategy)})
    chosen: State = {**state, "decision": document}
    return {"decision": document, **compress(chosen, run)}


def evaluation(state: State, run: Run) -> State:
    """Measure the artifact that was built."""
    built_document = state.get("built")
    if built_document is None:
        return {"result": None}
    built = Built.model_validate(built_document)
    episode = state["episode"]
    results = run.experiment.results()
    result = trial.measure(
        run.bench,
        _strategy(state),
        run.experiment.episode(episode),
        episode=episode,
        timeout_s=max(time_limit(run) - built.seconds, 0.0),
        built=built,
        baseline=next((r for r in results if r.episode == 0), None),
        limits=run.plan.config.limits,
        earlier=results,
        watch=_watch(run, episode),
    )
    return {"result": result.model_dump(mode="json")}


def update_state(state: State, run: Run) -> State:
    """Record the result, keep artifacts of the front only, tell the policy and the display."""
    document = state.get("result")
    if document is None:
        return {"decision": None, "built": None}
    result = TrialResult.model_validate(document)
    decision = state.get("decision")
    if decision is not None:
        told = {"proposed_by": decision["policy"], "expected": decision["expected"] or {}}
        result = result.model_copy(update=told)
    run.experiment.finish(result)
    run.experiment.events.add(
        "episode",
        episode=result.episode,
        status=result.status,
        failure=result.failure,
        unmet=result.unmet,
        seconds=round(result.wall_s, 1),
    )
    keep_front_only(run.experiment, run.plan)
    write_progress_files(read_experiment(run.experiment.folder))
    run.listen("result", {"result": result})
    return {"decision": None, "built": None, "result": None}


def keep_front_only(experiment: Experiment, plan: Plan) -> None:
    """Delete the artifacts that the judge does not keep; measurements stay."""
    results = experiment.results()
    kept = judge(results, plan.config.objectives, plan.config.limits).kept
    for result in results:
        if result.artifact is not None and result.episode not in kept:
            shutil.rmtree(experiment.folder / result.artifact, ignore_errors=True)
            experiment.finish(result.model_copy(update={"artifact": None}))


def measure_baseline(run: Run) -> TrialResult:
    """Episode 0: the base model, measured like any artifact; read back if it is there already."""
    found = next((r for r in run.experiment.results() if r.episode == 0), None)
    if found is not None:
        return found
    run.listen("decision", {"episode": 0, "reason": "the uncompressed model", "action": "baseline"})
    folder = run.experiment.begin(0, None)
    result = trial.measure(
        run.bench, None, folder, episode=0, timeout_s=time_limit(run), watch=_watch(run, 0)
    )
    run.experiment.finish(result)
    run.experiment.events.add("episode", episode=0, status="ok", seconds=round(result.wall_s, 1))
    write_progress_files(read_experiment(run.experiment.folder))
    run.listen("result", {"result": result})
    return result


def time_limit(run: Run) -> float:
    """Seconds a trial may take: its own limit, or what is left of the budget."""
    left = budget_left(run, run.experiment.results()).seconds_left
    limit = run.plan.config.trial_timeout_h * 3600
    return limit if left is None else max(min(limit, left), 0.0)


def _strategy(state: State) -> Strategy:
    decision = state.get("decision")
    if decision is None or decision["strategy"] is None:
        raise AssertionError("a node that needs a strategy was reached without one")
    return Strategy.model_validate(decision["strategy"])


def _watch(run: Run, episode: int) -> StageProgress:
    def watch(stage: str, share: float, message: str) -> None:
        run.listen(
            "progress", {"episode": episode, "stage": stage, "share": share, "message": message}
        )

    return watch
