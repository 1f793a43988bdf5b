"""GPTQ: hand-worked cases, a slow second implementation, and what must hold for any Hessian."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from paredown.errors import NumericsError
from paredown.ops import columns as columns_of
from paredown.ops.affine import Grid, dequantize, fit_grid, quantize
from paredown.ops.gptq import Solution, curvature, inverse_factor, round_to_nearest, solve


def correlated(width: int, seed: int, *, samples: int = 256) -> torch.Tensor:
    """Mean x x^T of inputs whose features are correlated and of unequal size."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=generator)
    x = torch.randn(samples, width, generator=generator) @ mix
    x = x * torch.linspace(0.3, 3.0, width)[torch.randperm(width, generator=generator)]
    return x.T @ x / samples


def random_weight(rows: int, width: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


def solved(weight: torch.Tensor, hessian: torch.Tensor, **changes: Any) -> Solution[Grid]:
    settings: dict[str, Any] = {
        "bits": 4,
        "group_size": weight.shape[1],
        "symmetric": True,
        "scale_dtype": torch.float32,
        "steps": 0,
    } | changes
    how = {key: settings.pop(key) for key in ("act_order", "damping") if key in settings}
    return solve(weight, curvature(hessian, **({"act_order": False} | how)), **settings)


def output_error(
    weight: torch.Tensor, codes: torch.Tensor, grid: Grid, hessian: torch.Tensor
) -> float:
    delta = (dequantize(codes, grid) - weight).double()
    return float((delta @ hessian.double() * delta).sum())


WEIGHT = torch.tensor([[-1.5, 0.4]])  # on a symmetric 2-bit grid the scale is 3 / 3 = 1


def test_hand_worked_case() -> None:
    # -1.5 -> -2, error 0.5; H^-1 is proportional to [[2, -1], [-1, 2]], so half of the error goes
    # to the second weight: 0.4 + 0.25 = 0.65 -> 1 (alone it would be 0).
    # dw = (-0.5, 0.6): 0.25 + 0.36 - 2 x 0.5 x 0.3 = 0.31.
    found = solved(WEIGHT, torch.tensor([[1.0, 0.5], [0.5, 1.0]]), bits=2, damping=0.0)
    assert found.grid.scale.tolist() == [[1.0]]
    assert found.codes.tolist() == [[-2, 1]]
    assert found.codes.dtype == torch.int8
    assert found.error == pytest.approx(0.31, abs=1e-6)


def test_hand_worked_case_with_activation_order() -> None:
    # The second feature is the more active: 0.4 -> 0, error 0.4, of which H^-1_01 / H^-1_11 = -1/2
    # goes to the first weight: -1.5 + 0.2 = -1.3 -> -1. dw = (0.5, -0.4): 0.25 + 0.32 - 0.2 = 0.37.
    hessian = torch.tensor([[1.0, 0.5], [0.5, 2.0]])
    ordered = solved(WEIGHT, hessian, bits=2, damping=0.0, act_order=True)
    assert ordered.codes.tolist() == [[-1, 0]]
    assert ordered.error == pytest.approx(0.37, abs=1e-6)
    # In stored order -1/4 of 0.5 goes the other way: 0.525 -> 1.
    assert solved(WEIGHT, hessian, bits=2, damping=0.0).codes.tolist() == [[-2, 1]]


def test_damping_is_a_share_of_the_mean_diagonal() -> None:
    # Damping 0.25 of mean 2 adds 0.5 to the diagonal.
    hessian = torch.tensor([[1.0, 0.5], [0.5, 3.0]])
    factor = inverse_factor(hessian, 0.25)
    expected = torch.linalg.inv(hessian + 0.5 * torch.eye(2))
    torch.testing.assert_close(factor.T @ factor, expected)
    assert torch.equal(factor, factor.triu())


def eliminate(
    weight: torch.Tensor, hessian: torch.Tensor, grid: Grid, order: list[int], damping: float
) -> torch.Tensor:
    """Optimal brain quantization in a fixed order: explicit inverse, one elimination a column."""
    width = len(hessian)
    damped = hessian.double() + damping * hessian.diagonal().double().mean() * torch.eye(width)
    inverse = torch.linalg.inv(damped)
    work = weight.double().clone()
    codes = torch.zeros_like(weight, dtype=torch.int8)
    for j in order:
        group = j // grid.group_size
        scale = grid.scale[:, group].double()
        zero = 0.0 if grid.zero is None else grid.zero[:, group].double()
        code = ((work[:, j] / scale).round() + zero).clamp(grid.low, grid.high)
        codes[:, j] = code.to(torch.int8)
        error = (work[:, j] - (code - zero) * scale) / inverse[j, j]
        work -= error[:, None] * inverse[j]
        inverse = inverse - inverse[:, j : j + 1] @ inverse[j : j + 1] / inverse[j, j]
        inverse[j], inverse[:, j] = 0.0, 0.0  # exactly: the column is decided
    return codes


@pytest.mark.parametrize("columns", [5, 16, 128])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("act_order", [True, False])
def test_agrees_with_elimination_column_by_column(
    monkeypatch: pytest.MonkeyPatch, columns: int, symmetric: bool, act_order: bool
) -> None:
    monkeypatch.setattr(columns_of, "COLUMNS", columns)
    weight, hessian = random_weight(12, 48, 3), correlated(48, 4)
    found = solved(
        weight, hessian, bits=3, group_size=16, symmetric=symmetric, act_order=act_order, steps=8
    )
    order = list(range(48))
    if act_order:
        order.sort(key=lambda j: -hessian[j, j].item())
    expected = eliminate(weight, hessian, found.grid, order, 0.01)
    assert torch.equal(found.codes, expected)
    assert found.error == pytest.approx(
        output_error(weight, expected, found.grid, hessian), rel=1e-4
    )


def test_more_columns_than_one_update_holds() -> None:
    weight, hessian = random_weight(4, 160, 5), correlated(160, 6, samples=400)
    found = solved(weight, hessian, group_size=32)
    assert torch.equal(found.codes, eliminate(weight, hessian, found.grid, list(range(160)), 0.01))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("act_order", [True, False])
@pytest.mark.parametrize("size", [1.0, 1e-3, 1e3])
def test_independent_features_are_rounded_to_nearest(
    symmetric: bool, act_order: bool, size: float
) -> None:
    weight = random_weight(8, 64, 0)
    found = solved(
        weight,
        torch.eye(64) * size,
        group_size=32,
        symmetric=symmetric,
        act_order=act_order,
        steps=20,
    )
    codes, grid = round_to_nearest(
        weight, bits=4, group_size=32, symmetric=symmetric, scale_dtype=torch.float32, steps=20
    )
    assert torch.equal(found.grid.scale, grid.scale)
    assert torch.equal(found.codes, codes)


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("act_order", [True, False])
def test_outputs_change_less_than_by_rounding_to_nearest(bits: int, act_order: bool) -> None:
    mine, nearest = 0.0, 0.0
    for seed in range(12):
        weight, hessian = random_weight(8, 64, seed), correlated(64, 100 + seed)
        found = solved(weight, hessian, bits=bits, group_size=32, act_order=act_order, steps=10)
        total = float(hessian.diagonal().sum())
        error = output_error(weight, quantize(weight, found.grid), found.grid, hessian)
        assert found.error < error * 1.05  # greedy: no promise for a single case, but nearly so
        mine, nearest = mine + found.error / total, nearest + error / total
    assert mine < 0.75 * nearest


def test_activation_order_does_not_depend_on_the_stored_order() -> None:
    weight, hessian = random_weight(8, 48, 1), correlated(48, 2)
    moved = torch.randperm(48, generator=torch.Generator().manual_seed(3))
    one = solved(weight, hessian, act_order=True)
    two = solved(weight[:, moved], hessian[moved][:, moved], act_order=True)
    assert torch.equal(one.grid.scale, two.grid.scale)
    assert torch.equal(one.codes[:, moved], two.codes)
    assert one.error == pytest.approx(two.error, rel=1e-4)


def test_groups_stay_those_of_the_stored_order() -> None:
    # One group is a thousand times larger: a group of visiting order would mix the two.
    weight = random_weight(8, 64, 1)
    weight[:, 32:] *= 1000
    found = solved(weight, correlated(64, 2), group_size=32, act_order=True)
    ratio = found.grid.scale[:, 1] / found.grid.scale[:, 0]
    assert (ratio > 300).all()
    plain = fit_grid(weight, bits=4, group_size=32, symmetric=True, scale_dtype=torch.float32)
    assert torch.equal(found.grid.scale, plain.scale)


def test_the_grid_counts_features_by_their_activity() -> None:
    weight, hessian = random_weight(8, 32, 1), correlated(32, 2)
    hessian[5], hessian[:, 5] = 0.0, 0.0  # never seen: counts as an average feature
    activity = hessian.diagonal().clone()
    activity[5] = hessian.diagonal().mean()
    expected = fit_grid(
        weight,
        bits=2,
        group_size=16,
        symmetric=True,
        scale_dtype=torch.float32,
        importance=activity,
        steps=20,
    )
    found = solved(weight, hessian, bits=2, group_size=16, act_order=True, steps=20)
    assert torch.equal(found.grid.scale, expected.scale)


def test_rows_are_solved_independently() -> None:
    weight, hessian = random_weight(8, 32, 1), correlated(32, 2)
    whole = solved(weight, hessian, act_order=True, steps=5)
    parts = [solved(weight[i : i + 3], hessian, act_order=True, steps=5) for i in (0, 3, 6)]
    assert torch.equal(whole.codes, torch.cat([p.codes for p in parts]))
    assert whole.error == pytest.approx(sum(p.error for p in parts), rel=1e-4)


@pytest.mark.parametrize("factor", [4.0, 0.25])
def test_the_scale_of_the_hessian_does_not_matter(factor: float) -> None:
    weight, hessian = random_weight(8, 32, 1), correlated(32, 2)
    one, two = solved(weight, hessian, steps=5), solved(weight, hessian * factor, steps=5)
    assert torch.equal(one.codes, two.codes)
    assert two.error == pytest.approx(factor * one.error, rel=1e-4)


def test_a_hessian_of_zeros_rounds_to_nearest() -> None:
    weight = random_weight(4, 32, 1)
    found = solved(weight, torch.zeros(32, 32), act_order=True, steps=5)
    assert torch.equal(found.codes, quantize(weight, found.grid))
    assert found.error == 0.0


@pytest.mark.parametrize("act_order", [True, False])
def test_features_never_seen_are_rounded_to_nearest(act_order: bool) -> None:
    weight, hessian = random_weight(4, 32, 1), correlated(32, 2)
    dead = [0, 7, 31]
    hessian[dead], hessian[:, dead] = 0.0, 0.0
    found = solved(weight, hessian, act_order=act_order, steps=5)
    assert torch.equal(found.codes[:, dead], quantize(weight, found.grid)[:, dead])
    alive = [j for j in range(32) if j not in dead]
    assert not torch.equal(found.codes[:, alive], quantize(weight, found.grid)[:, alive])


def test_a_hessian_of_low_rank_is_solved() -> None:
    x = random_weight(3, 32, 9)  # three tokens for 32 features
    hessian = x.T @ x / 3
    found = solved(random_weight(4, 32, 1), hessian)
    weight = random_weight(4, 32, 1)
    assert found.error < output_error(weight, quantize(weight, found.grid), found.grid, hessian)


@pytest.mark.parametrize(("damping", "used"), [(0.0, 1.0), (1e-9, 1.0), (0.01, 1.0), (0.05, 0.5)])
def test_damping_grows_until_the_factor_exists(damping: float, used: float) -> None:
    # Rounding can leave a negative eigenvalue; here a tenth of the mean diagonal is not enough.
    hessian = torch.diag(torch.tensor([-0.2, 2.2, 1.0]))  # mean 1
    factor = inverse_factor(hessian, damping)
    damped = torch.linalg.inv(factor.T @ factor)
    torch.testing.assert_close(damped, hessian + used * torch.eye(3), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("damping", [0.0, 0.01, 0.05])
def test_an_indefinite_hessian_is_refused(damping: float) -> None:
    with pytest.raises(NumericsError, match="not positive definite, even with damping 1"):
        inverse_factor(torch.tensor([[1.0, 9.0], [9.0, 1.0]]), damping)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused(bad: float) -> None:
    weight, hessian = random_weight(4, 32, 1), correlated(32, 2)
    broken = hessian.clone()
    broken[2, 3] = bad
    with pytest.raises(NumericsError, match="hessian: 1 of 1024"):
        solved(weight, broken)
    weight[1, 1] = bad
    with pytest.raises(NumericsError, match="1 of 128 weights"):
        solved(weight, hessian)


@pytest.mark.parametrize("act_order", [True, False])
def test_the_weight_and_the_hessian_are_left_alone(act_order: bool) -> None:
    weight, hessian = random_weight(4, 32, 1), correlated(32, 2)
    solved(weight, hessian, act_order=act_order)
    assert torch.equal(weight, random_weight(4, 32, 1))
    assert torch.equal(hessian, correlated(32, 2))


def test_half_precision_is_widened_first() -> None:
    weight, hessian = random_weight(4, 32, 1).bfloat16(), correlated(32, 2)
    half = solved(weight, hessian, scale_dtype=torch.bfloat16)
    assert half.grid.scale.dtype == torch.bfloat16
    full = solved(weight.float(), hessian, scale_dtype=torch.bfloat16)
    assert torch.equal(half.codes, full.codes)
