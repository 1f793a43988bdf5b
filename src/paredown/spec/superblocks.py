"""Two-level grids: the K-types of llama.cpp, as layouts and bytes. No torch.

A super-block is 256 neighbouring inputs of a row. It is cut into groups of 16 or 32, whose scales
(and minima) are small integers times one half-precision number of the super-block:
`w = (d s) q - (e n)` with d and e in half precision, s and n the group's integers, q the code.

Source: ggml-common.h of llama.cpp, block_q2_K to block_q6_K.
"""

from __future__ import annotations

from dataclasses import dataclass

SUPERBLOCK = 256
"""Inputs that share d and e; rows are made of whole super-blocks."""


@dataclass(frozen=True, slots=True)
class SuperLayout:
    """What one type's super-blocks hold."""

    bits: int
    """Of a code q: from 0 where groups have minima, else as two's complement."""
    group: int
    """Inputs that share s and n."""
    lowest: int
    highest: int
    """Smallest and largest s."""
    has_minima: bool
    """Whether there are e and n; n is as wide as s."""
    nbytes: int
    """Of a super-block."""
    scale_bytes: int
    """Of these, those of d, e, s and n."""


SUPER_LAYOUTS = {
    2: SuperLayout(2, 16, 0, 15, True, 84, 20),
    3: SuperLayout(3, 16, -32, 31, False, 110, 14),
    4: SuperLayout(4, 32, 0, 63, True, 144, 16),
    5: SuperLayout(5, 32, 0, 63, True, 176, 16),
    6: SuperLayout(6, 16, -128, 127, False, 210, 18),
}
"""By the bits of a code."""


def superblock_bytes(bits: int, shape: tuple[int, int]) -> int:
    """Bytes of a (rows, inputs) matrix; inputs are whole super-blocks."""
    return shape[0] * (shape[1] // SUPERBLOCK) * SUPER_LAYOUTS[bits].nbytes
