"""Size on disk, and memory of the process that serves a model."""

from __future__ import annotations

import re
from pathlib import Path

from paredown.runtimes.base import Engine, Package
from paredown.runtimes.session import Session
from paredown.spec.coverage import coverage
from paredown.spec.headers import read_file_header, tensor_location
from paredown.spec.infer import infer_spec
from paredown.spec.packed import ADAPTER, ADAPTER_WEIGHTS
from paredown.spec.result import Measurement
from paredown.spec.units import Unit

_KINDS = {
    "weights": "matrices of the blocks, norms and biases",
    "scales": "scales, zero points and shapes of packed matrices",
    "embeddings": "token and position embeddings, and the output head",
}
_SCALES = re.compile(
    r"(weight_scale|weight_zero_point|weight_shape|input_scale|\.SCB|scales|qzeros|absmax|quant_map"
    r"|quant_state\.[\w.]+|weight_format)$"
)
_EMBEDDINGS = re.compile(
    r"(^|\.)(embed_tokens|embed_positions|embeddings?|wte|wpe|lm_head|embed_out)\."
)


def measure_size(package: Package, base_bytes: int, engine: Engine) -> list[Measurement]:
    """Bytes of the weights files that the engine reads, and the base's over them."""
    size = package.nbytes
    common = {"n": 1, "stderr": None}
    kinds = engine.stored_kinds(package) or bytes_by_kind(package.folder)
    what = "the .safetensors files, an adapter's included"
    if engine.own_files:
        what = f"the files of {engine.name}, its tokenizer included"
    return [
        Measurement(
            name="size", value=size, unit=Unit.BYTES, lower_is_better=True, source="measured",
            how=f"bytes of {what}", **common,
        ),
        Measurement(
            name="compression_ratio", value=base_bytes / size, unit=Unit.RATIO,
            lower_is_better=False, source="derived",
            how="weights files of the base over those of the artifact", **common,
        ),
        *(
            Measurement(
                name=f"size_{kind}", value=kinds[kind], unit=Unit.BYTES, lower_is_better=True,
                source="measured", how=f"bytes of the stored tensors: {_KINDS[kind]}", **common,
            )
            for kind in _KINDS
        ),
    ]  # fmt: skip


def measure_coverage(folder: Path) -> list[Measurement]:
    """Share of the blocks' weights that compression has reached; nothing if there is none."""
    share = coverage(infer_spec(folder))
    if share is None:
        return []
    return [
        Measurement(
            name="coverage", value=share, unit=Unit.FRACTION, n=1, stderr=None,
            lower_is_better=False, source="measured",
            how="weights of the blocks' matrices that are stored as codes or with a mask, over all",
        )
    ]  # fmt: skip


def bytes_by_kind(folder: Path) -> dict[str, int]:
    """Bytes of the tensors in the .safetensors files, by what they are for."""
    found = dict.fromkeys(_KINDS, 0)
    for name, place in tensor_location(folder).items():
        found[_kind(name)] += place.nbytes
    for file in (folder / ADAPTER).glob(ADAPTER_WEIGHTS):
        found["weights"] += sum(place.nbytes for place in read_file_header(file))
    return found


def _kind(name: str) -> str:
    if _SCALES.search(name):
        return "scales"
    return "embeddings" if _EMBEDDINGS.search(name) else "weights"


def measure_cache(session: Session) -> list[Measurement]:
    """Bytes that one token of context takes in the key-value cache; nothing if there is none."""
    size = session.cache_bytes_per_token()
    if not size:
        return []
    return [
        Measurement(
            name="kv_cache", value=size, unit=Unit.BYTES_PER_TOKEN, n=1, stderr=None,
            lower_is_better=True, source="measured",
            how="what a token of context adds to the cache, batch 1",
        )
    ]  # fmt: skip


def peak_rss(pid: int | None = None) -> int:
    """Peak resident memory of a process in bytes, of this one if None.

    0 for another process that is gone, or where the system does not tell.
    """
    status = Path(f"/proc/{'self' if pid is None else pid}/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if pid is not None:
        return 0
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes there, KiB elsewhere
