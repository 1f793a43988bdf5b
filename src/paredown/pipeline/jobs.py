"""What a worker process is asked to do, and how it does it.

A job is a folder: `job.json` goes in; `progress.json`, `worker.log` and `result.json` come out.
Files, not pipes, so that nothing is lost with the process.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from paredown.errors import ScreenedError
from paredown.spec.progress import Progress
from paredown.spec.result import Measurement
from paredown.spec.run import EvaluateConfig
from paredown.spec.scores import TaskScore
from paredown.spec.speed import SpeedPoint
from paredown.spec.strategy import Strategy
from paredown.spec.target import Device
from paredown.store.cache import Cache

if TYPE_CHECKING:
    from torch import Tensor

    from paredown.evaluate.quality import BaseOutputs
    from paredown.text.windows import TextRequest

EXPECTED = "expected.safetensors"
ITEMS = "items"
"""Folder of single answers to benchmarks, beside the results."""


class _Job(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    device: Device
    trust_remote_code: bool = False


class TextSpec(BaseModel):
    """What text is used, for both parts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    evaluation: str
    calibration: str | None
    data_dir: Path | None

    def request(self) -> TextRequest:
        from paredown.text.windows import TextRequest

        return TextRequest(self.evaluation, self.calibration, self.data_dir)


class CompressJob(_Job):
    """Run a strategy's steps on `model` and leave the artifact in `out`."""

    kind: Literal["compress"] = "compress"
    model: Path
    model_name: str
    model_hash: str
    strategy: Strategy
    out: Path
    text: TextSpec
    samples: int
    length: int
    seed: int


class HeldOut(BaseModel):
    """The base model, and the text on which artifacts are compared with it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: Path
    base_hash: str
    text: TextSpec
    config: EvaluateConfig


class VerifyJob(_Job):
    """Reload `artifact` through every loader it claims and compare logits."""

    kind: Literal["verify"] = "verify"
    artifact: Path
    expected: Path | None
    plain: bool
    """Whether plain transformers must load it too."""
    held_out: HeldOut | None = None
    """What it is screened on; None: it is measured whatever it is worth."""
    worst: float = 0.0
    """Multiple of the base's perplexity beyond which it is screened out."""


class EvaluateJob(_Job):
    """Measure `model` against `base`: everything but benchmarks."""

    kind: Literal["evaluate"] = "evaluate"
    model: Path
    base_bytes: int
    held_out: HeldOut


class ScoreJob(_Job):
    """Score `model` on benchmarks, and compare it with `base` item by item."""

    kind: Literal["score"] = "score"
    model: Path
    base: Path
    data_dir: Path | None
    config: EvaluateConfig


Job = CompressJob | VerifyJob | EvaluateJob | ScoreJob
JOB: TypeAdapter[Job] = TypeAdapter(Annotated[Job, Field(discriminator="kind")])


class ProgressFile:
    """Writes the share done and a message where the parent looks for them."""

    def __init__(self, folder: Path) -> None:
        self.path, self._last = folder / "progress.json", 0.0

    def __call__(self, share: float, message: str) -> None:
        now = time.monotonic()
        if now - self._last < 0.2 and share < 1:
            return
        self._last = now
        partial = self.path.with_suffix(".tmp")
        partial.write_text(json.dumps({"share": share, "message": message}))
        partial.replace(self.path)


def run(job: Job, folder: Path) -> dict[str, Any]:
    """Do the job; the result goes into `result.json`.

    Raises:
        ParedownError: as the methods and evaluators raise them.
    """
    progress = ProgressFile(folder)
    match job:
        case CompressJob():
            return _compress(job, folder, progress)
        case VerifyJob():
            return _verify(job, progress)
        case EvaluateJob():
            return _evaluate(job, progress)
        case ScoreJob():
            return _score(job, folder, progress)


def _compress(job: CompressJob, folder: Path, progress: Progress) -> dict[str, Any]:
    import shutil

    from safetensors.torch import save_file

    from paredown.artifact.checkpoint import Checkpoint
    from paredown.artifact.description import describe
    from paredown.methods import registry
    from paredown.methods.base import Context, Training
    from paredown.pipeline.prefix import PrefixCache
    from paredown.spec.serial import content_hash
    from paredown.store.atomic import new_folder

    steps = registry.resolve(job.strategy)
    work = folder / "steps"
    origin = job.model_dump(mode="json", exclude={"strategy", "out", "model", "model_name"})
    prefixes = PrefixCache(Cache.default(), job.strategy, origin)
    done, found = prefixes.longest()
    source_folder = found or job.model
    expected: Tensor | None = None
    with new_folder(job.out) as out:
        for i in range(done, len(steps)):
            method, params = steps[i]
            source = Checkpoint(source_folder, name=job.model_name)
            last = i == len(steps) - 1
            target = out if last else work / f"{i}"
            scratch = work / f"scratch{i}"
            for created in (target, scratch):
                created.mkdir(parents=True, exist_ok=True)

            def report(share: float, message: str, i: int = i, name: str = method.name) -> None:
                progress((i - done + share) / (len(steps) - done), f"{name}: {message}")

            earlier = [step.model_dump(mode="json") for step in job.strategy.steps[:i]]
            expected = method.apply(
                source,
                target,
                params,
                Context(
                    device=job.device,
                    seed=job.seed,
                    source_hash=content_hash([origin, earlier], length=32)
                    if earlier
                    else job.model_hash,
                    scratch=scratch,
                    cache=Cache.default(),
                    calibration=partial(_calibration, job, report),
                    progress=report,
                    trust_remote_code=job.trust_remote_code,
                    training=Training(base=job.model, windows=partial(_windows, job, report)),
                ),
            )
            predicted = method.predict(source.spec, params).weight_bytes
            source_folder = target if last else prefixes.keep(i + 1, target)
        prefixes.keep_copy(out)
        describe(
            out,
            strategy=job.strategy,
            base={"name": job.model_name, "sha256": job.model_hash},
            how_to_load="paredown.load(folder)",
        )
        stored = Checkpoint(out).spec.weight_bytes
    shutil.rmtree(work, ignore_errors=True)
    if expected is not None:
        save_file({"logits": expected}, folder / EXPECTED)
    return {"predicted_bytes": predicted, "stored_bytes": stored, "reused_steps": done}


def _windows(
    job: CompressJob, progress: Progress, count: int, length: int, source: str | None
) -> Tensor:
    """Windows of training text: of `source`, or of the text on which the run calibrates."""
    from paredown.runtimes.torch.writer import write_texts
    from paredown.text.windows import windows

    text = job.text if source is None else job.text.model_copy(update={"calibration": source})
    return windows(
        text.request(),
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


def _calibration(job: CompressJob, progress: Progress) -> Tensor:
    return _windows(job, progress, job.samples, job.length, None)


def _verify(job: VerifyJob, progress: Progress) -> dict[str, Any]:
    """Reload as it will be served, then exactly, through every loader; compare with what was meant.

    In between is a first look at what it is worth, as it is loaded already; but what is not the
    model that was meant fails for that.

    The exact comparison computes in float32, where nothing but the weights can differ. Where there
    is no room for that, or bitsandbytes fixes the dtype, 16 bits and a wider tolerance have to do.
    """
    import torch
    from safetensors.torch import load_file

    from paredown.artifact.checkpoint import Checkpoint
    from paredown.blocks.probe import probe_tokens
    from paredown.runtimes.torch.load import load, load_dense
    from paredown.runtimes.torch.proof import EXACT, ROUNDED, check_kernels, compare, probe

    spec = Checkpoint(job.artifact).spec
    tokens = probe_tokens(spec.vocabulary or 2)
    options: dict[str, Any] = {"device": job.device, "trust_remote_code": job.trust_remote_code}
    # Before anything is computed: a text that a model has to write is written in a forked process.
    screen = None if job.held_out is None else _Screen(job, job.held_out, progress)
    served = load(job.artifact, **options)
    result: dict[str, Any] = {
        "notes": served.paredown.notes,
        "kernel_error": check_kernels(served),
    }
    found = probe(served, tokens)
    screened = None if screen is None else screen.look(served)
    del served
    progress(0.4, "reloaded through paredown")
    exact = spec.quantization != "bitsandbytes" and _fits_float32(spec.parameters, job.device)
    if exact:
        options["dtype"] = torch.float32
        found = probe(load(job.artifact, **options), tokens)
    tolerance = EXACT if exact else ROUNDED
    expected = found if job.expected is None else load_file(job.expected)["logits"]
    result["kl_paredown"] = compare(expected, found, "paredown", tolerance=tolerance)
    if job.plain:
        progress(0.7, "reloading through plain transformers")
        plain = probe(load_dense(job.artifact, **options), tokens)
        result["kl_transformers"] = compare(
            expected, plain, "plain transformers", tolerance=tolerance
        )
    if screened is not None:
        raise ScreenedError(screened)
    return result


def _fits_float32(parameters: int, device: str) -> bool:
    """Whether the whole model in float32 leaves room to breathe."""
    if device == "cuda":
        import torch

        return bool(torch.cuda.mem_get_info()[0] > 6 * parameters)
    import psutil

    return bool(psutil.virtual_memory().available > 6 * parameters)


class _Screen:
    """A first look at a model on few tokens, made ready before the model is loaded."""

    def __init__(self, job: VerifyJob, held_out: HeldOut, progress: Progress) -> None:
        self.job, self.protocol = job, _protocol(held_out)
        self.tokens = _evaluation_tokens(held_out, job, progress)
        self.base = _base_outputs(held_out, self.tokens, job)

    def look(self, model: Any) -> str | None:
        """Why it is not worth measuring, if so; the model may come out in another dtype."""
        from paredown.evaluate.quality import for_quality
        from paredown.evaluate.screen import why_screened

        return why_screened(
            for_quality(model, self.job.device),
            self.tokens,
            self.base,
            worst=self.job.worst,
            protocol=self.protocol,
            device=self.job.device,
        )


def _evaluate(job: EvaluateJob, progress: Progress) -> dict[str, Any]:
    from paredown.evaluate.artifact import evaluate_folder

    tokens = _evaluation_tokens(job.held_out, job, progress)
    found = evaluate_folder(
        job.model,
        tokens=tokens,
        protocol=_protocol(job.held_out),
        base=lambda: _base_outputs(job.held_out, tokens, job),
        base_folder=job.held_out.base,
        base_bytes=job.base_bytes,
        config=job.held_out.config,
        device=job.device,
        trust_remote_code=job.trust_remote_code,
        progress=progress,
    )
    return {
        "measurements": [m.model_dump(mode="json") for m in found.measurements],
        "notes": found.notes,
        "speed": [p.model_dump(mode="json") for p in found.speed],
    }


def _protocol(held_out: HeldOut) -> str:
    return f"text {held_out.text.evaluation}"


def _evaluation_tokens(held_out: HeldOut, job: _Job, progress: Progress) -> Tensor:
    """(count, length) windows of the held-out text, no longer than the base's context."""
    from paredown.blocks.skeleton import read_config
    from paredown.runtimes.torch.writer import write_texts
    from paredown.text.windows import windows

    config = read_config(held_out.base, trust_remote_code=job.trust_remote_code).get_text_config()
    context = getattr(config, "max_position_embeddings", None) or held_out.config.window
    length = min(held_out.config.window, context)
    read = partial(
        windows,
        held_out.text.request(),
        "evaluation",
        held_out.base,
        count=-(-held_out.config.tokens // length),
        length=length,
        seed=0,
        cache=Cache.default(),
        model_hash=held_out.base_hash,
        write=write_texts,
        trust_remote_code=job.trust_remote_code,
        progress=lambda _, message: progress(0.0, message),
    )
    if held_out.text.request().sources()[0].generated:
        in_child(read)  # into the cache: the writing model is no memory of the one that is measured
    return read()


def _base_outputs(held_out: HeldOut, tokens: Tensor, job: _Job) -> BaseOutputs:
    from paredown.blocks.hessians import tensor_hash
    from paredown.evaluate.quality import BaseOutputs

    return BaseOutputs(
        held_out.base,
        base_hash=held_out.base_hash,
        tokens=tokens,
        tokens_hash=tensor_hash(tokens),
        cache=Cache.default(),
        device=job.device,
        trust_remote_code=job.trust_remote_code,
    )


def in_child(work: Callable[[], Any]) -> None:
    """Do `work` in a forked process, for what it leaves on disk.

    Its failure is silent here: whoever needs the result finds it missing, and does the work again.
    """
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:  # whatever happened: nothing of the parent's may run twice
            os._exit(0)
    os.waitpid(child, 0)


def _score(job: ScoreJob, folder: Path, progress: Progress) -> dict[str, Any]:
    from paredown.evaluate.comparison import measurement
    from paredown.evaluate.scores import ScoreRequest, measure_scores

    scores = measure_scores(
        job.model,
        job.base,
        ScoreRequest(
            config=job.config,
            data_dir=job.data_dir,
            device=job.device,
            trust_remote_code=job.trust_remote_code,
            cache=Cache.default(),
        ),
        items=folder / ITEMS,
        progress=progress,
    )
    return {
        "measurements": [measurement(s).model_dump(mode="json") for s in scores],
        "scores": [s.model_dump(mode="json") for s in scores],
    }


def scores_of(result: dict[str, Any]) -> tuple[TaskScore, ...]:
    """The scores in an evaluation's result."""
    return tuple(TaskScore.model_validate(s) for s in result["scores"])


def speed_of(result: dict[str, Any]) -> tuple[SpeedPoint, ...]:
    """The grid of an evaluation's result."""
    return tuple(SpeedPoint.model_validate(p) for p in result["speed"])


def measurements_of(result: dict[str, Any]) -> tuple[Measurement, ...]:
    """The measurements in an evaluation's result."""
    return tuple(Measurement.model_validate(m) for m in result["measurements"])
