"""One trial: compress, verify in a fresh process, evaluate in another."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from paredown.errors import ConfigError
from paredown.evaluate.footprint import measure_size
from paredown.methods import registry
from paredown.models.description import add_measurements
from paredown.pipeline.executor import LocalExecutor, Outcome
from paredown.pipeline.jobs import (
    EXPECTED,
    CompressJob,
    EvaluateJob,
    HeldOut,
    Job,
    ScoreJob,
    TextSpec,
    VerifyJob,
    measurements_of,
    scores_of,
    speed_of,
)
from paredown.pipeline.screening import why_not_scored
from paredown.spec.infer import infer_spec
from paredown.spec.model import ModelSpec
from paredown.spec.result import (
    CHECKED_PLAIN,
    NOT_SCORED,
    Failure,
    FailureKind,
    Measurement,
    TrialResult,
    flat_fields,
)
from paredown.spec.run import CalibrationConfig, EvaluateConfig
from paredown.spec.speed import SpeedPoint
from paredown.spec.strategy import Strategy
from paredown.spec.target import Device, Limits
from paredown.spec.units import Unit

Watch = Callable[[str, float, str], None]
"""Called with the stage, the share of it done, and a message."""


@dataclass(frozen=True, kw_only=True)
class Base:
    """The model that trials start from."""

    name: str
    folder: Path
    hash: str
    spec: ModelSpec


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Everything a trial needs besides its strategy."""

    base: Base
    text: TextSpec
    calibration: CalibrationConfig
    evaluate: EvaluateConfig
    device: Device
    seed: int
    executor: LocalExecutor
    trust_remote_code: bool = False


class _TrialFailed(Exception):
    """Ends a trial early; never leaves this module."""

    def __init__(self, failure: Failure, *, config_error: bool) -> None:
        super().__init__(failure.message)
        self.failure, self.config_error = failure, config_error


class _Clock:
    """Runs jobs of one trial under one common deadline."""

    def __init__(self, bench: Bench, folder: Path, timeout_s: float, watch: Watch | None) -> None:
        self.bench, self.folder, self.watch = bench, folder, watch
        self.start = time.monotonic()
        self.deadline = self.start + timeout_s

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.start

    def run(self, job: Job, stage: str) -> dict[str, Any]:
        left = self.deadline - time.monotonic()
        if left <= 0:
            failure = Failure(kind=FailureKind.TIMEOUT, message="no time left", stage=stage)
            raise _TrialFailed(failure, config_error=False)

        def watch(share: float, message: str) -> None:
            if self.watch is not None:
                self.watch(stage, share, message)

        outcome: Outcome = self.bench.executor.run(
            job, self.folder, timeout_s=left, stage=stage, watch=watch
        )
        if outcome.failure is not None:
            raise _TrialFailed(outcome.failure, config_error=outcome.config_error)
        return outcome.require()


class Built(BaseModel):
    """What came of the first half of a trial: an artifact that reloads, or the failure."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    notes: tuple[str, ...] = ()
    failure: Failure | None = None
    config_error: bool = False
    seconds: float = 0.0


def build(
    bench: Bench,
    strategy: Strategy,
    folder: Path,
    out: Path,
    *,
    timeout_s: float,
    screened: bool = False,
    watch: Watch | None = None,
) -> Built:
    """Compress into `out` and prove, in a fresh process, that it reloads to what was meant.

    Whatever happens inside the worker processes becomes part of the returned record.

    Args:
        screened: an artifact that few tokens show to be ruined (`evaluate.screen`) is a failure.
    """
    clock = _Clock(bench, folder, timeout_s, watch)
    try:
        notes = _compress_and_verify(bench, strategy, out, clock, screened=screened)
    except _TrialFailed as error:
        discard(out)
        return Built(failure=error.failure, config_error=error.config_error, seconds=clock.elapsed)
    finally:
        _tidy(folder)
    return Built(notes=notes, seconds=clock.elapsed)


def _compress_and_verify(
    bench: Bench, strategy: Strategy, out: Path, clock: _Clock, *, screened: bool
) -> tuple[str, ...]:
    built = clock.run(
        CompressJob(
            device=bench.device,
            trust_remote_code=bench.trust_remote_code,
            model=bench.base.folder,
            model_name=bench.base.name,
            model_hash=bench.base.hash,
            strategy=strategy,
            out=out,
            text=bench.text,
            samples=bench.calibration.samples,
            length=bench.calibration.length,
            seed=bench.seed,
        ),
        "compress",
    )
    expected = clock.folder / EXPECTED
    last, params = registry.resolve(strategy)[-1]
    made = infer_spec(out)
    runtimes = registry.runtimes(last, params, made)
    checked = clock.run(
        VerifyJob(
            device=bench.device,
            trust_remote_code=bench.trust_remote_code,
            artifact=out,
            expected=expected if expected.exists() else None,
            plain="transformers" in runtimes,
            screen=_held_out(bench) if screened else None,
        ),
        "verify",
    )
    notes = list(checked["notes"])
    if built["reused_steps"]:
        kept = " > ".join(step.method for step in strategy.steps[: built["reused_steps"]])
        notes.append(
            f"the result of {kept} was there from an earlier trial; its time is not counted"
        )
    if built["predicted_bytes"] != built["stored_bytes"]:
        notes.append(
            f"predicted {built['predicted_bytes']} bytes of tensors, stored {built['stored_bytes']}"
        )
    if "kl_transformers" in checked:
        notes.append(CHECKED_PLAIN)
    if "vllm" in runtimes:
        untested = made.experts or made.vision
        what = "a mixture of experts" if made.experts else "a model that sees images"
        notes.append(
            f"vLLM knows this format; whether it reads it of {what} is untested"
            if untested
            else "vLLM reads this format (not run here)"
        )
    return tuple(notes)


def measure(
    bench: Bench,
    strategy: Strategy | None,
    folder: Path,
    *,
    episode: int,
    timeout_s: float,
    built: Built | None = None,
    baseline: TrialResult | None = None,
    limits: Limits | None = None,
    earlier: Sequence[TrialResult] = (),
    watch: Watch | None = None,
) -> TrialResult:
    """The second half of a trial: evaluate `folder/artifact`, or the base if there is no strategy.

    Raises:
        ConfigError: the base model itself cannot be measured: nothing can be compared with it.
    """
    built = built or Built()
    common: dict[str, Any] = {
        "episode": episode,
        "strategy": strategy,
        "label": "baseline" if strategy is None else registry.label(strategy),
        "kind": "baseline" if strategy is None else registry.kind_of(strategy),
        "compress_s": built.seconds,
    }
    clock = _Clock(bench, folder, timeout_s, watch)
    artifact = folder / "artifact"

    def failed(failure: Failure) -> TrialResult:
        discard(artifact)
        wall = built.seconds + clock.elapsed
        return TrialResult(
            **common, status="failed", failure=failure, evaluate_s=clock.elapsed, wall_s=wall
        )

    if built.failure is not None:
        return failed(built.failure)
    model = bench.base.folder if strategy is None else artifact
    try:
        found = clock.run(_evaluate_job(bench, model), "evaluate")
        measured = measurements_of(found)
        measured = (*measured, *_compared(measured, baseline, is_base=strategy is None))
        result = TrialResult(
            **common,
            status="ok",
            measurements=measured,
            speed=speed_of(found),
            notes=tuple(dict.fromkeys((*built.notes, *found["notes"]))),
            artifact=None if strategy is None else f"{folder.name}/artifact",
            **flat_fields(measured),
        )
        if limits is not None and baseline is not None:
            result = result.model_copy(update={"unmet": limits.unmet(result, baseline)})
        result = _scored_if_worth_it(clock, result, model, earlier)
    except _TrialFailed as error:
        if strategy is None:
            raise ConfigError(
                f"the base model could not be measured: {error.failure.message}"
            ) from None
        return failed(error.failure)
    finally:
        _tidy(folder)
    if strategy is not None:
        add_measurements(artifact, [m.model_dump(mode="json") for m in result.measurements])
    times = {"evaluate_s": clock.elapsed, "wall_s": built.seconds + clock.elapsed}
    return result.model_copy(update=times)


def rescore(
    bench: Bench,
    result: TrialResult,
    folder: Path,
    *,
    limit: int,
    timeout_s: float,
    watch: Watch | None = None,
) -> TrialResult | Failure:
    """A result with the scores of its benchmarks replaced by those on a larger set.

    Args:
        folder: of the episode, with its artifact.
        limit: items per benchmark; 0 means all.
    """
    clock = _Clock(bench, folder, timeout_s, watch)
    model = bench.base.folder if result.strategy is None else folder / "artifact"
    config = bench.evaluate.model_copy(update={"limit": limit, "stop_loss": None})
    named = {score.name for score in result.scores}
    others = tuple(m for m in result.measurements if m.name not in named)
    bare = result.model_copy(update={"measurements": others})
    try:
        scored = _with_scores(clock, bare, model, config)
    except _TrialFailed as error:
        return error.failure
    finally:
        _tidy(folder)
    if result.strategy is not None:
        add_measurements(model, [m.model_dump(mode="json") for m in scored.measurements])
    return scored.model_copy(
        update={
            "scores": tuple(s.model_copy(update={"final": True}) for s in scored.scores),
            "evaluate_s": result.evaluate_s + clock.elapsed,
            "wall_s": result.wall_s + clock.elapsed,
        }
    )


def measure_folder(
    bench: Bench,
    model: Path,
    folder: Path,
    *,
    label: str,
    timeout_s: float,
    only_benchmarks: bool = False,
    watch: Watch | None = None,
) -> TrialResult:
    """Measure any model folder against the bench's base, outside of an experiment.

    Args:
        only_benchmarks: leave out everything that takes time besides them.

    Raises:
        ConfigError: it cannot be measured.
    """
    clock = _Clock(bench, folder, timeout_s, watch)
    try:
        measured, notes = _sizes(bench, model), ()
        speed: tuple[SpeedPoint, ...] = ()
        if not only_benchmarks:
            found = clock.run(_evaluate_job(bench, model), "evaluate")
            measured, notes = measurements_of(found), tuple(found["notes"])
            speed = speed_of(found)
        result = TrialResult(
            episode=0,
            strategy=None,
            label=label,
            kind="evaluation",
            status="ok",
            measurements=measured,
            speed=speed,
            notes=notes,
            **flat_fields(measured),
        )
        to_the_end = bench.evaluate.model_copy(update={"stop_loss": None})
        result = _with_scores(clock, result, model, to_the_end)
    except _TrialFailed as error:
        raise ConfigError(f"{label} could not be measured: {error.failure.message}") from None
    return result.model_copy(update={"evaluate_s": clock.elapsed, "wall_s": clock.elapsed})


def _evaluate_job(bench: Bench, model: Path) -> EvaluateJob:
    return EvaluateJob(
        device=bench.device,
        trust_remote_code=bench.trust_remote_code,
        model=model,
        base_bytes=_base_bytes(bench),
        held_out=_held_out(bench),
    )


def _held_out(bench: Bench) -> HeldOut:
    return HeldOut(
        base=bench.base.folder, base_hash=bench.base.hash, text=bench.text, config=bench.evaluate
    )


def _base_bytes(bench: Bench) -> int:
    return sum(file.stat().st_size for file in bench.base.folder.glob("*.safetensors"))


def _sizes(bench: Bench, model: Path) -> tuple[Measurement, ...]:
    return tuple(measure_size(model, _base_bytes(bench)))


def _scored_if_worth_it(
    clock: _Clock, result: TrialResult, model: Path, earlier: Sequence[TrialResult]
) -> TrialResult:
    """The result with benchmarks, or with a note that says why they were not asked."""
    config = clock.bench.evaluate
    why_not = None if result.strategy is None else why_not_scored(result, earlier)
    if not config.benchmarks or why_not is None:
        return _with_scores(clock, result, model, config)
    note = f"{NOT_SCORED} {', '.join(config.benchmarks)}: {why_not}"
    return result.model_copy(update={"notes": (*result.notes, note)})


def _with_scores(
    clock: _Clock, result: TrialResult, model: Path, config: EvaluateConfig
) -> TrialResult:
    """The result with benchmarks added, if any were asked for."""
    if not config.benchmarks:
        return result
    bench = clock.bench
    found = clock.run(
        ScoreJob(
            device=bench.device,
            trust_remote_code=bench.trust_remote_code,
            model=model,
            base=bench.base.folder,
            data_dir=bench.text.data_dir,
            config=config,
        ),
        "score",
    )
    scored = (*result.measurements, *measurements_of(found))
    return result.model_copy(update={"measurements": scored, "scores": scores_of(found)})


def _compared(
    measured: tuple[Measurement, ...], baseline: TrialResult | None, *, is_base: bool
) -> list[Measurement]:
    """Decode speed relative to the baseline, where it was not measured side by side."""
    if any(m.name == "speedup" for m in measured):
        return []
    mine = next((m for m in measured if m.name == "decode_latency"), None)
    if mine is None or (baseline is None and not is_base):
        return []
    base = mine if is_base or baseline is None else baseline.get("decode_latency")
    if base is None:
        return []
    return [
        Measurement(
            name="speedup",
            value=base.value / mine.value,
            unit=Unit.RATIO,
            n=1,
            stderr=None,
            lower_is_better=False,
            source="derived",
            how="the baseline itself"
            if is_base
            else "decode latency of the baseline over this one's, measured at different times: "
            "too little memory for both at once",
        )
    ]


def _tidy(folder: Path) -> None:
    """Remove what only the jobs needed; the log stays."""
    for name in ("job.json", "progress.json", "progress.tmp", "result.json", EXPECTED):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "steps", ignore_errors=True)


def discard(artifact: Path) -> None:
    """Delete an artifact and whatever a killed worker left of it."""
    for left in (artifact, *artifact.parent.glob(f".{artifact.name}.partial-*")):
        shutil.rmtree(left, ignore_errors=True)
