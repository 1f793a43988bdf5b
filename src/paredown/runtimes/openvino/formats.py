"""How OpenVINO holds packed matrices exactly, and the bytes that this takes. No torch.

A matrix is a constant of unsigned codes, (rows, groups, inputs of a group), from which a zero-point
is taken and which is multiplied by a scale per group. A grid of other bits lies in the next wider
codes, and a group may be cut into smaller ones that repeat its scale: neither changes a number.

Source: products of every kind, tried beside numpy (release 2026.4): 4-bit groups of 16, 32 and
multiples of 64 are computed rightly, those of 96, 144, 160 and 288 give other numbers without an
error; 8 bits are right everywhere. `export` tries every shape that it writes again.
"""

from __future__ import annotations

import math

from paredown.spec.layers import Format, LayerOption

_SMALL_GROUPS = (32, 16)
SCALE_BYTES = {"F16": 2, "BF16": 2, "F32": 4}
"""Scales in bfloat16 are half-precision numbers unless they are tiny; these are kept in float32."""
DENSE_BYTES = {"F32": 4, "F16": 2, "BF16": 2}


def code_bits(bits: int) -> int:
    """Bits of the codes in which a grid's codes lie."""
    return 4 if bits <= 4 else 8


def group_size(option: LayerOption, width: int) -> int | None:
    """Inputs of a group in the file for a grid on rows of `width`; None where none does."""
    group = option.group_size if option.group_size > 0 else width
    if width % group:
        return None
    if code_bits(option.bits) == 8 or group % 64 == 0:
        return group
    return next((small for small in _SMALL_GROUPS if group % small == 0), None)


def matrix_bytes(option: LayerOption, shape: tuple[int, int]) -> int:
    """Bytes of a (rows, inputs) matrix in the file.

    Raises:
        ValueError: an option that is not held.
    """
    rows, width = shape
    if option.format is not Format.GRID:
        return rows * width * option.bits // 8
    group = group_size(option, width)
    if group is None:
        raise ValueError(f"{option}: no group of OpenVINO divides rows of {width}")
    bits, groups = code_bits(option.bits), rows * (width // group)
    zeros = 1 if option.symmetric else math.ceil(groups * bits / 8)
    return (
        math.ceil(rows * width * bits / 8)
        + groups * SCALE_BYTES[option.scale_dtype or "BF16"]
        + zeros
    )
