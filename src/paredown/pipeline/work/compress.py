"""Compress: run a strategy's steps on a model folder and leave the artifact."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from paredown.artifact.checkpoint import Checkpoint
from paredown.artifact.description import describe
from paredown.errors import VerificationError
from paredown.methods import registry
from paredown.methods.base import AnyMethod, Context, Params, Training
from paredown.pipeline.messages import EXPECTED, CompressDone, CompressJob
from paredown.pipeline.prefix import PrefixCache
from paredown.pipeline.work.texts import request
from paredown.runtimes.torch.writer import write_texts
from paredown.spec.progress import Progress
from paredown.spec.serial import content_hash
from paredown.store.atomic import new_folder
from paredown.store.cache import Cache
from paredown.text.windows import windows


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
    prefixes = PrefixCache(cache, job.strategy, _origin(job))
    done, found = prefixes.longest()
    source = found or job.model
    n_steps = len(job.strategy.steps)
    with new_folder(job.out) as out, _scratch(folder / "steps") as work:
        for i in range(done, n_steps):
            is_last = i == n_steps - 1
            target = out if is_last else work / f"{i}"
            step = _Step(job=job, index=i, first=done, progress=progress, cache=cache)
            made = step.run(source, target, work / f"scratch{i}")
            # A result that others may start from moves into the cache: it is read from there.
            source = target if is_last else prefixes.keep(i + 1, target)
        prefixes.keep_copy(out)
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
        predicted_bytes=made.predicted_bytes, stored_bytes=stored, reused_steps=done
    )


def _origin(job: CompressJob) -> dict[str, Any]:
    """Everything but the strategy that the result depends on; the model is in it by its hash."""
    return job.model_dump(mode="json", exclude={"strategy", "out", "model", "model_name"})


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
        expected = method.apply(source, target, params, self._context(method, scratch))
        predicted = method.predict(source.spec, params).weight_bytes
        require_predicted(method, params, predicted, Checkpoint(target).spec.weight_bytes)
        return _Made(expected, predicted)

    def _context(self, method: AnyMethod, scratch: Path) -> Context:
        def report(share: float, message: str) -> None:
            n_run = len(self.job.strategy.steps) - self.first
            self.progress((self.index - self.first + share) / n_run, f"{method.name}: {message}")

        read = partial(_windows, self.job, report)
        return Context(
            device=self.job.device,
            seed=self.job.seed,
            source_hash=self._source_hash(),
            scratch=scratch,
            cache=self.cache,
            calibration=partial(read, self.job.samples, self.job.length, None),
            progress=report,
            trust_remote_code=self.job.trust_remote_code,
            training=Training(base=self.job.model, windows=read),
        )

    def _source_hash(self) -> str:
        """Content of the model that the step starts from, without reading it: what made it."""
        earlier = [step.model_dump(mode="json") for step in self.job.strategy.steps[: self.index]]
        if not earlier:
            return self.job.model_hash
        return content_hash([_origin(self.job), earlier], length=32)


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


def _windows(
    job: CompressJob, progress: Progress, count: int, length: int, source: str | None
) -> Tensor:
    """(count, length) windows of training text: of `source`, or of what the run calibrates on."""
    text = job.text if source is None else job.text.model_copy(update={"calibration": source})
    return windows(
        request(text),
        "calibration",
        job.model,
        count=count,
        length=length,
        seed=job.seed,
        cache=Cache.default(),
        model_hash=job.model_hash,
        write=write_texts,
        trust_remote_code=job.trust_remote_code,
        progress=lambda _, message: progress(0.0, message),
    )
