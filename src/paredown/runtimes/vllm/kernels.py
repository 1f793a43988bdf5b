"""The packed products that vLLM computes, as its sources say."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from paredown.hardware.detect import detect
from paredown.spec.layers import LayerOption

VERSION = "0.32"
Generation = Literal["Ampere", "Ada", "Hopper", "Blackwell", "cpu"]
GPUS: tuple[Generation, ...] = ("Ampere", "Ada", "Hopper", "Blackwell")
"""Generations on which its packed kernels run; an artifact does not know which it will meet."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kernel:
    """Packed products that vLLM computes: which grids, and where."""

    name: str
    bits: tuple[int, ...]
    symmetric: tuple[bool, ...]
    groups: tuple[int, ...]
    """Inputs that share a scale; -1: a row."""
    generations: tuple[Generation, ...]
    source: str
    """Where that is documented, as of `VERSION`."""

    def computes(self, option: LayerOption) -> bool:
        """Whether it computes this grid, wherever it runs."""
        is_known = option.bits in self.bits and option.symmetric in self.symmetric
        return is_known and option.group_size in self.groups


_USUAL = (32, 64, 128, -1)
KERNELS = (
    Kernel(
        name="Marlin", bits=(4, 8), symmetric=(True,), groups=_USUAL, generations=GPUS,
        source="kernels/mixed_precision/marlin.py: uint4b8, uint8b128",
    ),
    Kernel(
        name="Marlin", bits=(4,), symmetric=(False,), groups=_USUAL, generations=GPUS,
        source="kernels/mixed_precision/marlin.py: uint4 with zero-points",
    ),
    Kernel(
        name="Machete", bits=(8,), symmetric=(False,), groups=(128, -1), generations=("Hopper",),
        source="quantization/utils/machete_utils.py: uint8 with zero-points",
    ),
    Kernel(
        name="Humming", bits=(3, 5, 6), symmetric=(True,), groups=(16, *_USUAL), generations=(),
        source="kernels of few builds, where other bits and groups of 16 are said to run",
    ),
    Kernel(
        name="the CPU kernel", bits=(4,), symmetric=(True, False), groups=_USUAL,
        generations=("cpu",),
        source="served here: 4 bits; inputs become 8-bit numbers unless VLLM_CPU_INT4_W4A8=0",
    ),
)  # fmt: skip
"""All that are known, fast on the generations they name; on others the reader refuses the folder
or takes a slower way. What is not fast on every GPU is not offered to a search."""


@lru_cache
def processor_packs() -> bool:
    """Whether its kernel for packed weights is built for this processor: with AVX-512 alone.

    On one with AVX2 the library lacks it, and a model fails at its first token.
    """
    return "avx512f" in detect().flags
