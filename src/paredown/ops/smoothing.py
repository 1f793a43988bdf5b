"""Moving difficulty between a layer's inputs and its weights, without changing what it computes.

For any positive s, W x = (W diag(s)) (x / s): the weights take the factors, and whatever makes x
divides by them. These are the factors of SmoothQuant, and their exact folding into stored norms.
"""

from __future__ import annotations

import torch
from torch import Tensor

SMALLEST = 1e-5
"""Smallest magnitude that is divided by."""
LIMIT = 1e4
"""Factors stay within 1 / LIMIT and LIMIT."""


def smoothing_factors(activation: Tensor, weight: Tensor, strength: float) -> Tensor:
    """s_j = max|x_j|^strength / max|W_j|^(1 - strength).

    Args:
        activation: (inp,) largest magnitude of every input feature.
        weight: (inp,) largest magnitude of every column, over all layers that read the input.
        strength: alpha; 0 leaves the weights alike, 1 makes all activations alike.

    Source: Xiao et al. 2022, SmoothQuant (arXiv:2211.10438), eq. 4.
    """
    factors = activation.clamp(min=SMALLEST).pow(strength)
    factors = factors / weight.clamp(min=SMALLEST).pow(1.0 - strength)
    # A feature that was never seen, or that nothing reads, says nothing about its factor.
    used = (activation > 0) & (weight > 0)
    return torch.where(used, factors, 1.0).clamp(1.0 / LIMIT, LIMIT)


def divide_gain(gain: Tensor, factors: Tensor, *, offset: float) -> tuple[Tensor, Tensor]:
    """A norm's stored weight after dividing its gain by `factors`, and the factors it amounts to.

    The stored weight is rounded to its dtype; multiplying the layers' columns by the factors that
    come back, instead of those asked for, makes the change exact.

    Args:
        gain: (inp,) as stored; the norm multiplies by `gain + offset`.
        factors: (inp,) float32, positive.
        offset: 1 for Gemma's norms, else 0.

    Returns:
        new gain (inp,) in the dtype of `gain`; exact factors (inp,) float32, where they are 1 and
        the gain unchanged wherever rounding would move the gain to 0 or change its sign.
    """
    old = gain.float() + offset
    new = (old / factors - offset).to(gain.dtype)
    exact = old / (new.float() + offset)
    sound = torch.isfinite(exact) & (exact > 0)
    return torch.where(sound, new, gain), torch.where(sound, exact, 1.0)


def pool(values: Tensor, rows: Tensor, n_rows: int, how: str) -> Tensor:
    """One value per row of the producer from those of the features it makes, (n_rows,).

    Args:
        values: (inp,) per input feature.
        rows: (inp,) int64, the producer's row that makes each feature.
        how: `amax` or `mean`.
    """
    start = values.new_zeros(n_rows)
    return start.scatter_reduce(0, rows, values, reduce=how, include_self=False)
