"""Layers of eight-bit weights (W8A8), multiplied as integers or FP8 numbers where a kernel can.

Activations are quantized while computing, with one scale per token, and the product is one of
integers (or of FP8 numbers where the device has them).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, final

import torch
from torch import Tensor, nn

from paredown.artifact.eight_bit import EightBit
from paredown.ops.eight_bit import (
    INT8,
    dequantize_rows,
    int_product,
    quantize_rows,
)
from paredown.runtimes.torch.packed import PackedLinear, linears_on

FP8_PRODUCTS = (8, 9)
"""CUDA compute capability that multiplies FP8 numbers."""
INT8_ROWS_ON_GPU = 32
"""Integer products on CUDA want more than 16 rows."""


@final
class EightBitWeight(nn.Module):
    """A weight matrix (rows, width) of eight-bit codes; multiplies from the right."""

    codes: Tensor
    scale: Tensor

    def __init__(
        self, codes: Tensor, scale: Tensor, how: EightBit, *, dtype: torch.dtype, device: str
    ) -> None:
        """`scale` is (rows, 1); `dtype` is that of activations."""
        super().__init__()
        self.rows, self.width = codes.shape
        self.how, self.dtype, self.rounds = how, dtype, how.activations
        self.kernel = _kernel(how, codes.shape, device)
        self.register_buffer("codes", codes.to(device), persistent=False)
        self.register_buffer("scale", scale.float().to(device), persistent=False)

    def multiply(self, x: Tensor) -> Tensor:
        """`x W^T` for x (n, width): (n, rows) in x's dtype."""
        if not self.rounds:
            return x @ self.dense(x.dtype).T
        codes, scale = quantize_rows(x, self.how.number)
        if self.kernel == "int8xint8":
            least = INT8_ROWS_ON_GPU if codes.is_cuda else 1
            # Scales factor out of the sum: one per token, (n, 1), and one per output, (1, rows).
            y = int_product(codes, self.codes, least_rows=least).mul_(scale).mul_(self.scale.T)
        elif self.kernel == "fp8xfp8":
            y = torch._scaled_mm(
                codes,
                self.codes.T,
                scale_a=scale,
                scale_b=self.scale.T,
                out_dtype=torch.bfloat16,
            )
        else:
            y = dequantize_rows(codes, scale, x.dtype) @ self.dense(x.dtype).T
        return y.to(x.dtype)

    def dense(self, dtype: torch.dtype) -> Tensor:
        """The weights, unpacked, (rows, width) in `dtype`; nothing is kept."""
        return dequantize_rows(self.codes, self.scale, dtype)

    def exact(self, x: Tensor) -> Tensor:
        """What `multiply` stands for, in plain float32 arithmetic."""
        if self.rounds:
            x = dequantize_rows(*quantize_rows(x, self.how.number))
        return x.float() @ self.dense(torch.float32).T

    def extra_repr(self) -> str:
        return f"{self.rows}x{self.width}, kernel={self.kernel}"


@contextmanager
def unrounded_activations(model: nn.Module) -> Iterator[None]:
    """Leave activations as they are in layers that round them, ours or compressed-tensors'.

    Rounding makes a model a discontinuous function of its input: a change in the last bit of one
    activation moves another by a whole step, and through some layers that becomes as large as the
    error of the rounding itself. So two correct implementations agree layer by layer, and without
    the rounding as a whole, but not as a whole with it.
    """
    ours = [m for m in model.modules() if isinstance(m, EightBitWeight) and m.how.activations]
    theirs: list[Any] = [
        m
        for m in model.modules()
        if getattr(getattr(m, "quantization_scheme", None), "input_activations", None) is not None
    ]
    for module in ours:
        module.rounds = False
    for module in theirs:
        module.quantization_enabled = False
    try:
        yield
    finally:
        for module in ours:
            module.rounds = True
        for module in theirs:
            module.quantization_enabled = True


def _kernel(how: EightBit, shape: torch.Size, device: str) -> str:
    if not how.activations:
        return "unpack"
    if how.number is INT8:
        # torch._int_mm wants multiples of 8 on CUDA, torch._scaled_mm multiples of 16.
        return "int8xint8" if device == "cpu" or all(n % 8 == 0 for n in shape) else "unpack"
    has_fp8 = device == "cuda" and torch.cuda.get_device_capability() >= FP8_PRODUCTS
    return "fp8xfp8" if has_fp8 and all(n % 16 == 0 for n in shape) else "unpack"


def eight_bit_linears(
    parts: list[tuple[Tensor, Tensor, Tensor | None]],
    how: EightBit,
    *,
    dtype: torch.dtype,
    device: str,
) -> list[PackedLinear]:
    """Linears that read one input, as one product.

    Args:
        parts: per linear its codes (rows, width), scale (rows, 1), and bias (rows,) or None.
        dtype: dtype of activations.
    """
    codes = torch.cat([c.view(torch.uint8) for c, _, _ in parts]).view(how.number.dtype)
    scale = torch.cat([s for _, s, _ in parts])
    weight = EightBitWeight(codes, scale, how, dtype=dtype, device=device)
    return linears_on(weight, [len(c) for c, _, _ in parts], [bias for _, _, bias in parts])


def eight_bit_notes(
    kernels: Mapping[str, int], layers: dict[str, EightBit], device: str
) -> tuple[str, ...]:
    """What a user should know of how these layers compute on this device."""
    if not layers or not kernels.get("unpack"):
        return ()
    return (
        f"{kernels['unpack']} layers in eight bits are unpacked layer by layer on {device}: "
        "smaller in memory, but not faster",
    )
