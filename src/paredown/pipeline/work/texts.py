"""The held-out text and the base model's outputs on it, which several jobs read."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from paredown.blocks.hessians import tensor_hash
from paredown.blocks.skeleton import read_config
from paredown.evaluate.quality import BaseOutputs
from paredown.pipeline.messages import (
    CompressJob,
    DeployJob,
    EvaluateJob,
    HeldOut,
    JudgeJob,
    PlansJob,
    TextSpec,
    VerifyJob,
)
from paredown.runtimes.torch.writer import write_texts
from paredown.spec.progress import Progress, unheard
from paredown.store.cache import Cache
from paredown.text.windows import TextRequest, windows


def request(text: TextSpec) -> TextRequest:
    """The text of a job, as those who read texts want it."""
    return TextRequest(text.evaluation, text.calibration, text.data_dir)


def protocol(held_out: HeldOut) -> str:
    """How a measurement on this text names it."""
    return f"text {held_out.text.evaluation}"


def evaluation_tokens(
    held_out: HeldOut, job: VerifyJob | EvaluateJob | JudgeJob | DeployJob, progress: Progress
) -> Tensor:
    """(count, length) windows of the held-out text, no longer than the base's context."""
    config = read_config(held_out.base, trust_remote_code=job.trust_remote_code).get_text_config()
    context = getattr(config, "max_position_embeddings", None) or held_out.config.window
    length = min(held_out.config.window, context)
    text = request(held_out.text)
    amount = held_out.config.amount.windows(length)
    read = partial(
        windows,
        text,
        "evaluation",
        held_out.base,
        count=amount.wanted,
        least=amount.least,
        length=length,
        seed=0,  # not the run's: artifacts of all runs are compared on the same text
        cache=Cache.default(),
        write=write_texts,
        trust_remote_code=job.trust_remote_code,
        progress=lambda _, message: progress(0.0, message),
    )
    if text.sources()[0].generated:
        in_child(read)  # into the cache: the writing model is no memory of the one that is measured
    return read()


def base_outputs(
    held_out: HeldOut,
    tokens: Tensor,
    job: VerifyJob | EvaluateJob | JudgeJob,
    progress: Progress = unheard,
) -> BaseOutputs:
    """What the base says to these tokens, computed when it is first asked for."""
    return BaseOutputs(
        held_out.base,
        tokens=tokens,
        tokens_hash=tensor_hash(tokens),
        cache=Cache.default(),
        device=job.device,
        runtime=job.runtime,
        trust_remote_code=job.trust_remote_code,
        stream=held_out.config.stream,
        progress=progress,
    )


def calibration_windows(job: CompressJob | PlansJob, progress: Progress) -> Tensor:
    """(count, length) windows of what the run calibrates on, as many as it has up to those wanted.

    What a method trains on is read through `training_windows`: there less than it asks for is
    refused, because its schedule counts on every token.
    """
    return training_windows(job, progress, job.samples, job.length, None, least=job.least_samples)


def training_windows(
    job: CompressJob | PlansJob,
    progress: Progress,
    count: int,
    length: int,
    source: str | None,
    *,
    least: int | None = None,
) -> Tensor:
    """(count, length) windows of training text: of `source`, or of what the run calibrates on."""
    text = job.text if source is None else job.text.model_copy(update={"calibration": source})
    return windows(
        request(text),
        "calibration",
        job.model,
        count=count,
        least=least,
        length=length,
        seed=job.seed,
        cache=Cache.default(),
        write=write_texts,
        trust_remote_code=job.trust_remote_code,
        progress=lambda _, message: progress(0.0, message),
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
