"""Weights that others have quantized, as floating-point numbers. Pure functions on tensors."""

from __future__ import annotations

import torch
from torch import Tensor

_FP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""Magnitudes of E2M1, by the three low bits of a code; the fourth is the sign."""
_AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)
"""Where the columns of eight 4-bit codes stand within a word, the lowest bits first."""


def fp8_weight(codes: Tensor, scales: Tensor, block: tuple[int, int]) -> Tensor:
    """(rows, columns) float32 of E4M3 codes with one scale per block (DeepSeek-V3, section 3.3).

    Args:
        scales: (ceil(rows / block rows), ceil(columns / block columns)): what a block is
            multiplied by.
    """
    rows, columns = codes.shape
    full = scales.float().repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)
    return codes.float() * full[:rows, :columns]


def mxfp4_weight(blocks: Tensor, scales: Tensor) -> Tensor:
    """(..., columns) float32 of MXFP4: E2M1 codes in groups of 32 with a power of two each.

    OCP Microscaling Formats 1.0, section 5.3.

    Args:
        blocks: (..., groups, 16) uint8, the even column in the low bits.
        scales: (..., groups) uint8, exponents with a bias of 127.
    """
    table = torch.tensor([*_FP4, *(-value for value in _FP4)])
    codes = torch.stack((blocks & 15, blocks >> 4), dim=-1).flatten(-2)
    values = table[codes.long()]
    return torch.ldexp(values, (scales.int() - 127)[..., None]).flatten(-2)


def gptq_weight(
    words: Tensor, zeros: Tensor, scales: Tensor, groups: Tensor, bits: int, *, offset: int
) -> Tensor:
    """(rows, columns) float32 of GPTQ's format: codes packed along the inputs.

    Args:
        words: (columns * bits / 32, rows) int32, the first input in the lowest bits.
        zeros: (groups, rows * bits / 32) int32, packed along the rows.
        scales: (groups, rows).
        groups: (columns,) int32, the group of each input.
        bits: 2, 4 or 8.
        offset: what the stored zero-points lack: 1 in the format's first version, 0 in its second.
    """
    codes = _unpacked(words.T, bits).float()  # (rows, columns)
    zero = _unpacked(zeros, bits).float().T + offset  # (rows, groups)
    of_input = groups.long()
    return scales.float().T[:, of_input] * (codes - zero[:, of_input])


def awq_weight(words: Tensor, zeros: Tensor, scales: Tensor) -> Tensor:
    """(rows, columns) float32 of AWQ's 4-bit format: codes packed along the rows, in its order.

    Args:
        words: (columns, rows / 8) int32.
        zeros: (groups, rows / 8) int32.
        scales: (groups, rows).
    """
    codes, zero = _awq_unpacked(words), _awq_unpacked(zeros)
    size = len(codes) // len(zero)
    scaled = (codes - zero.repeat_interleave(size, 0)) * scales.float().repeat_interleave(size, 0)
    return scaled.T.contiguous()


def _unpacked(words: Tensor, bits: int) -> Tensor:
    """Codes (n, m * 32 / bits) of words (n, m) int32, the lowest bits first."""
    shifts = torch.arange(0, 32, bits, dtype=torch.int32)
    return ((words[..., None] >> shifts) & ((1 << bits) - 1)).flatten(-2)


def _awq_unpacked(words: Tensor) -> Tensor:
    codes = _unpacked(words, 4).unflatten(-1, (-1, 8))
    ordered: Tensor = codes[..., list(_AWQ_ORDER)].flatten(-2)
    return ordered.float()
