"""SparseGPT against closed forms and a slow version that inverts every Hessian it needs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from paredown.errors import NumericsError
from paredown.ops.masks import smallest_of_groups, smallest_of_layer
from paredown.ops.sparsegpt import solve

TINY = 1e-8
"""Damping that changes nothing visible."""


@pytest.fixture
def weight() -> Tensor:
    return torch.randn(12, 24, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def hessian() -> Tensor:
    x = torch.randn(200, 24, generator=torch.Generator().manual_seed(1))
    x = x @ torch.randn(24, 24, generator=torch.Generator().manual_seed(2))  # correlated
    return x.T @ x / 200


def output_error(change: Tensor, hessian: Tensor) -> float:
    return float(((change @ hessian) * change).sum())


def slow(
    weight: Tensor, hessian: Tensor, choose: Callable[[int, Tensor, Tensor], object]
) -> Tensor:
    """Algorithm 1 in float64: a new inverse for the columns that are left, at every column."""
    work, h = weight.double().clone(), hessian.double()
    removed = torch.zeros_like(work, dtype=torch.bool)
    for j in range(work.shape[1]):
        choose(j, work, removed)
        inverse = torch.linalg.inv(h[j:, j:])
        lost = torch.where(removed[:, j], work[:, j], 0.0)
        work[:, j:] -= torch.outer(lost / inverse[0, 0], inverse[0])
    return work.masked_fill(removed, 0.0)


def scores(work: Tensor, hessian: Tensor, columns: range) -> Tensor:
    """w^2 / [H^-1]_jj, where each column's H is that of it and all later columns."""
    h = hessian.double()
    return torch.stack([work[:, j] ** 2 / torch.linalg.inv(h[j:, j:])[0, 0] for j in columns], 1)


def test_one_removed_column_is_the_optimal_brain_surgeon(weight: Tensor, hessian: Tensor) -> None:
    mask = torch.zeros_like(weight, dtype=torch.bool)
    mask[:, 0] = True
    found, _ = solve(weight, hessian, mask=mask, damping=TINY)
    inverse = torch.linalg.inv(hessian.double())
    expected = weight - torch.outer(weight[:, 0], (inverse[0] / inverse[0, 0]).float())
    torch.testing.assert_close(found, expected.masked_fill(mask, 0), rtol=1e-3, atol=1e-3)
    left = output_error(found - weight, hessian)
    assert left == pytest.approx(float((weight[:, 0] ** 2).sum() / inverse[0, 0]), rel=1e-3)


def test_last_column_has_nothing_to_correct(weight: Tensor, hessian: Tensor) -> None:
    mask = torch.zeros_like(weight, dtype=torch.bool)
    mask[:, -1] = True
    found, removed = solve(weight, hessian, mask=mask)
    assert torch.equal(found, weight.masked_fill(mask, 0))
    assert torch.equal(removed, mask)


def test_shares_agree_with_the_slow_version(weight: Tensor, hessian: Tensor) -> None:
    def choose(j: int, work: Tensor, removed: Tensor) -> None:
        if j == 0:
            removed |= smallest_of_layer(scores(work, hessian, range(24)), 144)

    found, removed = solve(weight, hessian, removed=144, damping=TINY)
    expected = slow(weight, hessian, choose).float()
    assert torch.equal(removed, expected == 0)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_groups_agree_with_the_slow_version(weight: Tensor, hessian: Tensor) -> None:
    """Each group is chosen among weights that carry the corrections of the groups before."""

    def choose(j: int, work: Tensor, removed: Tensor) -> None:
        if j % 4 == 0:
            here = scores(work, hessian, range(j, j + 4))
            removed[:, j : j + 4] = smallest_of_groups(here, 4, 2)

    found, removed = solve(weight, hessian, group=(2, 4), damping=TINY)
    expected = slow(weight, hessian, choose).float()
    assert torch.equal(removed, expected == 0)
    assert (removed.reshape(-1, 4).sum(1) == 2).all()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("removed", [1, 144, 287])
def test_error_is_less_than_that_of_the_mask_alone(
    weight: Tensor, hessian: Tensor, removed: int
) -> None:
    found, mask = solve(weight, hessian, removed=removed)
    assert int(mask.sum()) == removed
    assert (found[mask] == 0).all()
    alone = weight.masked_fill(mask, 0)
    assert output_error(found - weight, hessian) < output_error(alone - weight, hessian)


def test_blocks_of_columns_make_no_difference_but_to_the_choice() -> None:
    """300 columns are three blocks; what one removes, the next ones correct."""
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(6, 300, generator=generator)
    x = torch.randn(900, 300, generator=generator) + torch.randn(900, 1, generator=generator)
    hessian = x.T @ x / 900
    found, mask = solve(weight, hessian, removed=901)
    assert [int(part.sum()) for part in mask.split(128, dim=1)] == [384, 384, 133]
    expected = slow(weight, hessian, lambda j, work, removed: removed.copy_(mask)).float()
    torch.testing.assert_close(found, expected, rtol=0.1, atol=0.05)  # damped by 1 %


def test_a_given_mask_is_left_alone(weight: Tensor, hessian: Tensor) -> None:
    mask = torch.zeros_like(weight, dtype=torch.bool)
    before = weight.clone()
    found, _ = solve(weight, hessian, mask=mask)
    assert torch.equal(found, before)
    assert torch.equal(weight, before)
    assert not mask.any()


def test_features_never_seen_go_first() -> None:
    weight = torch.linspace(0.5, 1.5, 6 * 24).reshape(6, 24)
    hessian = torch.eye(24)
    hessian[5, 5] = 0.0
    _, mask = solve(weight, hessian, removed=6)
    assert mask[:, 5].all()


def test_non_finite_weights_are_refused(weight: Tensor, hessian: Tensor) -> None:
    weight[3, 5] = float("nan")
    with pytest.raises(NumericsError, match="not finite"):
        solve(weight, hessian, removed=3)
