"""Scalar losses whose gradients score weights and neurons."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from paredown.errors import NumericsError

_SMALLEST = 1e-12
"""Eigenvalues of Y Y^T below this share of the largest count as zero."""


def next_token_loss(logits: Tensor, following: Tensor) -> Tensor:
    """Sum of the cross-entropies of each position's next token, in nats.

    Args:
        logits: (tokens, vocabulary), any float dtype; computed in float32.
        following: (tokens,) int64 ids that the logits should have predicted.
    """
    return torch.nn.functional.cross_entropy(logits.float(), following, reduction="sum")


def frobenius_loss(outputs: Tensor) -> Tensor:
    """Sum over samples of ||Y_s||_F / sqrt(numel Y_s), the root mean square of a layer's output.

    Args:
        outputs: (samples, ...), any float dtype; computed in float32.
    """
    rows = outputs.float().flatten(1)
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1)
    return norms.sum() / math.sqrt(rows.shape[1])


def nuclear_loss(outputs: Tensor) -> Tensor:
    """||Y||_* / min(dims) of the matrix with one row per sample: its mean singular value.

    For one sample it is the Frobenius norm. The gradient is U V^T / min(dims) on the singular
    vectors that are there (the subgradient of least norm).

    Args:
        outputs: (samples, ...), any float dtype; fewer samples than elements each.

    Raises:
        NumericsError: an output is NaN or infinite, or its singular values cannot be computed.
    """
    found: Tensor = _Nuclear.apply(outputs.float().flatten(1))  # type: ignore[no-untyped-call]
    return found


class _Nuclear(torch.autograd.Function):
    """By way of the small matrix Y Y^T, in float64 because squaring doubles the digits needed."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        wide = rows.double()
        gram = wide @ wide.T  # (samples, samples), however wide the outputs are
        if not torch.isfinite(gram).all():
            raise NumericsError("a layer's outputs are not finite on the calibration text")
        try:
            values, vectors = torch.linalg.eigh(gram)
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
            raise NumericsError(
                f"the singular values of a layer's outputs cannot be computed ({error}); calibrate "
                "with other text, or use a method without singular values, such as structured_afr"
            ) from error
        # Rounding leaves tiny eigenvalues where Y has no direction; 1 / singular would blow them
        # up.
        present = values > _SMALLEST * values[-1]
        singular = values.clamp(min=0).sqrt()
        inverse = torch.where(present, 1 / singular, 0.0)
        polar = (vectors * inverse) @ vectors.T  # (Y Y^T)^(-1/2), so that polar Y = U V^T
        ctx.save_for_backward(rows, polar.to(rows.dtype))
        found: Tensor = singular.sum() / len(rows)
        return found.to(rows.dtype)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Tensor:
        rows, polar = ctx.saved_tensors
        found: Tensor = upstream[0] / len(rows) * (polar @ rows)
        return found
