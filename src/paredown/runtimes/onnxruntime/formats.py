"""What ONNX Runtime's `MatMulNBits` holds exactly, and the bytes that this takes. No torch.

A row is cut into blocks of 16, 32, 64, 128 or 256 inputs; each has a float32 scale and, unless it
is the middle of the range, a zero-point. Codes are unsigned and take 2, 4 or 8 bits. A grid of
other bits lies in the next wider codes, one of wider groups repeats its scale: neither changes a
number.

Source: onnxruntime/core/graph/contrib_ops/contrib_defs.cc, `MatMulNBits`; blocks of 512 were tried
and gave zeros.
"""

from __future__ import annotations

import math

from paredown.spec.layers import Format, LayerOption

BLOCKS = (256, 128, 64, 32, 16)
"""Largest first: the fewer scales, the better."""
SCALE_BYTES = 4
DENSE_BYTES = 4
"""On processors everything else is computed, and so stored, in float32."""


def code_bits(bits: int) -> int:
    """Bits of the codes in which a grid's codes lie."""
    return next(wide for wide in (2, 4, 8) if bits <= wide)


def block_size(option: LayerOption, width: int) -> int | None:
    """Inputs of a block for a grid on rows of `width`; None where none divides its groups."""
    group = option.group_size if option.group_size > 0 else width
    return next((block for block in BLOCKS if group % block == 0 and width % block == 0), None)


def matrix_bytes(option: LayerOption, shape: tuple[int, int]) -> int:
    """Bytes of a (rows, inputs) matrix in the file.

    Raises:
        ValueError: an option that is not held.
    """
    rows, width = shape
    if option.format is not Format.GRID:
        return rows * width * DENSE_BYTES
    block = block_size(option, width)
    if block is None:
        raise ValueError(f"{option}: no block divides rows of {width}")
    bits, blocks = code_bits(option.bits), width // block
    zeros = 0 if option.symmetric else rows * math.ceil(blocks * bits / 8)
    return rows * width * bits // 8 + rows * blocks * SCALE_BYTES + zeros
