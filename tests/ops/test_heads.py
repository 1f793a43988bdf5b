"""The order in which groups of features go, against errors that are computed by refitting."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from paredown.errors import NumericsError
from paredown.ops.heads import weakest_groups
from paredown.ops.repair import least_squares


def drawn(seed: int) -> tuple[Tensor, Tensor]:
    """A weight and the second moments of strongly correlated inputs."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(300, 5, generator=generator) @ torch.randn(5, 12, generator=generator)
    x += 0.3 * torch.randn(300, 12, generator=generator)
    return torch.randn(10, 12, generator=generator), x.T @ x / 300


GROUPS = torch.arange(6).repeat_interleave(2)


def left_over(weight: Tensor, moments: Tensor, gone: list[int]) -> float:
    """The error of the best fit without some groups, from its definition (with the damping)."""
    damped = moments + torch.diag(0.01 * moments.diagonal())
    kept = torch.nonzero(~torch.isin(GROUPS, torch.tensor(gone)))[:, 0]
    change = weight.clone()
    change[:, kept] -= least_squares(weight, moments, kept)
    return float((change @ damped * change).sum())


@pytest.mark.parametrize("seed", range(6))
def test_each_is_the_one_that_refitting_replaces_best(seed: int) -> None:
    weight, moments = drawn(seed)
    found = weakest_groups(weight, moments, GROUPS, 5)
    for i in range(5):
        errors = {
            group: left_over(weight, moments, [*found[:i], group])
            for group in range(6)
            if group not in found[:i]
        }
        assert found[i] == min(errors, key=errors.__getitem__)


def test_a_copied_group_can_go_though_its_weights_are_large() -> None:
    """Group 2 repeats group 1, so either replaces the other; group 0 is small but alone."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(400, 6, generator=generator)
    x[:, 4:] = x[:, 2:4]
    weight = torch.randn(5, 6, generator=generator)
    weight[:, :2] *= 0.5
    weight[:, 2:] *= 3
    groups = torch.arange(3).repeat_interleave(2)
    assert weakest_groups(weight, x.T @ x / 400, groups, 1)[0] in {1, 2}


def test_moments_that_are_not_finite_are_refused() -> None:
    weight, moments = drawn(0)
    moments[2, 3] = torch.inf
    with pytest.raises(NumericsError, match="not finite on the calibration text"):
        weakest_groups(weight, moments, GROUPS, 2)


def test_features_never_seen_go_first() -> None:
    weight, moments = drawn(0)
    moments[6:8], moments[:, 6:8] = 0, 0
    assert weakest_groups(weight, moments, GROUPS, 2)[0] == 3
