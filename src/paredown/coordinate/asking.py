"""Ask a model folder what a user would ask it, in a process of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from paredown.coordinate.setup import choose_device
from paredown.errors import ConfigError, MethodError
from paredown.hardware.detect import detect
from paredown.pipeline.executors.local import LocalExecutor
from paredown.pipeline.messages import AnswerDone, AnswerJob, Failed
from paredown.runtimes.registry import engine
from paredown.spec.progress import StageProgress
from paredown.spec.run import DeviceName

_TIMEOUT_S = 6 * 3600.0
"""Nobody waits longer for a handful of answers."""


def ask(
    model: Path,
    messages: Sequence[str],
    *,
    max_tokens: int,
    runtime: str = "torch",
    device: DeviceName = "auto",
    trust_remote_code: bool = False,
    watch: StageProgress | None = None,
) -> AnswerDone:
    """Greedy answers to messages, each of at most `max_tokens` tokens, with the seconds of each.

    Args:
        model: folder of a model or an artifact.
        messages: put into the model's chat template, where it has one.

    Raises:
        ConfigError: the engine does not hold the model, or is not here.
        MethodError: the worker came to nothing.
    """
    engine(runtime)  # what is missing is told before anything is loaded
    job = AnswerJob(
        device=choose_device(device, detect()), runtime=runtime,
        trust_remote_code=trust_remote_code, model=model, messages=tuple(messages),
        max_tokens=max_tokens,
    )  # fmt: skip

    def tell(share: float, message: str) -> None:
        if watch is not None:
            watch(job.kind, share, message)

    with LocalExecutor() as executor, tempfile.TemporaryDirectory(prefix="paredown-") as scratch:
        future = executor.submit(job, Path(scratch), timeout_s=_TIMEOUT_S, watch=tell)
        reply = future.result().reply
    if isinstance(reply, Failed):
        kind = ConfigError if reply.config_error else MethodError
        raise kind(f"{model}: {reply.failure.message}")
    return reply
