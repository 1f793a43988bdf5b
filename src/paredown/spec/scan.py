"""What reading every weights file once tells: its hash, and where it holds NaN or infinity."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paredown.errors import ModelError
from paredown.spec.headers import read_file_header, weights_files

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CHUNK_BYTES = 1 << 22
"""Bytes of a weights file held at a time while scanning."""
_EXPONENTS: dict[str, tuple[str, int]] = {
    "F64": ("<u8", 0x7FF << 52),
    "F32": ("<u4", 0x7F80_0000),
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
    "F8_E5M2": ("u1", 0x7C),
    "F8_E4M3": ("u1", 0x7F),
}
"""dtype -> (bits as numpy reads them, mask): NaN and infinity have every bit of the mask set."""


@dataclass(frozen=True)
class WeightScan:
    """What reading every weights file once has told."""

    sha256: str
    """Of names, lengths and contents of the weights files, in the order of their names."""
    nonfinite: dict[str, int]
    """NaN and infinite elements per tensor; only tensors that have some."""


def scan_weights(folder: Path, progress: Callable[[float, str], None] | None = None) -> WeightScan:
    """Read every weights file once: its hash, and where it holds NaN or infinity.

    Memory stays within a few `CHUNK_BYTES`; hashing and counting run side by side.

    Args:
        folder: a model folder.
        progress: told the share done (0 to 1) and the file being read.

    Raises:
        ModelError: as `read_headers`, or a file changes while it is read.
    """
    files = weights_files(folder)
    total = sum(file.stat().st_size for file in files)
    digest = hashlib.sha256()
    nonfinite: dict[str, int] = {}
    done = 0
    with ThreadPoolExecutor(max_workers=1) as hasher:
        for file in files:
            digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
            for name, dtype, chunk in _chunks(file):
                hashed = hasher.submit(digest.update, chunk)
                bad = count_nonfinite(chunk, dtype)
                hashed.result()
                if bad:
                    nonfinite[name] = nonfinite.get(name, 0) + bad
                done += len(chunk)
                if progress is not None:
                    progress(done / total, file.name)
    return WeightScan(sha256=digest.hexdigest(), nonfinite=dict(sorted(nonfinite.items())))


def _chunks(file: Path) -> Iterator[tuple[str, str, memoryview]]:
    """All bytes of a file in order, cut at tensors and at `CHUNK_BYTES`: (tensor, dtype, bytes).

    Header and holes come with an empty name and dtype. A chunk is overwritten by the next one.
    """
    places = read_file_header(file)
    buffer = memoryview(bytearray(CHUNK_BYTES))
    regions: list[tuple[str, str, int]] = []  # name, dtype, end
    at = 0
    for place in places:
        if place.offset > at:
            regions.append(("", "", place.offset))
        at = place.offset + place.nbytes
        regions.append((place.info.name, place.info.dtype, at))
    at = 0
    with file.open("rb") as handle:
        for name, dtype, end in regions or [("", "", file.stat().st_size)]:
            while at < end:
                chunk = buffer[: min(CHUNK_BYTES, end - at)]
                if handle.readinto(chunk) != len(chunk):
                    raise ModelError(f"{file} became shorter while it was read; try again")
                at += len(chunk)
                yield name, dtype, chunk


def count_nonfinite(data: memoryview | bytes, dtype: str) -> int:
    """Elements of `data` that are NaN or infinite, by the bits of their exponent."""
    import numpy as np

    if dtype not in _EXPONENTS:
        return 0
    kind, mask = _EXPONENTS[dtype]
    bits: NDArray[np.unsignedinteger[Any]] = np.frombuffer(data, dtype=kind)
    return int(np.count_nonzero((bits & bits.dtype.type(mask)) == mask))
