"""The nodes of the graph as plain functions of (state, run); no LangGraph here."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial

from paredown.coordinate.crew import Assigned
from paredown.coordinate.further import ask_between
from paredown.coordinate.identity import inputs_of
from paredown.coordinate.keeping import keep_front_only
from paredown.coordinate.state import Run, State
from paredown.coordinate.steering import USER
from paredown.coordinate.turn import is_ending, next_trials, time_limit
from paredown.errors import ConfigError
from paredown.methods import registry
from paredown.pipeline import trial
from paredown.pipeline.bench import discard
from paredown.pipeline.build import build
from paredown.report.write import write_progress_files
from paredown.spec.progress import StageProgress
from paredown.spec.result import TrialResult
from paredown.spec.run import RunConfig
from paredown.spec.serial import plain
from paredown.spec.strategy import Strategy
from paredown.store.experiment import Decided, read_experiment


def coordinator(state: State, run: Run) -> State:
    """Decide what to try next, as much as the crew can take on, or that it is enough.

    First wait while the user has paused. An end is decided only when nothing is under way: until
    then, what comes in may change it.
    """
    waits: State = {"assigned": (), "stop_reason": None}
    if run.crew.under_way and (is_ending(run) or run.steering.paused):
        return waits
    wait_while_paused(run)
    decided = next_trials(run, run.experiment.results(), run.crew.free)
    is_end = decided[0].decision.action == "end"
    if is_end and run.crew.under_way:
        return waits
    for assigned in decided:
        decision = assigned.decision
        document = plain(asdict(decision) | {"strategy": plain(decision.strategy)})
        run.experiment.events.add("decision", episode=assigned.episode, **document)
        run.listen("decision", {"episode": assigned.episode, **document})
    if is_end:
        return {"assigned": (), "stop_reason": decided[0].decision.reason}
    return {"assigned": decided, "stop_reason": None}


def wait_while_paused(run: Run) -> None:
    """Return once the user lets the run go on, or ends it; the pause costs no budget."""
    if not run.steering.paused:
        return
    run.experiment.events.add("paused")
    run.listen("paused", {})
    run.steering.wait(lambda: run.interrupt.asked)
    run.experiment.events.add("resumed")
    run.listen("resumed", {})


def route(state: State) -> list[str]:
    """Names of the nodes that come next: by the kinds of what is to be carried out."""
    if state["stop_reason"] is not None:
        return ["end"]
    kinds = dict.fromkeys(str(assigned.decision.action) for assigned in state["assigned"])
    # Nothing to hand out: every worker is busy, or the end waits for those that are.
    return list(kinds) or ["evaluation"]


def hand_out(state: State, run: Run, *, kind: str) -> State:
    """Begin the trials of one kind (quantization, pruning, tuning, pipeline)."""
    for assigned in state["assigned"]:
        if assigned.decision.action != kind:
            continue
        # One that runs again keeps the reason for which it was begun.
        decided = run.experiment.decided(assigned.episode) or Decided(
            policy=assigned.decision.policy,
            reason=assigned.decision.reason,
            expected=assigned.decision.expected or {},
        )
        strategy = _strategy(assigned)
        inputs = inputs_of(strategy, run.prepared.config.data_dir)
        folder = run.experiment.begin(assigned.episode, strategy, decided=decided, inputs=inputs)
        if not run.bench.executor.goes_on(folder):
            discard(folder / "artifact")  # of an attempt that was killed
        # The limit is what is left now: the trial's own time is not known to the folder yet.
        work = partial(carry_out, run, assigned, time_limit(run))
        run.crew.hand_out(assigned, work)
    return {}


def carry_out(run: Run, assigned: Assigned, timeout_s: float) -> TrialResult:
    """A whole trial: build the artifact, and measure it. Called in a thread of the crew.

    Raises:
        ConfigError: not this strategy but the request (or the disk) is at fault: the next would
            fail alike.
    """
    strategy, episode = _strategy(assigned), assigned.episode
    folder = run.experiment.episode(episode)
    by_user = assigned.decision.policy == USER
    watch = _watch(run, episode)
    built = build(
        run.bench,
        strategy,
        folder,
        folder / "artifact",
        timeout_s=timeout_s,
        worst=None if by_user else screen_limit(run.prepared.config),
        watch=watch,
    )
    if built.failure is not None and built.config_error and not by_user:
        raise ConfigError(f"{registry.label(strategy)}: {built.failure.message}")
    # Read now, not before building: others may have finished meanwhile.
    results = run.experiment.results()
    return trial.measure(
        run.bench,
        strategy,
        folder,
        episode=episode,
        timeout_s=max(timeout_s - built.seconds, 0.0),
        built=built,
        baseline=next((r for r in results if r.episode == 0), None),
        limits=run.prepared.config.limits,
        quality=run.prepared.config.quality,
        earlier=results,
        watch=watch,
    )


def screen_limit(config: RunConfig) -> float | None:
    """Multiple of the base's perplexity beyond which a candidate is measured no further: not what
    the user still accepts. Who asks for a strategy wants its numbers, however bad."""
    loss = config.limits.loss_percent or 0.0
    return None if config.evaluate.screen is None else max(config.evaluate.screen, 1 + loss / 100)


def evaluation(state: State, run: Run) -> State:
    """Wait until a trial is measured, and take in all that are."""
    return {"finished": run.crew.take_in()}


def update_state(state: State, run: Run) -> State:
    """Record what came in, keep the artifacts worth keeping, tell the display; ask further
    benchmark items where what came in leaves a decision open.

    Raises:
        BaseException: what ended a trial and must end the run; what finished beside it is recorded
            before.
    """
    errors = []
    for finished in state["finished"]:
        if isinstance(finished.result, TrialResult):
            _record(finished.assigned, finished.result, run)
        else:
            errors.append(finished.result)
    for error in errors:
        raise error
    if not is_ending(run) and not run.steering.paused:
        ask_between(run)
    return {"assigned": (), "finished": ()}


def _record(assigned: Assigned, found: TrialResult, run: Run) -> None:
    decision = assigned.decision
    told = {
        "proposed_by": decision.policy,
        "expected": decision.expected or {},
        "machine": found.machine or run.prepared.machine.id,
    }
    result = found.model_copy(update=told)
    # First: a resumed run goes by the result; the log and the files below only tell of it.
    run.experiment.finish(result)
    run.experiment.events.add(
        "episode",
        episode=result.episode,
        status=result.status,
        failure=result.failure,
        unmet=result.unmet,
        seconds=round(result.wall_s, 1),
    )
    keep_front_only(run.experiment, run.prepared.config)
    write_progress_files(read_experiment(run.experiment.folder))
    run.listen("result", {"result": result})


def measure_baseline(run: Run) -> TrialResult:
    """Episode 0: the base model, measured like any artifact; read back if it is there already.

    On another machine than before it is measured again: what takes time and energy here cannot be
    compared with what it took there. The earlier result is kept beside.
    """
    found = next((r for r in run.experiment.results() if r.episode == 0), None)
    here, reason = run.prepared.machine.id, "the uncompressed model"
    if found is not None:
        if found.machine in (None, here):
            return found
        reason = f"{reason}, again: this is another machine"
        run.experiment.set_aside(found)
        run.experiment.events.add("machine", before=found.machine, now=here)
    run.listen("decision", {"episode": 0, "reason": reason, "action": "baseline"})
    folder = run.experiment.begin(0, None)
    result = trial.measure(
        run.bench,
        None,
        folder,
        episode=0,
        timeout_s=time_limit(run),
        quality=run.prepared.config.quality,
        watch=_watch(run, 0),
    )
    result = result.model_copy(update={"machine": result.machine or here})
    run.experiment.finish(result)
    run.experiment.events.add("episode", episode=0, status="ok", seconds=round(result.wall_s, 1))
    write_progress_files(read_experiment(run.experiment.folder))
    run.listen("result", {"result": result})
    return result


def _strategy(assigned: Assigned) -> Strategy:
    if assigned.decision.strategy is None:
        raise AssertionError("an end is not carried out")
    return assigned.decision.strategy


def _watch(run: Run, episode: int) -> StageProgress:
    def watch(stage: str, share: float, message: str) -> None:
        run.listen(
            "progress", {"episode": episode, "stage": stage, "share": share, "message": message}
        )

    return watch
