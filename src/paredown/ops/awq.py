"""AWQ: factors on input features that make rounding hurt the layers' outputs least.

Source: Lin et al. 2023 (arXiv:2306.00978), eq. 4 and 5. The outputs' error is computed exactly
from the second moments of the input, H = mean x x^T: sum over rows of dw H dw^T.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from paredown.ops.errors import row_powers
from paredown.ops.smoothing import LIMIT

Round = Callable[[str, Tensor, Tensor], Tensor]
"""(layer, weights (out, inp), importance (inp,)) -> the weights after rounding, (out, inp)."""


@dataclass(frozen=True)
class Found:
    """The best factors.

    Attributes:
        factors: (inp,) float32, positive.
        strength: the alpha they come from; 0 means all ones.
        error: mean squared error of the layers' outputs with them, summed over output features.
        plain: the same without factors.
    """

    factors: Tensor
    strength: float
    error: float
    plain: float


def factors_of(activity: Tensor, strength: float) -> Tensor:
    """activity^strength, scaled so that its smallest and its largest are equally far from 1.

    Args:
        activity: (inp,) root mean square of every input feature.
    """
    powered = activity.float().clamp(min=1e-8).pow(strength)
    powered = powered / (powered.max() * powered.min()).sqrt()
    return powered.clamp(1.0 / LIMIT, LIMIT)


def search_factors(
    weights: dict[str, Tensor],
    moments: Tensor,
    activity: Tensor,
    *,
    round_weights: Round,
    realize: Callable[[Tensor], Tensor],
    steps: int,
) -> Found:
    """Try no factors and `steps` strengths up to 1; keep the ones with the least output error.

    Args:
        weights: of all layers that read the input, by name, each (out, inp) float32.
        moments: (inp, inp) mean of x x^T.
        activity: (inp,) see `factors_of`; features that must share a factor have the same value.
        round_weights: rounding of one matrix, as it will be stored.
        realize: the factors that whatever makes x can take, near those asked for.
    """
    ones = torch.ones_like(activity)
    plain = output_error(weights, moments, ones, round_weights)
    best = Found(ones, 0.0, plain, plain)
    for i in range(1, steps + 1):
        factors = realize(factors_of(activity, i / steps))
        # Judged with the factors that can be stored, not with those asked for.
        error = output_error(weights, moments, factors, round_weights)
        if error < best.error:
            best = Found(factors, i / steps, error, plain)
    return best


def output_error(
    weights: dict[str, Tensor], moments: Tensor, factors: Tensor, round_weights: Round
) -> float:
    """sum of dw H dw^T, where dw is what rounding W diag(s) does to W."""
    # The layer reads x / s from now on: mean squares H_jj / s_j^2.
    importance = importance_of(moments.diagonal() / factors.square())
    total = 0.0
    for name, weight in weights.items():
        # Eq. 4: W diag(s) is what is rounded; without its s it stands for W again.
        delta = round_weights(name, weight * factors, importance) / factors - weight
        total += float(row_powers(delta, moments).sum())
    return total


def importance_of(diagonal: Tensor) -> Tensor:
    """Weight of each input feature's error: its mean square; one never seen counts as the mean."""
    return torch.where(diagonal > 0, diagonal, diagonal.mean()).clamp(min=1e-12)
