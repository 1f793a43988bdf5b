"""Errors of outputs: a hand-worked case, and the outputs themselves."""

from __future__ import annotations

import math

import pytest
import torch

from paredown.ops.errors import OutputError, output_error, row_powers


def test_hand_worked_case() -> None:
    # E = (0.5, -1), H = [[2, 1], [1, 3]]: E H E^T = 0.5 - 2 x 0.5 + 3 = 2.5.
    # W = (1, 2): W H W^T = 2 + 2 x 2 + 12 = 18. The second row does not change: 2.
    weight = torch.tensor([[1.0, 2.0], [1.0, 0.0]])
    changed = torch.tensor([[1.5, 1.0], [1.0, 0.0]])
    found = output_error(weight, changed, torch.tensor([[2.0, 1.0], [1.0, 3.0]]))
    assert found == OutputError(squared=2.5, power=20.0)
    assert found.relative == 0.125


@pytest.mark.parametrize("width", [24, 192, 500])
def test_it_is_the_mean_squared_error_of_the_outputs(width: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, width, generator=generator)
    x = x @ torch.randn(width, width, generator=generator)
    weight, changed = torch.randn(2, 16, width, generator=generator)
    found = output_error(weight, changed, x.T @ x / len(x))
    outputs, others = x @ weight.T, x @ changed.T
    assert found.squared == pytest.approx(float((others - outputs).square().sum(1).mean()), 1e-4)
    assert found.power == pytest.approx(float(outputs.square().sum(1).mean()), 1e-4)


def test_half_precision_is_widened_first() -> None:
    weight = torch.randn(4, 8, generator=torch.Generator().manual_seed(1)).bfloat16()
    found = output_error(weight, weight * 1.5, torch.eye(8))
    assert found.relative == pytest.approx(0.25, rel=1e-2)


def test_rounding_makes_no_error_negative() -> None:
    hessian = torch.tensor([[1.0, 1.0], [1.0, 1.0 - 1e-6]])  # indefinite by rounding
    assert row_powers(torch.tensor([[1.0, -1.0]]), hessian).tolist() == [0.0]


def test_layers_of_one_input_add_up() -> None:
    both = OutputError(1.0, 4.0) + OutputError(2.0, 8.0)
    assert both == OutputError(3.0, 12.0)
    assert both.relative == 0.25


def test_relative_where_there_is_no_output() -> None:
    assert OutputError(0.0, 0.0).relative == 0.0
    assert OutputError(1.0, 0.0).relative == math.inf
