"""What the stages of a trial ask of a machine of a cluster. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

from paredown.spec.model import ModelSpec
from paredown.spec.sizes import memory_to_quantize
from paredown.spec.target import Device, Stream
from paredown.spec.units import GB, human_bytes

STAGES = ("compress", "verify", "evaluate", "score")
_PROCESS_BYTES = 0.6 * GB
"""Of a worker with torch and an engine, before any model is in it."""
_LOADED = 1.25
"""Memory over the bytes of the weights: activations, and what is held twice while it is read."""


@dataclass(frozen=True, kw_only=True)
class Demand:
    """Of one stage; its memory is that of the machine, not of a GPU."""

    stage: str
    memory_bytes: int
    cpus: int = 1
    gpus: int = 0

    def __str__(self) -> str:
        gpu = f", {self.gpus} GPU" if self.gpus else ""
        return f"{self.cpus} CPU{gpu} and {human_bytes(self.memory_bytes)} of memory"


def demands(
    spec: ModelSpec,
    *,
    device: Device,
    calibration_tokens: int,
    memory_bytes: float | None = None,
    stream: Stream = "never",
    largest_bytes: float = float("inf"),
    cpus: int = 1,
) -> dict[str, Demand]:
    """Of every stage.

    Args:
        spec: of the uncompressed model.
        calibration_tokens: of the whole calibration text.
        memory_bytes: that the user gives each worker; None: as estimated here.
        stream: where it is allowed, a model that does not fit is judged block by block.
        largest_bytes: memory of the largest machine there is.
        cpus: of each stage.
    """
    block = memory_to_quantize(spec, calibration_tokens)
    loaded = _PROCESS_BYTES + _LOADED * spec.weight_bytes
    walked = loaded if block is None else _PROCESS_BYTES + block
    # Candidate and base are timed in turns, and an artifact is compared with what was meant.
    measured = loaded + spec.weight_bytes
    if stream == "always" or (stream == "auto" and measured > largest_bytes):
        measured = walked
    found = {"compress": walked, "verify": measured, "evaluate": measured, "score": measured}
    return {
        stage: Demand(
            stage=stage,
            memory_bytes=int(needed if memory_bytes is None else memory_bytes),
            cpus=cpus,
            gpus=int(device == "cuda"),
        )
        for stage, needed in found.items()
    }
