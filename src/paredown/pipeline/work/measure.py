"""Evaluate and score: what is measured of a model folder, in the process that serves it."""

from __future__ import annotations

from pathlib import Path

from paredown.evaluate.artifact import evaluate_folder
from paredown.evaluate.comparison import measurement
from paredown.evaluate.footprint import measure_coverage, measure_size
from paredown.evaluate.quality import measure_quality
from paredown.evaluate.scores import ScoreRequest, measure_scores
from paredown.pipeline.messages import (
    ITEMS,
    EvaluateDone,
    EvaluateJob,
    JudgeJob,
    ScoreDone,
    ScoreJob,
)
from paredown.pipeline.work.texts import base_outputs, evaluation_tokens, protocol
from paredown.runtimes.packages import open_model, package_of
from paredown.runtimes.registry import engine
from paredown.spec.progress import Progress
from paredown.store.cache import Cache


def evaluate(job: EvaluateJob, progress: Progress) -> EvaluateDone:
    """Quality on held-out text, latency, memory, energy and size."""
    tokens = evaluation_tokens(job.held_out, job, progress)
    found = evaluate_folder(
        job.model,
        tokens=tokens,
        protocol=protocol(job.held_out),
        base=lambda told: base_outputs(job.held_out, tokens, job, told),
        base_folder=job.held_out.base,
        base_bytes=job.base_bytes,
        config=job.held_out.config,
        device=job.device,
        trust_remote_code=job.trust_remote_code,
        progress=progress,
        runtime=job.runtime,
    )
    return EvaluateDone(
        measurements=tuple(found.measurements), notes=tuple(found.notes), speed=tuple(found.speed)
    )


def judge(job: JudgeJob, progress: Progress) -> EvaluateDone:
    """Quality on held-out text, and size: what many models are compared by."""
    tokens = evaluation_tokens(job.held_out, job, progress)
    runs_in = engine(job.runtime)
    progress(0.1, "loading")
    session = open_model(
        runs_in,
        job.model,
        device=job.device,
        trust_remote_code=job.trust_remote_code,
        stream=job.held_out.config.stream,
    )
    session.for_many_tokens()
    base = base_outputs(job.held_out, tokens, job)
    progress(0.3, "quality")
    quality = measure_quality(session, tokens, base, protocol=protocol(job.held_out))
    notes = session.notes
    session.close()
    sizes = measure_size(package_of(runs_in, job.model), job.base_bytes, runs_in)
    sizes += measure_coverage(job.model)
    return EvaluateDone(measurements=(*quality, *sizes), notes=tuple(notes), speed=())


def score(job: ScoreJob, folder: Path, progress: Progress) -> ScoreDone:
    """Benchmarks; the single answers are left in the job's folder."""
    request = ScoreRequest(
        config=job.config,
        data_dir=job.data_dir,
        device=job.device,
        trust_remote_code=job.trust_remote_code,
        cache=Cache.default(),
        runtime=job.runtime,
    )
    scores = measure_scores(job.model, job.base, request, items=folder / ITEMS, progress=progress)
    return ScoreDone(
        measurements=tuple(measurement(found) for found in scores), scores=tuple(scores)
    )
