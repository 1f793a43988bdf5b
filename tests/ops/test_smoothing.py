"""Smoothing factors against a hand-worked case, and the exactness of folded gains."""

from __future__ import annotations

import pytest
import torch

from paredown.ops.smoothing import LIMIT, divide_gain, pool, smoothing_factors


def test_hand_worked_case() -> None:
    # sqrt(16 / 4) = 2, sqrt(1 / 4) = 1/2
    factors = smoothing_factors(torch.tensor([16.0, 1.0]), torch.tensor([4.0, 4.0]), 0.5)
    assert factors.tolist() == [2.0, 0.5]


def test_strength_one_makes_all_activations_alike() -> None:
    largest = torch.tensor([0.5, 3.0, 100.0])
    factors = smoothing_factors(largest, torch.tensor([1.0, 2.0, 3.0]), 1.0)
    torch.testing.assert_close(largest / factors, torch.ones(3))


def test_strength_zero_makes_all_columns_alike() -> None:
    largest = torch.tensor([0.5, 3.0, 100.0])
    factors = smoothing_factors(torch.tensor([1.0, 2.0, 3.0]), largest, 0.0)
    torch.testing.assert_close(largest * factors, torch.ones(3))


def test_features_unseen_or_unread_keep_their_scale() -> None:
    factors = smoothing_factors(torch.tensor([0.0, 5.0]), torch.tensor([5.0, 0.0]), 0.5)
    assert factors.tolist() == [1.0, 1.0]


def test_factors_are_bounded() -> None:
    factors = smoothing_factors(torch.tensor([1e9, 1e-9]), torch.tensor([1.0, 1e9]), 1.0)
    assert factors.max() <= LIMIT
    assert factors.min() >= 1 / LIMIT


@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_factors_that_come_back_are_exact(offset: float, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    gain = (torch.randn(256, generator=generator) + 1 - offset).to(dtype)
    asked = torch.rand(256, generator=generator) * 8 + 0.1
    new, exact = divide_gain(gain, asked, offset=offset)
    assert new.dtype == dtype
    product = (new.float() + offset) * exact
    torch.testing.assert_close(product, gain.float() + offset, rtol=1e-6, atol=1e-7)
    if offset == 0:
        torch.testing.assert_close(exact, asked, rtol=2**-8, atol=0)


def test_a_gain_that_would_vanish_is_left_alone() -> None:
    # 1 + w = 1/512 of a stored w = -0.998: divided by 8 it would round to -1, a gain of zero.
    gain = torch.tensor([-0.99609375, 0.0], dtype=torch.bfloat16)
    new, exact = divide_gain(gain, torch.tensor([64.0, 1.0]), offset=1.0)
    assert torch.equal(new, gain)
    assert exact.tolist() == [1.0, 1.0]
    zero, kept = divide_gain(torch.zeros(1), torch.tensor([3.0]), offset=0.0)
    assert (zero.item(), kept.item()) == (0.0, 1.0)


def test_pooling_by_row() -> None:
    values, rows = torch.tensor([1.0, 4.0, 3.0]), torch.tensor([1, 0, 1])
    assert pool(values, rows, 2, "mean").tolist() == [4.0, 2.0]
    assert pool(values, rows, 2, "amax").tolist() == [4.0, 3.0]
