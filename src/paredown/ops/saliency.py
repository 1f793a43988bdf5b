"""Scores of MLP neurons, how they are compared, and the choice of which to keep.

A neuron's weights are a row of every input matrix (gate and up, or fc1) and a column of the
output matrix; h_i is its activation, the input of the output matrix.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

CLIP = 10.0
"""Robust standard scores beyond this count as this."""
_NORMAL = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""


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


def wanda_sp_scores(output: Tensor, second_moment: Tensor) -> Tensor:
    """||W_d[:, i]|| sqrt(E h_i^2): (width,) float32. Source: arXiv:2306.11695, by neuron.

    Args:
        output: (hidden, width).
        second_moment: E h^2, (width,).
    """
    norms: Tensor = torch.linalg.vector_norm(output.float(), dim=0)
    return norms * second_moment.sqrt()


def flap_scores(output: Tensor, second_moment: Tensor, mean: Tensor) -> Tensor:
    """Var(h_i) ||W_d[:, i]||^2: (width,) float32. Source: arXiv:2312.11983, WIFV.

    Args:
        output: (hidden, width).
        second_moment: E h^2, (width,).
        mean: E h, (width,).
    """
    variance = (second_moment - mean.square()).clamp(min=0)  # < 0 only by rounding
    return variance * output.float().square().sum(0)


def trimmed_means(values: Tensor, share: float = 0.02) -> Tensor:
    """|mean| of each column without the share `share` of its largest and of its smallest values.

    Args:
        values: (rows, width), any float dtype.

    Returns:
        (width,) float32.
    """
    cut = math.floor(share * len(values))
    ordered = values.float().sort(dim=0).values
    return ordered[cut : len(values) - cut].mean(0).abs()


def standardised(scores: list[Tensor], *, robust: bool = False) -> list[Tensor]:
    """Scores of several layers in units of their common spread: mean 0, deviation 1 over all.

    Args:
        scores: (width,) per layer; widths may differ.
        robust: (v - median) / (1.4826 MAD), clipped at +-CLIP, instead.

    Returns:
        (width,) float32 per layer; zeros where all scores are equal.
    """
    every = torch.cat([s.float() for s in scores])
    smallest = torch.finfo(every.dtype).tiny
    if robust:
        middle = every.median()
        spread = _NORMAL * (every - middle).abs().median()
        values = ((every - middle) / spread.clamp(min=smallest)).clamp(-CLIP, CLIP)
    else:
        values = (every - every.mean()) / every.std(correction=0).clamp(min=smallest)
    return list(values.split([len(s) for s in scores]))


def afr_scores(
    outputs: list[Tensor], loss: list[Tensor], *, beta: float = 1.0, robust: bool = False
) -> list[Tensor]:
    """z(FO) + beta z(SNIP), each standardised over all layers: (width,) float32 per layer.

    Args:
        outputs: FO, (width,) per layer: first-order importance for the norms of MLP outputs.
        loss: SNIP, (width,) per layer: that for the cross-entropy.
    """
    both = standardised(outputs, robust=robust), standardised(loss, robust=robust)
    return [o + beta * s for o, s in zip(*both, strict=True)]


def strongest(scores: Tensor, count: int) -> Tensor:
    """Indices of the `count` largest scores, in rising order; ties keep the lower index."""
    order = torch.argsort(scores, descending=True, stable=True)
    return order[:count].sort().values


def shared_widths(scores: list[Tensor], budget: int, *, multiple: int, least: int) -> list[int]:
    """Widths per layer that keep the largest sum of scores with `budget` neurons in all.

    Neurons come in runs of `multiple`, strongest first within a layer, so the best runs of all
    layers together are the optimum. Ties go to the earlier layer.

    Args:
        scores: (width,) per layer, comparable between layers.
        budget: neurons kept in all; a multiple of `multiple`, and enough for `least` everywhere.
        multiple: every width is a multiple of this.
        least: smallest width of a layer; a multiple of `multiple`.

    Raises:
        ValueError: the budget is no multiple, or below `least` everywhere, or above what is there.
    """
    runs = []
    for layer, values in enumerate(scores):
        ordered = values.float().sort(descending=True).values
        whole = len(values) // multiple
        sums = ordered[: whole * multiple].double().reshape(whole, multiple).sum(1).tolist()
        # Sums fall within a layer, so the best runs of all layers are the first ones of each; those
        # that `least` keeps are not up for choice. Negated: sorted() rises, ties by layer.
        runs += [(-total, layer) for total in sums[least // multiple :]]
    wanted, odd = divmod(budget - least * len(scores), multiple)
    if odd or not 0 <= wanted <= len(runs):
        raise ValueError(f"{budget} neurons cannot be shared out in runs of {multiple}")
    widths = [least] * len(scores)
    for _, layer in sorted(runs)[:wanted]:
        widths[layer] += multiple
    return widths
