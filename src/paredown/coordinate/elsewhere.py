"""After the search: its base and front in the other engines that were named, or what they promise.

The engine named first steers the search. What it compressed is not compressed again: the artifacts
of the front are written in the files of the other engines and measured there, each beside the base
in the same engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from paredown.coordinate.state import Run
from paredown.coordinate.turn import time_limit
from paredown.coordinate.versions import stored_version
from paredown.errors import ConfigError
from paredown.hardware.engines import ENGINES
from paredown.hardware.memory import Work
from paredown.hardware.timing import decode_step
from paredown.judge.findings import judge
from paredown.judge.front import find_front
from paredown.pipeline import trial
from paredown.runtimes import registry
from paredown.runtimes.base import Engine
from paredown.runtimes.calibration import kept
from paredown.spec.elsewhere import Elsewhere
from paredown.spec.infer import infer_spec
from paredown.spec.model import ModelSpec
from paredown.spec.result import TrialResult
from paredown.spec.run import RunConfig
from paredown.store.elsewhere import read_elsewhere, write_elsewhere

EVENT = "elsewhere"
"""The event that tells of a measurement in another engine."""
PROMISED = "engines"
"""The event that tells what other engines on this machine would bring, estimated."""


def unmeasured(
    results: Sequence[TrialResult], config: RunConfig, rows: Sequence[Elsewhere]
) -> list[tuple[str, TrialResult]]:
    """What is still to be measured in other engines: the base of each first, then the front."""
    front = find_front(results, config.objectives)
    on_disk = [r for r in results if r.episode > 0 and r in front and r.artifact is not None]
    base = [r for r in results if r.episode == 0]
    known = {(row.runtime, row.episode) for row in rows}
    return [
        (name, result)
        for name in (config.also_in if on_disk else ())
        for result in (*base, *on_disk)
        if (name, result.episode) not in known
    ]


def measure_elsewhere(run: Run) -> None:
    """Measure the base and the front in the other engines, what is recorded left out.

    A run that is killed goes on where it stood; one without time left says what is missing.
    """
    folder = run.experiment.folder
    todo = unmeasured(run.experiment.results(), run.prepared.config, read_elsewhere(folder))
    for name, result in todo:
        about = {"runtime": name, "episode": result.episode}
        if (why := _why_not(run)) is not None:
            run.experiment.events.add(EVENT, **about, status="skipped", reason=why)
            continue
        rows = read_elsewhere(folder)
        found = _found(run, registry.engine(name), result, rows)
        write_elsewhere(folder, (*rows, found))
        status = "refused" if found.result is None else found.result.status
        run.experiment.events.add(EVENT, **about, status=status, reason=_reason(found))


def _why_not(run: Run) -> str | None:
    if run.interrupt.asked:
        return "the run was interrupted; --resume goes on"
    return "the budget is spent" if time_limit(run) <= 0 else None


def _reason(found: Elsewhere) -> str | None:
    if found.result is None:
        return found.refused
    return None if found.result.failure is None else found.result.failure.message


def _found(
    run: Run, runs_in: Engine, result: TrialResult, rows: tuple[Elsewhere, ...]
) -> Elsewhere:
    name, episode, config = runs_in.name, result.episode, run.prepared.config
    if result.artifact is not None:
        claim = runs_in.reads(infer_spec(run.experiment.folder / result.artifact), run.bench.device)
        if not claim.holds:
            why = f"{claim.why}; {claim.mend}" if claim.mend else claim.why
            return Elsewhere(runtime=name, episode=episode, refused=why)
    why = f"measured in {name}"
    run.listen("final", {"episode": episode, "action": "elsewhere", "reason": why})
    bases = (row.result for row in rows if (row.runtime, row.episode) == (name, 0))
    measured = trial.measure_again(
        replace(run.bench, runtime=name),
        result,
        run.experiment.episode(episode),
        timeout_s=time_limit(run),
        baseline=next(bases, None),
        limits=config.limits,
        quality=config.quality,
        watch=lambda stage, share, message: run.listen(
            "progress", {"episode": episode, "stage": stage, "share": share, "message": message}
        ),
    )
    return Elsewhere(runtime=name, episode=episode, result=measured)


def promise_elsewhere(run: Run) -> None:
    """Note what other engines that are here would bring to what torch measured, estimated.

    It is the recommended artifact that they must hold.
    """
    config = run.prepared.config
    chosen = judge(run.experiment.results(), config.objectives, config.limits).recommendation
    result = next((r for r in run.experiment.results() if r.episode == chosen.episode), None)
    if config.runtime != "torch" or result is None or result.artifact is None:
        return
    spec = infer_spec(run.experiment.folder / result.artifact)
    told = []
    for name in ENGINES:
        if name in {config.runtime, *config.also_in} or not _is_here(name):
            continue
        if not registry.load(name).reads(spec, run.bench.device).holds:
            continue
        if (promised := _promised(run, name, spec, result)) is not None:
            told.append({"runtime": name, "episode": result.episode, **promised})
    run.experiment.events.add(PROMISED, promised=told)


def _promised(
    run: Run, name: str, spec: ModelSpec, result: TrialResult
) -> dict[str, float | str] | None:
    """Times as fast as it was measured that an engine is estimated to decode; None: not known."""
    habits, rates = ENGINES[name], kept(run.prepared.machine, name)
    mine = result.value("decode_latency")
    if rates is not None and mine is not None:
        measured = run.prepared.config.evaluate
        work = Work(
            batch=1, context=measured.prompt_tokens + measured.decode_tokens,
            prompt=measured.prompt_tokens,
        )  # fmt: skip
        step = decode_step(stored_version(spec), work, habits, rates.rates).seconds
        faster = step.inverse(mine / 1e3)
        return {"low": faster.low, "high": faster.high, "by": "calibrated"}
    if habits.decodes is None:
        return None
    low, high = habits.decodes
    return {"low": low, "high": high, "by": "elsewhere"}


def _is_here(name: str) -> bool:
    try:
        registry.engine(name)
    except ConfigError:  # not installed, or not driven here
        return False
    return True
