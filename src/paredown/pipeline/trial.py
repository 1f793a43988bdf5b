"""The second half of a trial: measure what was built, beside the base, in a process of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paredown.artifact.description import add_measurements
from paredown.errors import ConfigError
from paredown.evaluate.footprint import measure_coverage, measure_size
from paredown.judge.limits import broken
from paredown.judge.quality import judged, with_quality
from paredown.judge.quantities import BITS_PER_WEIGHT
from paredown.methods import registry
from paredown.pipeline.bench import Bench, Clock, TrialFailed, discard, tidy
from paredown.pipeline.build import Built
from paredown.pipeline.messages import EvaluateDone, EvaluateJob, ScoreJob
from paredown.pipeline.screening import why_not_scored
from paredown.runtimes.packages import package_of
from paredown.runtimes.registry import engine
from paredown.spec.progress import StageProgress
from paredown.spec.result import (
    Failure,
    Measurement,
    NotScored,
    TrialResult,
    flat_fields,
)
from paredown.spec.run import EvaluateConfig
from paredown.spec.strategy import Strategy
from paredown.spec.target import Limits
from paredown.spec.units import Unit


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
    quality: str = "auto",
    earlier: Sequence[TrialResult] = (),
    watch: StageProgress | None = None,
) -> TrialResult:
    """The second half of a trial: evaluate `folder/artifact`, or the base if there is no strategy.

    Raises:
        ConfigError: the base model itself cannot be measured: nothing can be compared with it.
    """
    built = built or Built()
    clock = Clock(bench, folder, timeout_s, watch)
    artifact = folder / "artifact"
    about = _about(strategy, episode, built)
    try:
        if built.failure is not None:
            raise TrialFailed(built.failure, config_error=False)
        model = bench.base.folder if strategy is None else artifact
        result = _measured(clock, about, model, built, baseline)
        # Judged before the benchmarks, which cost more than all else: these limits no score can
        # mend.
        hopeless = broken(result, baseline, limits or Limits())
        result = _scored_if_worth_it(clock, result, model, earlier, hopeless)
        result = judged(result, baseline, quality=quality, limits=limits)
    except TrialFailed as error:
        if strategy is None:
            raise ConfigError(
                f"the base model could not be measured: {error.failure.message}"
            ) from None
        discard(artifact)
        result = TrialResult(**about, status="failed", failure=error.failure)
    finally:
        tidy(folder)
    if result.artifact is not None:
        add_measurements(artifact, [m.model_dump(mode="json") for m in result.measurements])
    times = {"evaluate_s": clock.elapsed, "wall_s": built.seconds + clock.elapsed}
    # Several jobs may have come upon one damaged file before it was mended.
    notes = tuple(dict.fromkeys((*result.notes, *clock.notes)))
    return result.model_copy(update={**times, "notes": notes, "machine": clock.machine})


def _about(strategy: Strategy | None, episode: int, built: Built) -> dict[str, Any]:
    """The fields of a result that are known before anything is measured."""
    return {
        "episode": episode,
        "strategy": strategy,
        "label": "baseline" if strategy is None else registry.label(strategy),
        "kind": "baseline" if strategy is None else registry.kind_of(strategy),
        "compress_s": built.seconds,
        "reused_s": built.reused_s,
    }


def _measured(
    clock: Clock, about: dict[str, Any], model: Path, built: Built, baseline: TrialResult | None
) -> TrialResult:
    """The result with everything that is measured but benchmarks."""
    is_base = about["strategy"] is None
    found = clock.run(_evaluate_job(clock.bench, model))
    compared = _compared(found.measurements, baseline, is_base=is_base)
    bits = _bits(found.measurements, clock.bench.base.spec.parameters)
    measured = (*found.measurements, *bits, *compared)
    return TrialResult(
        **about,
        status="ok",
        measurements=measured,
        speed=found.speed,
        # Both halves have loaded the model, and may have said the same of it.
        notes=tuple(dict.fromkeys((*built.notes, *found.notes))),
        loads_in=built.loads_in,
        artifact=None if is_base else f"{clock.folder.name}/artifact",
        **flat_fields(measured),
    )


def rescore(
    bench: Bench,
    result: TrialResult,
    folder: Path,
    *,
    limit: int,
    timeout_s: float,
    baseline: TrialResult | None = None,
    limits: Limits | None = None,
    quality: str = "auto",
    watch: StageProgress | None = None,
) -> TrialResult | Failure:
    """A result with the scores of its benchmarks replaced by those on a larger set.

    Args:
        folder: of the episode, with its artifact.
        limit: items per benchmark; 0 means all.
        baseline, limits, quality: what it is judged by, as in `measure`.
    """
    clock = Clock(bench, folder, timeout_s, watch)
    model = bench.base.folder if result.strategy is None else folder / "artifact"
    # To the end: a decision waits for this score, so a sure loss is not enough.
    config = bench.evaluate.model_copy(update={"limit": limit, "stop_loss": None})
    named = {score.name for score in result.scores}
    # Scores stand among the measurements, too: the old ones go.
    others = tuple(m for m in result.measurements if m.name not in named)
    bare = result.model_copy(update={"measurements": others})
    try:
        scored = _with_scores(clock, bare, model, config)
        scored = judged(scored, baseline, quality=quality, limits=limits)
    except TrialFailed as error:
        return error.failure
    finally:
        tidy(folder)
    if result.strategy is not None:
        add_measurements(model, [m.model_dump(mode="json") for m in scored.measurements])
    return scored.model_copy(
        update={
            "scores": tuple(s.model_copy(update={"final": True}) for s in scored.scores),
            "evaluate_s": result.evaluate_s + clock.elapsed,
            "wall_s": result.wall_s + clock.elapsed,
            "notes": tuple(dict.fromkeys((*result.notes, *clock.notes))),
        }
    )


def measure_again(
    bench: Bench,
    result: TrialResult,
    folder: Path,
    *,
    timeout_s: float,
    baseline: TrialResult | None = None,
    limits: Limits | None = None,
    quality: str = "auto",
    watch: StageProgress | None = None,
) -> TrialResult:
    """A result whose artifact is kept, measured in another engine: that of `bench`.

    Args:
        folder: of the episode, with its artifact.
        baseline: the base in the same engine; None: `result` is the base, or it failed there.
    """
    clock = Clock(bench, folder, timeout_s, watch)
    model = bench.base.folder if result.strategy is None else folder / "artifact"
    about = _about(result.strategy, result.episode, Built(loads_in=result.loads_in))
    try:
        found = _measured(clock, about, model, Built(loads_in=result.loads_in), baseline)
        found = _with_scores(clock, found, model, bench.evaluate)
        found = judged(found, baseline, quality=quality, limits=limits)
    except TrialFailed as error:
        found = TrialResult(**about, status="failed", failure=error.failure)
    finally:
        tidy(folder)
    times = {"evaluate_s": clock.elapsed, "wall_s": clock.elapsed}
    notes = tuple(dict.fromkeys((*found.notes, *clock.notes)))
    return found.model_copy(update={**times, "notes": notes, "machine": clock.machine})


def measure_folder(
    bench: Bench,
    model: Path,
    folder: Path,
    *,
    label: str,
    timeout_s: float,
    only_benchmarks: bool = False,
    watch: StageProgress | None = None,
) -> TrialResult:
    """Measure any model folder against the bench's base, outside of an experiment.

    Args:
        only_benchmarks: leave out everything that takes time besides them.

    Raises:
        ConfigError: it cannot be measured.
    """
    clock = Clock(bench, folder, timeout_s, watch)
    try:
        if only_benchmarks:
            found = EvaluateDone(measurements=_sizes(bench, model), notes=(), speed=())
        else:
            found = clock.run(_evaluate_job(bench, model))
        result = TrialResult(
            episode=0,
            strategy=None,
            label=label,
            kind="evaluation",
            status="ok",
            measurements=found.measurements,
            speed=found.speed,
            notes=found.notes,
            **flat_fields(found.measurements),
        )
        # Stopping early saves a search its time; who evaluates one folder wants the number.
        to_the_end = bench.evaluate.model_copy(update={"stop_loss": None})
        result = with_quality(
            _with_scores(clock, result, model, to_the_end),
            "auto",
            is_base=model.resolve() == bench.base.folder.resolve(),
        )
    except TrialFailed as error:
        raise ConfigError(f"{label} could not be measured: {error.failure.message}") from None
    times = {"evaluate_s": clock.elapsed, "wall_s": clock.elapsed}
    notes = tuple(dict.fromkeys((*result.notes, *clock.notes)))
    return result.model_copy(update={**times, "notes": notes})


def _evaluate_job(bench: Bench, model: Path) -> EvaluateJob:
    return EvaluateJob(
        device=bench.device,
        runtime=bench.runtime,
        trust_remote_code=bench.trust_remote_code,
        model=model,
        base_bytes=_base_bytes(bench),
        held_out=bench.held_out,
    )


def _base_bytes(bench: Bench) -> int:
    return sum(file.stat().st_size for file in bench.base.folder.glob("*.safetensors"))


def _sizes(bench: Bench, model: Path) -> tuple[Measurement, ...]:
    runs_in = engine(bench.runtime)
    sizes = measure_size(package_of(runs_in, model), _base_bytes(bench), runs_in)
    return (*sizes, *measure_coverage(model))


def _scored_if_worth_it(
    clock: Clock,
    result: TrialResult,
    model: Path,
    earlier: Sequence[TrialResult],
    broken: Sequence[str],
) -> TrialResult:
    """The result with benchmarks, or with the reason why they were not asked.

    Args:
        broken: the limits that it breaks whatever its scores will be, in words.
    """
    config = clock.bench.evaluate
    why_not = None if result.strategy is None else why_not_scored(result, earlier, broken)
    if not config.benchmarks or why_not is None:
        return _with_scores(clock, result, model, config)
    unscored = NotScored(benchmarks=config.benchmarks, reason=why_not)
    return result.model_copy(update={"not_scored": unscored})


def _with_scores(
    clock: Clock, result: TrialResult, model: Path, config: EvaluateConfig
) -> TrialResult:
    """The result with benchmarks added, if any were asked for."""
    if not config.benchmarks:
        return result
    bench = clock.bench
    found = clock.run(
        ScoreJob(
            device=bench.device,
            runtime=bench.runtime,
            trust_remote_code=bench.trust_remote_code,
            model=model,
            base=bench.base.folder,
            data_dir=bench.text.data_dir,
            config=config,
        )
    )
    scored = (*result.measurements, *found.measurements)
    return result.model_copy(update={"measurements": scored, "scores": found.scores})


def _bits(measured: tuple[Measurement, ...], parameters: int) -> list[Measurement]:
    """Bits per weight of what was measured; nothing without a size."""
    return [
        Measurement(
            name=BITS_PER_WEIGHT, value=8.0 * size.value / parameters, unit=Unit.BITS_PER_WEIGHT,
            n=1, stderr=None, lower_is_better=True, source="derived",
            how="bits of the weights files over the parameters of the base",
        )
        for size in measured if size.name == "size"
    ]  # fmt: skip


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
