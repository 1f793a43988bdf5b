"""Which executor a request asks for."""

from __future__ import annotations

from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path
from typing import assert_never

from paredown.errors import MissingExtraError
from paredown.pipeline.executors.base import Executor
from paredown.pipeline.executors.local import LocalExecutor, memory_limit
from paredown.spec.run import RunConfig


def executor_of(
    config: RunConfig, folder: Path, *, before: str | None = None
) -> AbstractContextManager[Executor]:
    """The executor for an experiment in `folder`, to be entered.

    Args:
        before: id of the machine on which the base was measured, if it was.

    Raises:
        MissingExtraError: what it needs is not installed.
    """
    memory = memory_limit(config.worker_memory_gb)
    match config.executor:
        case "local":
            return LocalExecutor(memory_bytes=memory, workers=config.workers)
        case "ray":
            if find_spec("ray") is None:
                raise MissingExtraError("--executor ray", "ray", "ray")
            from paredown.pipeline.executors.ray.executor import RayExecutor

            return RayExecutor(
                folder=folder, address=config.address, workers=config.workers,
                memory_bytes=memory, device=config.device, before=before,
            )  # fmt: skip
        case _:
            assert_never(config.executor)
