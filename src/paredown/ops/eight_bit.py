"""Eight-bit numbers with one scale per row: for weights, and for activations while computing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from paredown.ops.affine import stored_scale


@dataclass(frozen=True)
class Number:
    """A kind of eight-bit number: `value = code * scale`, `scale = max|x| / reach`."""

    kind: Literal["int", "float"]
    dtype: torch.dtype
    reach: float
    """Half of the distance from the lowest code to the highest, as compressed-tensors has it."""
    low: float
    high: float


INT8 = Number("int", torch.int8, 127.5, -128.0, 127.0)
FP8 = Number("float", torch.float8_e4m3fn, 448.0, -448.0, 448.0)
"""E4M3: 4 bits of exponent, 3 of mantissa, no infinities (arXiv:2209.05433)."""


def quantize_rows(
    x: Tensor, number: Number, *, scale_dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Codes (n, width) and scales (n, 1) of a matrix, one scale per row.

    Scales are rounded to `scale_dtype` before codes are chosen. Codes are the nearest, ties to
    even; the largest magnitude of a row is clipped by at most half a step.

    Error bound for int8: |x - code * scale| <= scale / 2, up to the rounding of the scale.
    """
    wide = x.float()
    ideal = wide.abs().amax(-1, keepdim=True) / number.reach
    scale = stored_scale(ideal, scale_dtype, number.high - number.low)
    codes = wide / scale.float()
    # FP8 codes are rounded by the cast at the end, to even as well.
    if number.kind == "int":
        codes = codes.round_()
    return codes.clamp_(number.low, number.high).to(number.dtype), scale


def dequantize_rows(codes: Tensor, scale: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """`code * scale`, (n, width) in `dtype`."""
    return codes.to(dtype) * scale.to(dtype)


def int_product(a: Tensor, b: Tensor, *, least_rows: int = 1) -> Tensor:
    """`a b^T` of int8 matrices (n, k) and (m, k), summed in int32: (n, m) float32.

    Args:
        least_rows: what the device's kernel wants; fewer are filled up with zeros.
    """
    n = len(a)
    if n < least_rows:
        a = torch.nn.functional.pad(a, (0, 0, 0, least_rows - n))
    return torch._int_mm(a, b.T)[:n].float()
