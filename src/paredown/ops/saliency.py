"""Scores of MLP neurons that need no data, and the choice of which to keep."""

from __future__ import annotations

import torch
from torch import Tensor


def l2_scores(inputs: list[Tensor], output: Tensor) -> Tensor:
    """L2 norm of all weights of each neuron: (width,) float32.

    Args:
        inputs: matrices (width, hidden) whose rows belong to neurons (gate and up, or fc1).
        output: matrix (hidden, width) whose columns belong to neurons.
    """
    total = output.float().square().sum(0)
    for matrix in inputs:
        total = total + matrix.float().square().sum(1)
    return total.sqrt()


def random_scores(width: int, seed: int) -> Tensor:
    """Uniform scores: (width,) float32."""
    return torch.rand(width, generator=torch.Generator().manual_seed(seed))


def strongest(scores: Tensor, count: int) -> Tensor:
    """Indices of the `count` largest scores, in rising order; ties keep the lower index."""
    order = torch.argsort(scores, descending=True, stable=True)
    return order[:count].sort().values
