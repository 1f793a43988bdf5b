"""The types of llama.cpp's tensors, and which of them holds a layer's numbers exactly. No torch.

A block is 32 neighbouring inputs of a row with one scale in half precision, and a weight is
`scale * q` with `q` a signed integer. So it is the integers `code - zero` that choose a type, not
the bits of the codes: asymmetric 4 bits reach from -15 to 15, which is Q5_0.

Source: ggml-common.h of llama.cpp, block_q4_0, block_q5_0 and block_q8_0.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from paredown.spec.layers import Format, LayerOption

BLOCK = 32
"""Weights that share a scale."""
SCALE_BYTES = 2
_ROUTER = re.compile(r"(^|\.)(gate|shared_expert_gate)\.weight$")


@dataclass(frozen=True, slots=True)
class BlockType:
    """One type whose blocks are a scale and integers from `low` to `high`."""

    name: str
    number: int
    """As GGUF files name it (ggml_type)."""
    file_type: int
    """`general.file_type` of a file that is mostly of this type (llama_ftype)."""
    low: int
    high: int
    block_bytes: int
    """Of 32 weights, the scale included."""


Q4_0 = BlockType("Q4_0", 2, 2, -8, 7, 18)
Q5_0 = BlockType("Q5_0", 6, 8, -16, 15, 22)
Q8_0 = BlockType("Q8_0", 8, 7, -128, 127, 34)
BLOCK_TYPES = (Q4_0, Q5_0, Q8_0)
"""Smallest first."""
DENSE_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
DENSE_NUMBERS = {"F32": 0, "F16": 1, "BF16": 30}
DENSE_FILE_TYPES = {"F32": 0, "F16": 1, "BF16": 32}


def integer_range(bits: int, *, symmetric: bool) -> tuple[int, int]:
    """Smallest and largest `code - zero` of a grid; zero-points are codes themselves."""
    if symmetric:
        return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    return -(2**bits - 1), 2**bits - 1


def block_type(option: LayerOption) -> BlockType | None:
    """The smallest type that spans every integer of a grid; None where none does."""
    if option.format is not Format.GRID:
        return None
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
    return math.prod(shape) // BLOCK * kind.block_bytes


def scale_bytes(kind: BlockType, shape: tuple[int, ...]) -> int:
    """Of these bytes, those of scales."""
    return math.prod(shape) // BLOCK * SCALE_BYTES
