"""Size on disk, and memory of the process that serves a model."""

from __future__ import annotations

from pathlib import Path

from paredown.spec.packed import weights_bytes
from paredown.spec.result import Measurement
from paredown.spec.units import Unit


def measure_size(folder: Path, base_bytes: int) -> list[Measurement]:
    """Bytes of the weights files, and the base's over them."""
    size = weights_bytes(folder)
    common = {"n": 1, "stderr": None}
    return [
        Measurement(
            name="size", value=size, unit=Unit.BYTES, lower_is_better=True, source="measured",
            how="bytes of the .safetensors files, an adapter's included", **common,
        ),
        Measurement(
            name="compression_ratio", value=base_bytes / size, unit=Unit.RATIO,
            lower_is_better=False, source="derived",
            how="weights files of the base over those of the artifact", **common,
        ),
    ]  # fmt: skip


def measure_memory(device: str) -> list[Measurement]:
    """Peak memory of this process so far, which has only loaded and served the model."""
    if device == "cuda":
        import torch

        peak, how = torch.cuda.max_memory_allocated(), "peak allocated by torch on the GPU"
    else:
        peak = peak_rss()
        how = "peak resident memory of a fresh process that loads the model and serves prompts"
    return [
        Measurement(
            name="peak_memory", value=peak, unit=Unit.BYTES, n=1, stderr=None,
            lower_is_better=True, source="measured", how=how,
        )
    ]  # fmt: skip


def peak_rss() -> int:
    """Peak resident memory of this process in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
