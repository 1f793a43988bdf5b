"""Affine grids: hand-worked cases, error bounds, a second implementation of the range search."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from paredown.errors import NumericsError
from paredown.ops.affine import (
    SHRINK,
    Grid,
    dequantize,
    fit_grid,
    quantize,
    require_finite,
    short_scale,
    stored_scale,
)


@pytest.fixture
def weight() -> torch.Tensor:
    return torch.randn(8, 64, generator=torch.Generator().manual_seed(0))


def fit(
    weight: torch.Tensor,
    bits: int = 4,
    group_size: int = 32,
    *,
    symmetric: bool = True,
    scale_dtype: torch.dtype = torch.float32,
    importance: torch.Tensor | None = None,
    steps: int = 0,
) -> Grid:
    return fit_grid(
        weight,
        bits=bits,
        group_size=group_size,
        symmetric=symmetric,
        scale_dtype=scale_dtype,
        importance=importance,
        steps=steps,
    )


def test_hand_worked_symmetric_case() -> None:
    # Range [-3, 3] in 2 bits: scale 6 / 3 = 2; codes -2 .. 1, so that 3 / 2 is cut to 1.
    weight = torch.tensor([[-3.0, -1.2, 0.9, 3.0]])
    grid = fit(weight, bits=2, group_size=4)
    assert grid.zero is None
    assert grid.scale.tolist() == [[2.0]]
    assert (grid.low, grid.high) == (-2, 1)
    codes = quantize(weight, grid)
    assert codes.tolist() == [[-2, -1, 0, 1]]
    assert codes.dtype == torch.int8
    assert dequantize(codes, grid).tolist() == [[-4.0, -2.0, 0.0, 2.0]]


def test_hand_worked_asymmetric_case() -> None:
    # Range [-1, 2] in 2 bits: scale 3 / 3 = 1, zero-point -2 + 1 = -1; so codes are w - 1.
    weight = torch.tensor([[-1.0, 0.0, 1.0, 2.0]])
    grid = fit(weight, bits=2, group_size=4, symmetric=False)
    assert grid.zero is not None
    assert (grid.scale.tolist(), grid.zero.tolist()) == ([[1.0]], [[-1]])
    codes = quantize(weight, grid)
    assert codes.tolist() == [[-2, -1, 0, 1]]
    assert torch.equal(dequantize(codes, grid), weight)


def test_groups_are_neighbouring_input_features_of_one_row() -> None:
    grid = fit(torch.tensor([[3.0, 0.0, 6.0, 0.0], [0.0, 9.0, 0.0, 12.0]]), bits=2, group_size=2)
    assert grid.scale.tolist() == [[2.0, 4.0], [6.0, 8.0]]


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("group_size", [16, 32, 64])
@pytest.mark.parametrize("symmetric", [True, False])
def test_error_is_at_most_half_a_step(
    weight: torch.Tensor, bits: int, group_size: int, symmetric: bool
) -> None:
    grid = fit(weight, bits, group_size, symmetric=symmetric)
    error = (weight - dequantize(quantize(weight, grid), grid)).abs()
    half_step = grid.scale.repeat_interleave(group_size, dim=1) / 2
    assert (error <= half_step * (1 + 1e-4)).all()


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_the_full_range_is_used(weight: torch.Tensor, bits: int, symmetric: bool) -> None:
    mirrored = torch.cat((weight, -weight), dim=1)
    codes = quantize(mirrored, grid := fit(mirrored, bits, 128, symmetric=symmetric))
    assert codes.amin() == grid.low
    assert codes.amax() == grid.high


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("steps", [0, 20])
def test_rounding_twice_on_one_grid_changes_nothing(
    weight: torch.Tensor, symmetric: bool, steps: int
) -> None:
    grid = fit(weight, bits=3, symmetric=symmetric, steps=steps)
    codes = quantize(weight, grid)
    assert torch.equal(quantize(dequantize(codes, grid), grid), codes)


@pytest.mark.parametrize("symmetric", [True, False])
def test_zero_weights_stay_exactly_zero(weight: torch.Tensor, symmetric: bool) -> None:
    weight = weight + 3.0
    weight[:, ::2] = 0.0
    grid = fit(weight, bits=3, group_size=16, symmetric=symmetric, steps=10)
    assert (dequantize(quantize(weight, grid), grid)[:, ::2] == 0.0).all()


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_an_all_zero_group_comes_back_as_zero(symmetric: bool, dtype: torch.dtype) -> None:
    zeros = torch.zeros(1, 16)
    grid = fit(zeros, group_size=16, symmetric=symmetric, scale_dtype=dtype, steps=3)
    assert (grid.scale > 0).all()
    assert torch.equal(dequantize(quantize(zeros, grid), grid), zeros)


@pytest.mark.parametrize("shift", [-5.0, 5.0])
def test_zero_point_fits_in_the_code_width(weight: torch.Tensor, shift: float) -> None:
    grid = fit(weight + shift, symmetric=False)  # no weight near zero
    assert grid.zero is not None
    assert grid.zero.dtype == torch.int8
    assert grid.zero.min() >= -8
    assert grid.zero.max() <= 7
    assert torch.all(grid.zero == (-8 if shift > 0 else 7))
    largest = (weight + shift).abs().reshape(8, -1, 32).amax(-1)
    torch.testing.assert_close(grid.scale, largest / 15)  # the range begins at 0.0


def test_zero_point_belongs_to_the_stored_scale() -> None:
    # 255 steps of a bfloat16 scale miss the range by up to half a step: 128 would overflow int8.
    weight = -torch.rand(64, 16, generator=torch.Generator().manual_seed(0)) - 1.0
    grid = fit(weight, 8, 16, symmetric=False, scale_dtype=torch.bfloat16)
    assert grid.zero is not None
    assert (-weight.amin(-1) / grid.scale.float()[:, 0] > 255.5).any()
    assert (grid.zero <= 127).all()
    exact = (-128 - weight.amin(-1) / grid.scale.float()[:, 0]).round().clamp(max=127)
    assert torch.equal(grid.zero[:, 0].float(), exact)
    assert not torch.equal(exact, torch.full_like(exact, 127))


def test_mirrored_weights_have_the_same_symmetric_grid(weight: torch.Tensor) -> None:
    assert torch.equal(fit(weight).scale, fit(-weight).scale)


@pytest.mark.parametrize("symmetric", [True, False])
def test_scaled_weights_have_the_same_codes(weight: torch.Tensor, symmetric: bool) -> None:
    one = fit(weight, symmetric=symmetric, steps=8)
    four = fit(weight * 4, symmetric=symmetric, steps=8)
    assert torch.equal(four.scale, one.scale * 4)
    assert torch.equal(quantize(weight, one), quantize(weight * 4, four))


@pytest.mark.parametrize("symmetric", [True, False])
def test_half_precision_input_is_widened_first(weight: torch.Tensor, symmetric: bool) -> None:
    half = weight.bfloat16()
    one = fit(half, bits=8, symmetric=symmetric, steps=4)
    two = fit(half.float(), bits=8, symmetric=symmetric, steps=4)
    assert torch.equal(one.scale, two.scale)
    assert torch.equal(quantize(half, one), quantize(half.float(), two))


@pytest.mark.parametrize("symmetric", [True, False])
def test_codes_are_chosen_for_the_stored_scale(symmetric: bool) -> None:
    # 8 bits on a bfloat16 scale: with the scale before rounding, outer codes would be one off.
    weight = torch.randn(16, 64, generator=torch.Generator().manual_seed(1))
    grid = fit(weight, 8, 64, symmetric=symmetric, scale_dtype=torch.bfloat16)
    assert grid.scale.dtype == torch.bfloat16
    codes = quantize(weight, grid)
    scale = grid.scale.float()
    error = (weight - dequantize(codes, grid)).abs()
    inside = (codes > grid.low) & (codes < grid.high)
    assert inside.float().mean() > 0.9
    assert (error <= scale / 2 * (1 + 1e-5))[inside].all()


def test_dequantized_dtype_is_as_asked(weight: torch.Tensor) -> None:
    grid = fit(weight)
    codes = quantize(weight, grid)
    assert torch.equal(dequantize(codes, grid, torch.bfloat16), dequantize(codes, grid).bfloat16())


def search_by_hand(
    group: np.ndarray[Any, Any],
    importance: np.ndarray[Any, Any],
    bits: int,
    symmetric: bool,
    steps: int,
    dtype: torch.dtype,
) -> tuple[float, int]:
    """One group in float64, candidate by candidate: (scale, zero) of least weighted error."""
    low, high = min(group.min(), 0.0), max(group.max(), 0.0)
    if symmetric:
        low, high = -max(high, -low), max(high, -low)
    bottom, top = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    found: list[tuple[float, int, float, int]] = []
    for i in range(steps + 1):
        factor = 1 - (1 - SHRINK) * i / max(steps, 1)
        scale = torch.tensor((high - low) * factor / (2**bits - 1)).to(dtype).item()
        zero = (
            0 if symmetric else int(np.clip(np.round(bottom - low * factor / scale), bottom, top))
        )
        codes = np.clip(np.round(group / scale) + zero, bottom, top)
        error = float((importance * (group - (codes - zero) * scale) ** 2).sum())
        found.append((error, i, scale, zero))
    _, _, scale, zero = min(found)
    return scale, zero


@pytest.mark.parametrize(
    ("bits", "dtype"),
    [(2, torch.float32), (3, torch.float32), (4, torch.float32), (8, torch.bfloat16)],
)
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_range_search_agrees_with_one_written_out(
    weight: torch.Tensor, bits: int, dtype: torch.dtype, symmetric: bool, weighted: bool
) -> None:
    importance = torch.rand(64, generator=torch.Generator().manual_seed(2)) ** 4
    grid = fit(
        weight,
        bits,
        16,
        symmetric=symmetric,
        scale_dtype=dtype,
        importance=importance if weighted else None,
        steps=12,
    )
    used = importance if weighted else torch.ones(64)
    for row in range(8):
        for group in range(4):
            part = slice(16 * group, 16 * group + 16)
            numbers = weight[row, part].double().numpy(), used[part].double().numpy()
            scale, zero = search_by_hand(*numbers, bits, symmetric, 12, dtype)
            assert grid.scale[row, group].item() == pytest.approx(scale, rel=1e-5)
            if grid.zero is not None:
                assert grid.zero[row, group].item() == zero


def test_range_search_keeps_scale_and_zero_point_together() -> None:
    # Where bfloat16 rounds the scale, each range has a zero-point of its own.
    weight = -torch.rand(64, 16, generator=torch.Generator().manual_seed(0)) - 1.0
    importance = torch.zeros(16)
    importance[0] = 1.0  # smaller ranges are as good or better for most rows
    grid = fit(
        weight, 8, 16, symmetric=False, scale_dtype=torch.bfloat16, importance=importance, steps=7
    )
    assert grid.zero is not None
    numbers = importance.double().numpy()
    expected = [
        search_by_hand(row.double().numpy(), numbers, 8, False, 7, torch.bfloat16) for row in weight
    ]
    assert len({zero for _, zero in expected}) > 1
    assert [*zip(grid.scale[:, 0].tolist(), grid.zero[:, 0].tolist(), strict=True)] == expected


@pytest.mark.parametrize("symmetric", [True, False])
def test_searching_never_makes_it_worse_and_helps_at_few_bits(
    weight: torch.Tensor, symmetric: bool
) -> None:
    def errors(grid: Grid) -> torch.Tensor:
        wrong = dequantize(quantize(weight, grid), grid) - weight
        return wrong.square().reshape(8, -1, 32).sum(-1)

    full, searched = (errors(fit(weight, 3, symmetric=symmetric, steps=s)) for s in (0, 20))
    assert (searched <= full * (1 + 1e-5)).all()
    assert searched.sum() < 0.95 * full.sum()


def test_an_unimportant_outlier_does_not_widen_the_grid(weight: torch.Tensor) -> None:
    weight[:, 0] = 6.0
    importance = torch.ones(64)
    importance[0] = 0.0
    ignored = fit(weight, 2, 32, importance=importance, steps=20)
    assert (ignored.scale[:, 0] < fit(weight, 2, 32).scale[:, 0]).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_non_finite_weights_are_counted_and_refused(weight: torch.Tensor, bad: float) -> None:
    weight[3, 5] = bad
    with pytest.raises(NumericsError, match="1 of 512 weights are not finite"):
        fit(weight)
    with pytest.raises(NumericsError, match="hessian: 1 of 512"):
        require_finite(weight, "hessian")


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("peak", [1.0, 1e-2, 1e-3, 1e-4])
def test_the_error_in_float16_does_not_depend_on_the_size_of_the_weights(
    bits: int, symmetric: bool, peak: float
) -> None:
    """Subnormal scales hold: the smallest normal float16 as a floor made 8 bits 13 times worse."""
    whole = torch.randn(64, 128, generator=torch.Generator().manual_seed(0))
    small = (whole / whole.abs().max() * peak).half()

    def error(weight: torch.Tensor, dtype: torch.dtype) -> float:
        grid = fit(weight, bits, symmetric=symmetric, scale_dtype=dtype)
        back = dequantize(quantize(weight, grid), grid)
        return float((back - weight.float()).norm() / weight.float().norm())

    # Weights of 1e-4 in 8 bits have scales of 13 units of the smallest number that float16 has.
    bound = 1.6 if peak < 1e-3 and bits == 8 else 1.05
    assert error(small, torch.float16) <= bound * error(small, torch.float32)


def test_a_subnormal_scale_never_clips_a_step() -> None:
    smallest = 2.0**-24
    ideal = torch.tensor([0.0, 0.3, 1.0, 1.4, 7.49, 2000.0]) * smallest
    found = stored_scale(ideal, torch.float16, 255)
    assert (found.double() / smallest).tolist() == [1.0, 1.0, 1.0, 2.0, 8.0, 2000.0]
    # A step in 3: 7 instead of 7.49 clips 7 %, which is less than one of three steps.
    assert float(stored_scale(ideal[4], torch.float16, 3)) / smallest == 7.0
    assert torch.equal(stored_scale(ideal + 1, torch.float16, 255), (ideal + 1).half())


def test_finite_weights_whose_sum_is_not_are_taken() -> None:
    require_finite(torch.full((4, 4), 3e38))
    require_finite(torch.full((4, 4), 6e4, dtype=torch.float16))


@pytest.mark.parametrize("bits", [4, 5])
def test_short_scales_have_half_precision_minima(bits: int) -> None:
    """A scale times any zero-point is exact in half precision, at next to no cost."""
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(bits)) * 0.05 + 0.01
    errors = {}
    for scale_bits in (None, 11 - bits):
        grid = fit_grid(
            weight, bits=bits, group_size=32, symmetric=False, scale_dtype=torch.bfloat16,
            steps=20, scale_bits=scale_bits,
        )  # fmt: skip
        errors[scale_bits] = (dequantize(quantize(weight, grid), grid) - weight).square().mean()
        products = grid.scale.double()[..., None] * torch.arange(2**bits)
        exact = bool((products.half().double() == products).all())
        assert exact is (scale_bits is not None)
    assert errors[11 - bits] < 1.02 * errors[None]


def test_a_short_scale_by_hand() -> None:
    # 0.1 is 1.6 x 2^-4; with three bits, 1.5 x 2^-4. Far down, what counts is 2^-24.
    found = short_scale(torch.tensor([0.1, 1.0, 0.0, 2.0**-23 * 1.3]), 3)
    assert found.tolist() == [0.09375, 1.0, 2.0**-24, 3 * 2.0**-24]
