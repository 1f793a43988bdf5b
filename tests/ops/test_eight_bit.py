"""Eight-bit rows against hand-worked codes and an independent slow implementation."""

from __future__ import annotations

import pytest
import torch

from paredown.ops.eight_bit import (
    FP8,
    INT8,
    Number,
    dequantize_rows,
    int_product,
    quantize_rows,
)


def rows(n: int = 16, width: int = 48) -> torch.Tensor:
    x = torch.randn(n, width, generator=torch.Generator().manual_seed(0))
    return x * torch.logspace(-3, 3, n)[:, None]


def test_int8_hand_worked() -> None:
    # scale = 255 / 127.5 = 2; 255 / 2 = 127.5 rounds to 128 and is clipped to 127.
    codes, scale = quantize_rows(torch.tensor([[255.0, -255.0, 3.0, 5.0, 0.0]]), INT8)
    assert scale.tolist() == [[2.0]]
    assert codes.tolist() == [[127, -128, 2, 2, 0]]  # ties to even
    assert codes.dtype == torch.int8


def test_fp8_hand_worked() -> None:
    # scale = 1; E4M3 has 3 bits of mantissa: 17 lies between 16 and 18, a tie that goes to even.
    codes, scale = quantize_rows(torch.tensor([[448.0, 17.0, 19.0, 0.3, -448.0]]), FP8)
    assert scale.tolist() == [[1.0]]
    assert codes.dtype == torch.float8_e4m3fn
    assert codes.float().tolist() == [[448.0, 16.0, 20.0, 0.3125, -448.0]]


def test_int8_error_is_at_most_half_a_step() -> None:
    x = rows()
    codes, scale = quantize_rows(x, INT8)
    assert ((x - dequantize_rows(codes, scale)).abs() <= scale * 0.5001).all()


def test_fp8_error_is_at_most_a_sixteenth() -> None:
    x = rows()
    codes, scale = quantize_rows(x, FP8)
    smallest = scale * 2**-10  # half of the smallest subnormal, 2^-9
    assert (
        (x - dequantize_rows(codes, scale)).abs() <= torch.maximum(x.abs() / 16, smallest)
    ).all()


@pytest.mark.parametrize("number", [INT8, FP8])
def test_rows_do_not_touch_each_other(number: Number) -> None:
    x = rows()
    codes, scale = quantize_rows(x, number)
    alone, own = quantize_rows(x[3:4], number)
    assert torch.equal(alone.float(), codes[3:4].float())
    assert torch.equal(own, scale[3:4])


@pytest.mark.parametrize("number", [INT8, FP8])
def test_scales_are_rounded_before_codes_are_chosen(number: Number) -> None:
    x = rows()
    codes, scale = quantize_rows(x, number, scale_dtype=torch.bfloat16)
    assert scale.dtype == torch.bfloat16
    nearest = (x / scale.float()).clamp(number.low, number.high)
    nearest = nearest.round() if number is INT8 else nearest.to(number.dtype).float()
    assert torch.equal(codes.float(), nearest)


@pytest.mark.parametrize("number", [INT8, FP8])
def test_a_row_of_zeros_stays_zero(number: Number) -> None:
    codes, scale = quantize_rows(torch.zeros(1, 8), number)
    assert (scale > 0).all()
    assert torch.equal(dequantize_rows(codes, scale), torch.zeros(1, 8))


def test_the_scale_of_compressed_tensors() -> None:
    """Plain transformers takes its scales and codes from this library."""
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.lifecycle.forward import fake_quantize
    from compressed_tensors.quantization.utils import compute_dynamic_scales_and_zp

    x = rows()[None]
    for number in (INT8, FP8):
        settings = QuantizationArgs(
            num_bits=8, type=number.kind, symmetric=True, strategy="token", dynamic=True
        )
        scale, zero = compute_dynamic_scales_and_zp(x, settings, torch.nn.Module())
        theirs = fake_quantize(x, scale, zero, settings)[0]
        codes, own = quantize_rows(x[0], number)
        torch.testing.assert_close(own, scale[0], rtol=1e-6, atol=0)
        torch.testing.assert_close(dequantize_rows(codes, own), theirs, rtol=1e-5, atol=0)


@pytest.mark.parametrize("shape", [(1, 16, 8), (5, 33, 7), (40, 576, 64)])
def test_integer_products_are_exact(shape: tuple[int, int, int]) -> None:
    n, k, m = shape
    generator = torch.Generator().manual_seed(0)
    a = torch.randint(-128, 128, (n, k), generator=generator).to(torch.int8)
    b = torch.randint(-128, 128, (m, k), generator=generator).to(torch.int8)
    exact = (a.long()[:, None] * b.long()[None]).sum(-1)
    assert torch.equal(int_product(a, b), exact.float())
    assert torch.equal(int_product(a, b, least_rows=32), exact.float())
