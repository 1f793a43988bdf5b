"""Losses against closed forms, autograd through singular values, and their edges."""

from __future__ import annotations

import math

import pytest
import torch

from paredown.errors import NumericsError
from paredown.ops.losses import frobenius_loss, next_token_loss, nuclear_loss


def outputs(samples: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(samples, 5, 7, generator=generator, dtype=torch.float64).float()


def gradient(loss: object, value: torch.Tensor) -> torch.Tensor:
    leaf = value.clone().requires_grad_()
    (found,) = torch.autograd.grad(loss(leaf), leaf)  # type: ignore[operator]
    return found


def test_next_token_loss_of_even_logits_is_the_log_of_the_vocabulary() -> None:
    total = next_token_loss(torch.zeros(3, 8), torch.tensor([0, 5, 7]))
    assert math.isclose(total.item(), 3 * math.log(8), rel_tol=1e-6)


def test_next_token_loss_widens_half_precision() -> None:
    logits = torch.tensor([[300.0, 0.0]], dtype=torch.float16)
    assert next_token_loss(logits, torch.tensor([1])).item() == 300.0


def test_frobenius_hand_worked() -> None:
    # Samples [3, 4] and [0, 0]: norms 5 and 0, two numbers each.
    value = frobenius_loss(torch.tensor([[[3.0, 4.0]], [[0.0, 0.0]]]))
    assert math.isclose(value.item(), 5 / math.sqrt(2), rel_tol=1e-6)


def test_frobenius_of_samples_adds_up() -> None:
    value = outputs(3)
    alone = sum(frobenius_loss(value[i : i + 1]) for i in range(3))
    torch.testing.assert_close(frobenius_loss(value), alone)


def test_frobenius_gradient_of_silence_is_zero() -> None:
    assert torch.equal(gradient(frobenius_loss, torch.zeros(2, 3, 4)), torch.zeros(2, 3, 4))


def test_nuclear_is_the_mean_singular_value() -> None:
    value = outputs(4)
    expected = torch.linalg.svdvals(value.flatten(1)).mean()
    torch.testing.assert_close(nuclear_loss(value), expected)


def test_nuclear_of_one_sample_is_the_frobenius_norm() -> None:
    value = outputs(1)
    torch.testing.assert_close(nuclear_loss(value), torch.linalg.vector_norm(value))


def test_nuclear_gradient_is_that_of_the_singular_values() -> None:
    value = outputs(4)
    slow = gradient(lambda y: torch.linalg.svdvals(y.flatten(1)).mean(), value)
    torch.testing.assert_close(gradient(nuclear_loss, value), slow)
    u, _, vh = torch.linalg.svd(value.flatten(1), full_matrices=False)
    torch.testing.assert_close(slow.flatten(1), u @ vh / 4, rtol=1e-4, atol=1e-5)


def test_nuclear_gradient_of_equal_and_silent_samples_is_finite() -> None:
    value = torch.cat((outputs(1), outputs(1), torch.zeros(1, 5, 7)))
    found = gradient(nuclear_loss, value)
    row = outputs(1)[0] / torch.linalg.vector_norm(outputs(1)) / math.sqrt(2) / 3
    torch.testing.assert_close(found, torch.stack((row, row, torch.zeros(5, 7))))
    assert torch.equal(gradient(nuclear_loss, torch.zeros(2, 3, 4)), torch.zeros(2, 3, 4))


def test_singular_values_that_cannot_be_computed_are_an_error_of_the_method(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(matrix: torch.Tensor) -> None:
        raise torch.linalg.LinAlgError("failed to converge")  # type: ignore[attr-defined]

    monkeypatch.setattr(torch.linalg, "eigh", fails)
    with pytest.raises(NumericsError, match=r"singular values.*failed to converge.*other text"):
        nuclear_loss(torch.randn(3, 8))


def test_nuclear_of_outputs_that_are_not_finite_is_refused() -> None:
    value = outputs(2)
    value[0, 1, 2] = float("nan")
    with pytest.raises(NumericsError, match="not finite"):
        nuclear_loss(value)
