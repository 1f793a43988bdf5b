"""The search for factors against hand-worked errors, brute force, and its own bounds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from paredown.ops.affine import dequantize, fit_grid, quantize
from paredown.ops.awq import factors_of, importance_of, output_error, search_factors


def to_integers(name: str, weight: Tensor, importance: Tensor) -> Tensor:
    return weight.round()


def in_groups(name: str, weight: Tensor, importance: Tensor) -> Tensor:
    grid = fit_grid(
        weight, bits=3, group_size=16, symmetric=True, scale_dtype=torch.float32,
        importance=importance,
    )  # fmt: skip
    return dequantize(quantize(weight, grid), grid)


def outliers() -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Two layers, and inputs (512, 64) of which a few features are large."""
    generator = torch.Generator().manual_seed(0)
    weights = {n: torch.randn(24, 64, generator=generator) for n in ("a", "b")}
    x = torch.randn(512, 64, generator=generator)
    x[:, ::16] *= 30
    return weights, x, x.T @ x / len(x)


def test_factors_hand_worked() -> None:
    # activity^(1/2) = 2, 8; divided by sqrt(16) = 4
    assert factors_of(torch.tensor([4.0, 64.0]), 0.5).tolist() == [0.5, 2.0]
    assert factors_of(torch.tensor([4.0, 64.0]), 0.0).tolist() == [1.0, 1.0]


def test_error_hand_worked() -> None:
    # 0.4 -> 0: error 0.4^2 * 9 = 1.44. Scaled by 2: 0.8 -> 1, back 0.5: 0.1^2 * 9 = 0.09.
    weights, moments = {"a": torch.tensor([[0.4]])}, torch.tensor([[9.0]])
    plain = output_error(weights, moments, torch.tensor([1.0]), to_integers)
    scaled = output_error(weights, moments, torch.tensor([2.0]), to_integers)
    assert (plain, scaled) == pytest.approx((1.44, 0.09), rel=1e-5)


def test_error_is_that_of_the_outputs() -> None:
    weights, x, moments = outliers()
    factors = torch.rand(64, generator=torch.Generator().manual_seed(1)) + 0.5
    importance = importance_of(moments.diagonal() / factors.square())
    slow = sum(
        float(((x / factors) @ in_groups(n, w * factors, importance).T - x @ w.T).square().sum())
        / len(x)
        for n, w in weights.items()
    )
    assert output_error(weights, moments, factors, in_groups) == pytest.approx(slow, rel=1e-3)


def test_search_finds_the_best_strength() -> None:
    weights, _, moments = outliers()
    activity = moments.diagonal().sqrt()
    found = search_factors(
        weights, moments, activity, round_weights=in_groups, realize=lambda f: f, steps=10
    )
    errors = [
        output_error(weights, moments, factors_of(activity, i / 10), in_groups) for i in range(11)
    ]
    assert found.error == pytest.approx(min(errors))
    assert found.plain == pytest.approx(errors[0])
    assert found.strength == errors.index(min(errors)) / 10
    assert found.error < 0.7 * found.plain
    torch.testing.assert_close(found.factors, factors_of(activity, found.strength))


def test_factors_are_those_that_can_be_realized() -> None:
    weights, _, moments = outliers()
    found = search_factors(
        weights,
        moments,
        moments.diagonal().sqrt(),
        round_weights=in_groups,
        realize=lambda f: f.log2().round().exp2(),
        steps=10,
    )
    assert torch.equal(found.factors.log2(), found.factors.log2().round())


def test_no_factors_where_none_help() -> None:
    weights = {"a": torch.eye(16).round()}
    found = search_factors(
        weights,
        torch.eye(16),
        torch.arange(1.0, 17.0),
        round_weights=to_integers,
        realize=lambda f: f,
        steps=4,
    )
    assert found.strength == 0
    assert torch.equal(found.factors, torch.ones(16))


def test_unseen_features_count_as_the_mean() -> None:
    assert importance_of(torch.tensor([0.0, 2.0, 4.0])).tolist() == [2.0, 2.0, 4.0]


def test_rounding_is_told_what_matters_in_the_scaled_input() -> None:
    """x / s has the mean square H_jj / s_j^2."""
    seen: list[list[float]] = []

    def note(name: str, weight: Tensor, importance: Tensor) -> Tensor:
        seen.append(importance.tolist())
        return weight

    moments, factors = torch.diag(torch.tensor([4.0, 9.0])), torch.tensor([2.0, 0.5])
    assert output_error({"a": torch.ones(1, 2)}, moments, factors, note) == 0
    assert seen == [[1.0, 36.0]]
