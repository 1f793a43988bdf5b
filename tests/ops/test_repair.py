"""Repair by least squares: closed form, torch's own solver, limits, edges."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from paredown.errors import NumericsError
from paredown.ops.repair import bias_for_mean, centred, least_squares

KEPT = torch.tensor([0, 2, 3, 5])
REMOVED = torch.tensor([1, 4])


def activations(tokens: int = 200, seed: int = 0) -> Tensor:
    """(tokens, 6), correlated, of very different sizes, with a mean."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(tokens, 6, generator=generator) @ torch.randn(6, 6, generator=generator)
    return (mixed + 1) * torch.tensor([0.1, 1.0, 30.0, 1.0, 2.0, 0.5])


def weights(seed: int = 1) -> Tensor:
    return torch.randn(4, 6, generator=torch.Generator().manual_seed(seed))


def moments(h: Tensor) -> Tensor:
    return h.T @ h / len(h)


def test_hand_worked_case() -> None:
    # h_1 = 2 h_0 always: neuron 0 takes over twice the weight of neuron 1.
    second = torch.tensor([[1.0, 2.0], [2.0, 4.0]])
    found = least_squares(torch.tensor([[3.0, 5.0]]), second, torch.tensor([0]), damping=0)
    assert found.tolist() == [[13.0]]


def test_penalty_hand_worked() -> None:
    second = torch.tensor([[1.0, 2.0], [2.0, 4.0]])
    found = least_squares(torch.tensor([[3.0, 5.0]]), second, torch.tensor([0]), damping=1.0)
    assert found.tolist() == [[8.0]]  # 3 + 5 * 2 / (1 + 1)


def test_without_a_penalty_it_is_the_least_squares_solution() -> None:
    h, w = activations(), weights()
    found = least_squares(w, moments(h), KEPT, damping=0)
    slow = torch.linalg.lstsq(h[:, KEPT].double(), (h @ w.T).double()).solution.T.float()
    torch.testing.assert_close(found, slow, rtol=1e-3, atol=1e-3)


def test_with_a_penalty_it_is_the_closed_form() -> None:
    h, w = activations(), weights()
    second = moments(h).double()
    penalty = torch.diag(0.05 * second[KEPT, KEPT])
    system = second[KEPT][:, KEPT] + penalty
    extra = w[:, REMOVED].double() @ second[REMOVED][:, KEPT] @ torch.linalg.inv(system)
    found = least_squares(w, second.float(), KEPT, damping=0.05)
    torch.testing.assert_close(found, (w[:, KEPT] + extra).float(), rtol=1e-3, atol=1e-4)


def test_no_other_matrix_comes_closer() -> None:
    h, w = activations(), weights()
    found = least_squares(w, moments(h), KEPT, damping=0)

    def error(candidate: Tensor) -> float:
        return float((h @ w.T - h[:, KEPT] @ candidate.T).square().mean())

    generator = torch.Generator().manual_seed(2)
    for _ in range(20):
        other = found + 1e-2 * torch.randn(found.shape, generator=generator)
        assert error(other) > error(found)
    assert error(found) < error(w[:, KEPT])


def test_removing_nothing_changes_nothing() -> None:
    w = weights()
    found = least_squares(w, moments(activations()), torch.arange(6))
    assert torch.equal(found, w)


def test_unrelated_neurons_keep_their_weights() -> None:
    w = weights()
    second = torch.diag(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]))
    assert torch.equal(least_squares(w, second, KEPT), w[:, KEPT])


def test_silent_neurons_keep_their_weights() -> None:
    h, w = activations(), weights()
    h[:, 3] = 0.0
    found = least_squares(w, moments(h), KEPT)
    assert torch.equal(found[:, 2], w[:, 3])
    assert torch.isfinite(found).all()


def test_the_size_of_a_neuron_does_not_matter() -> None:
    """Ten times the activation with a tenth of the weight is the same neuron."""
    h, w = activations(), weights()
    size = torch.tensor([10.0, 1.0, 0.1, 1.0, 5.0, 1.0])
    found = least_squares(w / size, moments(h * size), KEPT) * size[KEPT]
    torch.testing.assert_close(found, least_squares(w, moments(h), KEPT), rtol=1e-3, atol=1e-3)


def test_half_precision_weights_are_widened() -> None:
    w = weights().bfloat16()
    found = least_squares(w, moments(activations()), KEPT)
    assert found.dtype == torch.float32
    assert torch.equal(found, least_squares(w.float(), moments(activations()), KEPT))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_activations_that_are_not_finite_are_refused(bad: float) -> None:
    second = moments(activations())
    second[0, 1] = bad
    with pytest.raises(NumericsError, match="not finite"):
        least_squares(weights(), second, KEPT)


def test_bias_is_the_removed_neurons_mean_contribution() -> None:
    h, w = activations(), weights()
    found = bias_for_mean(w, h.mean(0), KEPT, w[:, KEPT])
    torch.testing.assert_close(found, w[:, REMOVED] @ h[:, REMOVED].mean(0), rtol=1e-4, atol=1e-4)


def test_bias_and_centred_repair_are_the_affine_fit() -> None:
    h, w = activations(), weights()
    mean = h.mean(0)
    centred = moments(h) - torch.outer(mean, mean)
    repaired = least_squares(w, centred, KEPT, damping=0)
    bias = bias_for_mean(w, mean, KEPT, repaired)
    design = torch.cat((h[:, KEPT], torch.ones(len(h), 1)), dim=1).double()
    slow = torch.linalg.lstsq(design, (h @ w.T).double()).solution.T.float()
    torch.testing.assert_close(repaired, slow[:, :-1], rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(bias, slow[:, -1], rtol=1e-2, atol=1e-2)


def test_indefinite_moments_are_damped_more_where_little_text_says_little() -> None:
    """What rounding in float32 makes of the moments of neurons that always fire together."""
    second = torch.eye(6) * 0.5 + 0.5
    second[2, 3] = second[3, 2] = 1.2  # no covariance can be that large; at 1 % it is indefinite
    found = least_squares(weights(), second, KEPT, damping=0.01)
    assert torch.equal(found, least_squares(weights(), second, KEPT, damping=1.0))
    assert found.isfinite().all()


def test_moments_that_are_none_are_refused() -> None:
    second = torch.eye(6)
    second[2, 3] = second[3, 2] = 5.0
    with pytest.raises(NumericsError, match="not positive definite"):
        least_squares(weights(), second, KEPT)


def test_a_neuron_that_does_not_vary_has_no_variance_of_rounding() -> None:
    """On text that repeats itself, E h^2 - (E h)^2 is rounding: of either sign, and of no meaning.

    Without `centred`, such neurons made the system indefinite at any damping.
    """
    h = activations(50)
    h[:, [2, 4]] = torch.tensor([3.3, 1e3])  # constant
    second, mean = torch.zeros(6, 6), torch.zeros(6)
    for row in h:
        second += torch.outer(row, row) / len(h)
        mean += row / len(h)
    assert float((second - torch.outer(mean, mean)).diagonal()[[2, 4]].abs().max()) > 0
    found = centred(second, mean)
    assert found[2].tolist() == found[:, 4].tolist() == [0.0] * 6
    slow = torch.cov(h.T.double(), correction=0)
    torch.testing.assert_close(found.double(), slow, rtol=1e-3, atol=1e-3 * float(slow.max()))
    repaired = least_squares(weights(), found, KEPT)
    assert torch.equal(repaired[:, 1], weights()[:, 2])  # the constant one learns nothing
