"""The types of llama.cpp's tensors, and which of them holds a layer's numbers exactly. No torch.

A block is 32 neighbouring inputs of a row with one scale in half precision, and a weight is
`scale * q` with `q` a signed integer. So it is the integers `code - zero` that choose a type, not
the bits of the codes: asymmetric 4 bits reach from -15 to 15, which is Q5_0. Q4_1 and Q5_1 have a
minimum as well, in half precision: they hold asymmetric grids whose scales are short enough for
all multiples of them to be half-precision numbers. The K-types hold two-level grids of their own.

Source: ggml-common.h of llama.cpp, block_q4_0 to block_q8_0 and block_q2_K to block_q6_K.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from paredown.spec.layers import Format, LayerOption
from paredown.spec.superblocks import SUPER_LAYOUTS, SUPERBLOCK

BLOCK = 32
"""Weights that share a scale, in all types but the K-types."""
_ROUTER = re.compile(r"(^|\.)(gate|shared_expert_gate)\.weight$")


@dataclass(frozen=True, slots=True)
class BlockType:
    """One type of blocks; those of a scale alone hold integers from `low` to `high`."""

    name: str
    number: int
    """As GGUF files name it (ggml_type)."""
    file_type: int
    """`general.file_type` of a file that is mostly of this type (llama_ftype)."""
    low: int
    high: int
    block_bytes: int
    """Of a block, scales included."""
    scale_bytes: int = 2
    """Of these, those of scales and minima."""
    block: int = BLOCK
    """Weights of a block."""


Q4_0 = BlockType("Q4_0", 2, 2, -8, 7, 18)
Q5_0 = BlockType("Q5_0", 6, 8, -16, 15, 22)
Q8_0 = BlockType("Q8_0", 8, 7, -128, 127, 34)
BLOCK_TYPES = (Q4_0, Q5_0, Q8_0)
"""Of a scale alone, smallest first."""
MINIMUM_TYPES = {
    4: BlockType("Q4_1", 3, 3, 0, 15, 20, scale_bytes=4),
    5: BlockType("Q5_1", 7, 9, 0, 31, 24, scale_bytes=4),
}
"""Of a scale and a minimum, by the bits of a code."""
_K_NUMBERS = {2: (10, 10), 3: (11, 11), 4: (12, 14), 5: (13, 16), 6: (14, 18)}
K_TYPES = {
    bits: BlockType(
        f"Q{bits}_K",
        *_K_NUMBERS[bits],
        0,
        2**bits - 1,
        layout.nbytes,
        scale_bytes=layout.scale_bytes,
        block=SUPERBLOCK,
    )
    for bits, layout in SUPER_LAYOUTS.items()
}
"""Of two-level scales, by the bits of a code."""
ALL_TYPES = (*BLOCK_TYPES, *MINIMUM_TYPES.values(), *K_TYPES.values())
DENSE_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
DENSE_NUMBERS = {"F32": 0, "F16": 1, "BF16": 30}
DENSE_FILE_TYPES = {"F32": 0, "F16": 1, "BF16": 32}


def integer_range(bits: int, *, symmetric: bool) -> tuple[int, int]:
    """Smallest and largest `code - zero` of a grid; zero-points are codes themselves."""
    if symmetric:
        return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    return -(2**bits - 1), 2**bits - 1


def block_type(option: LayerOption) -> BlockType | None:
    """The smallest type that holds every code of a grid; None where none does."""
    if option.format is Format.SUPERBLOCK:
        return K_TYPES[option.bits]
    if option.format is not Format.GRID:
        return None
    if option.scale_bits is not None and not option.symmetric and option.bits in MINIMUM_TYPES:
        return MINIMUM_TYPES[option.bits]
    low, high = integer_range(option.bits, symmetric=option.symmetric)
    return next((t for t in BLOCK_TYPES if t.low <= low and high <= t.high), None)


def dense_type(tensor: str, dtype: str, shape: tuple[int, ...]) -> str:
    """The floating-point type that a tensor is written in, and that holds its numbers.

    Norms, biases and what chooses experts are float32, in which llama.cpp computes with them.
    """
    is_small = len(shape) == 1 or _ROUTER.search(tensor) is not None
    return "F32" if is_small or dtype not in DENSE_BYTES else dtype


def tensor_bytes(kind: BlockType | str, shape: tuple[int, ...]) -> int:
    """Bytes of a tensor's data, without the padding between tensors.

    Args:
        kind: a type of blocks, or the name of a dense one.
        shape: the last dimension is that of the blocks.
    """
    if isinstance(kind, str):
        return math.prod(shape) * DENSE_BYTES[kind]
    return math.prod(shape) // kind.block * kind.block_bytes


def scale_bytes(kind: BlockType, shape: tuple[int, ...]) -> int:
    """Of these bytes, those of scales."""
    return math.prod(shape) // kind.block * kind.scale_bytes
