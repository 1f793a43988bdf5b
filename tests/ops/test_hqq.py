"""The half-quadratic fit against hand-worked steps, its bound, and a group with an outlier."""

from __future__ import annotations

import pytest
import torch

from paredown.errors import NumericsError
from paredown.ops.affine import Grid, dequantize, fit_grid, quantize
from paredown.ops.hqq import fit_half_quadratic, shrink


def weight(rows: int = 8, width: int = 64) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(0)) + 0.2


def errors(w: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Squared error of every group."""
    off = dequantize(quantize(w, grid), grid) - w
    return off.square().reshape(len(w), -1, grid.group_size).sum(-1)


def test_shrinking_hand_worked() -> None:
    # p = 1/2, beta = 2: 4 - 4^(-1/2) / 2 = 3.75; 0.25 - 0.25^(-1/2) / 2 < 0.
    found = shrink(torch.tensor([4.0, -4.0, 0.25, 0.0]), 2.0, 0.5)
    assert found.tolist() == [3.75, -3.75, 0.0, 0.0]


@pytest.mark.parametrize("beta", [5.0, 10.0])
def test_shrinking_minimizes_what_it_says(beta: float) -> None:
    """For p = 1 the formula is exact; compare with brute force."""
    e = torch.linspace(-3, 3, 60001)
    for r in (-2.0, -0.05, 0.0, 0.3, 1.7):
        cost = e.abs() + beta / 2 * (e - r) ** 2
        found = shrink(torch.tensor([r]), beta, 1.0).item()
        assert found == pytest.approx(e[cost.argmin()].item(), abs=2e-4)


def test_one_step_hand_worked() -> None:
    # 3 bits from [-4, 3]: scale 1, zero 0, codes (-4, 3, 1, 1, 1, 1). Residuals of 0.1 steps are
    # shrunk to nothing, so the scale is the slope of the weights on the codes.
    w = torch.tensor([[-4.0, 3.0, 1.1, 1.1, 1.1, 1.1]])
    grid = fit_half_quadratic(
        w, bits=3, group_size=6, symmetric=False, scale_dtype=torch.float32,
        norm=0.7, iterations=1, steps=0,
    )  # fmt: skip
    slope = (16 + 9 + 4 * 1.1) / (16 + 9 + 4)
    assert grid.scale.item() == pytest.approx(slope, rel=1e-6)
    assert grid.zero is not None
    assert grid.zero.item() == 0


def test_outliers_are_split_off_before_the_fit() -> None:
    # As above, but 1.4 is 0.4 steps off: e = 0.4 - 0.4^(-0.3) / 10 of it are left out.
    grid = fit_half_quadratic(
        torch.tensor([[-4.0, 3.0, 1.4]]), bits=3, group_size=3, symmetric=False,
        scale_dtype=torch.float32, norm=0.7, iterations=1, steps=0,
    )  # fmt: skip
    kept = 1.4 - (0.4 - 0.4**-0.3 / 10)
    assert grid.scale.item() == pytest.approx((16 + 9 + kept) / (16 + 9 + 1), rel=1e-6)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("steps", [0, 20])
def test_no_group_is_worse_than_the_plain_fit(bits: int, symmetric: bool, steps: int) -> None:
    w = weight()
    plain = fit_grid(
        w, bits=bits, group_size=16, symmetric=symmetric, scale_dtype=torch.bfloat16, steps=steps
    )
    found = fit_half_quadratic(
        w, bits=bits, group_size=16, symmetric=symmetric, scale_dtype=torch.bfloat16,
        norm=0.7, iterations=20, steps=steps,
    )  # fmt: skip
    assert (errors(w, found) <= errors(w, plain) * (1 + 1e-5)).all()
    if steps == 0 and bits < 8:
        assert errors(w, found).sum() < errors(w, plain).sum()
    assert found.scale.dtype == torch.bfloat16
    assert (found.scale > 0).all()
    assert (found.zero is None) == symmetric


@pytest.mark.parametrize("shift", [-5.0, 0.0, 5.0])
def test_zero_points_fit_in_the_code_width(shift: float) -> None:
    found = fit_half_quadratic(
        weight() + shift, bits=3, group_size=16, symmetric=False, scale_dtype=torch.float32,
        norm=0.7, iterations=20, steps=0,
    )  # fmt: skip
    assert found.zero is not None
    assert found.zero.dtype == torch.int8
    assert found.zero.min() >= -4
    assert found.zero.max() <= 3


def test_the_size_of_the_weights_does_not_matter() -> None:
    settings = {
        "bits": 3, "group_size": 16, "symmetric": False, "scale_dtype": torch.float32,
        "norm": 0.7, "iterations": 20, "steps": 0,
    }  # fmt: skip
    one = fit_half_quadratic(weight(), **settings)  # type: ignore[arg-type]
    big = fit_half_quadratic(1024 * weight(), **settings)  # type: ignore[arg-type]
    torch.testing.assert_close(big.scale, 1024 * one.scale)
    assert one.zero is not None
    assert big.zero is not None
    assert torch.equal(one.zero, big.zero)


def test_equal_weights_and_zeros_survive() -> None:
    w = torch.zeros(2, 16)
    w[1] = 0.3
    found = fit_half_quadratic(
        w, bits=4, group_size=16, symmetric=False, scale_dtype=torch.float32,
        norm=0.7, iterations=20, steps=0,
    )  # fmt: skip
    torch.testing.assert_close(dequantize(quantize(w, found), found), w)


def test_non_finite_weights_are_refused() -> None:
    w = weight()
    w[3, 5] = torch.nan
    with pytest.raises(NumericsError, match="1 of 512 weights are not finite"):
        fit_half_quadratic(
            w, bits=4, group_size=16, symmetric=True, scale_dtype=torch.float32,
            norm=0.7, iterations=5, steps=0,
        )  # fmt: skip
