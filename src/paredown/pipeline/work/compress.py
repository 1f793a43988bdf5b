"""Compress: run a strategy's steps on a model folder and leave the artifact."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from paredown.artifact.checkpoint import Checkpoint
from paredown.artifact.description import describe
from paredown.errors import VerificationError
from paredown.methods import registry
from paredown.methods.base import AnyMethod, Context, Kind, Params, Training
from paredown.pipeline.messages import EXPECTED, CompressDone, CompressJob
from paredown.pipeline.prefix import PrefixCache
from paredown.pipeline.work.texts import calibration_windows, request, training_windows
from paredown.spec.progress import Progress
from paredown.spec.serial import content_hash
from paredown.store.atomic import new_folder
from paredown.store.cache import Cache
from paredown.store.content import model_hash


@dataclass(frozen=True)
class _Made:
    """A step's result: what it holds, and what it was foretold to hold."""

    expected: Tensor | None
    """Logits (tokens, vocabulary) to reload to; None where the step never held the model."""
    predicted_bytes: int


def compress(job: CompressJob, folder: Path, progress: Progress) -> CompressDone:
    """Run the steps that no earlier trial has run; the last is always run.

    Args:
        folder: of the job; the logits that the artifact must reload to are left in it.

    Raises:
        MethodError: a step failed on this model, or has not stored what it predicts.
    """
    cache = Cache.default()
    prefixes = _prefixes(job, cache)
    done, found = prefixes.longest()
    reused_s = 0.0 if found is None else prefixes.seconds(found)
    source = found or job.model
    start = time.monotonic()
    n_steps = len(job.strategy.steps)
    with new_folder(job.out) as out, _scratch(folder / "steps") as work:
        for i in range(done, n_steps):
            is_last = i == n_steps - 1
            target = out if is_last else work / f"{i}"
            step = _Step(job=job, index=i, first=done, progress=progress, cache=cache)
            made = step.run(source, target, work / f"scratch{i}")
            # A result that others may start from moves into the cache: it is read from there.
            took = reused_s + time.monotonic() - start
            source = target if is_last else prefixes.keep(i + 1, target, seconds=took)
        prefixes.keep_copy(out, seconds=took)
        describe(
            out,
            strategy=job.strategy,
            base={"name": job.model_name, "sha256": job.model_hash},
            how_to_load="paredown.load(folder)",
        )
        stored = Checkpoint(out).spec.weight_bytes
    if made.expected is not None:
        save_file({"logits": made.expected}, folder / EXPECTED)
    return CompressDone(
        predicted_bytes=made.predicted_bytes,
        stored_bytes=stored,
        reused_steps=done,
        reused_s=reused_s,
    )


def _prefixes(job: CompressJob, cache: Cache) -> PrefixCache:
    """Kept results of other strategies that start like the job's, on the same model and text.

    By content as it is now: a path may lead to another text than an hour ago.
    """
    # What these name comes into the key by its content, or decides nothing.
    named = {"strategy", "out", "model", "model_name", "text"}
    origin = job.model_dump(mode="json", exclude=named) | {"model": model_hash(job.model)}
    return PrefixCache(cache, job.strategy, origin, _inputs(job))


def _inputs(job: CompressJob) -> list[dict[str, str]]:
    """Content of what each step reads besides the model; of the run's text only where it does."""
    steps = registry.resolve(job.strategy)
    reading = [m.kind is Kind.TUNING or m.reads_data(params) for m, params in steps]
    text = request(job.text).content() if any(reading) else {}
    return [
        params.content(job.text.data_dir) | ({"run": content_hash(text)} if reads else {})
        for (_, params), reads in zip(steps, reading, strict=True)
    ]


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A folder that goes when all steps succeeded; after a failure the trial's owner tidies."""
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True, kw_only=True)
class _Step:
    """One step of a job's strategy.

    Attributes:
        index: its place in the strategy.
        first: the first step that is run in this job.
    """

    job: CompressJob
    index: int
    first: int
    progress: Progress
    cache: Cache

    def run(self, folder: Path, target: Path, scratch: Path) -> _Made:
        """Compress the model in `folder` into `target`."""
        method, params = registry.resolve(self.job.strategy)[self.index]
        source = Checkpoint(folder, name=self.job.model_name)
        for created in (target, scratch):
            created.mkdir(parents=True, exist_ok=True)
        expected = method.apply(source, target, params, self._context(method, source, scratch))
        predicted = method.predict(source.spec, params).weight_bytes
        require_predicted(method, params, predicted, Checkpoint(target).spec.weight_bytes)
        return _Made(expected, predicted)

    def _context(self, method: AnyMethod, source: Checkpoint, scratch: Path) -> Context:
        def report(share: float, message: str) -> None:
            n_run = len(self.job.strategy.steps) - self.first
            self.progress((self.index - self.first + share) / n_run, f"{method.name}: {message}")

        read = partial(training_windows, self.job, report)
        return Context(
            device=self.job.device,
            seed=self.job.seed,
            source_hash=model_hash(source.folder),
            scratch=scratch,
            cache=self.cache,
            calibration=partial(calibration_windows, self.job, report),
            progress=report,
            trust_remote_code=self.job.trust_remote_code,
            training=Training(base=self.job.model, windows=read),
        )


def require_predicted(method: AnyMethod, params: Params, predicted: int, stored: int) -> None:
    """Let a step fail whose result has other bytes than it has predicted.

    It did something else than it says: a library that left layers as they were, say, whose artifact
    would reload faultlessly and pass as quantized.

    Raises:
        VerificationError: they differ, though the method knows them beforehand.
    """
    if predicted != stored and method.knows_bytes(params):
        raise VerificationError(
            f"{method.name} predicts {predicted} bytes of tensors and has stored {stored}: "
            "it has not done to every layer what it says"
        )
