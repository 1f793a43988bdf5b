"""Making up for removed neurons without training: least squares on calibration activations."""

from __future__ import annotations

import torch
from torch import Tensor

from paredown.errors import NumericsError

DAMPING = 1e-2
"""Share of each neuron's own mean square added to the diagonal."""


def least_squares(
    output: Tensor, moments: Tensor, kept: Tensor, *, damping: float = DAMPING
) -> Tensor:
    """Output matrix on the kept neurons K that comes closest to the whole one.

    The removed neurons R are predicted from the kept ones:

        W' = W[:, K] + W[:, R] C[R, K] (C[K, K] + damping diag C[K, K])^-1

    which for damping 0 is the minimiser of E ||W h - W' h_K||^2, that is W C[:, K] C[K, K]^-1.
    The penalty pulls towards the weights as they are, not towards zero, and is relative to each
    neuron's own size: a few neurons with activations a thousand times the others' would otherwise
    decide it for all.

    Args:
        output: W, (hidden, width).
        moments: C = E h h^T, (width, width) float32; centred if a bias takes up the mean.
        kept: indices K, rising.

    Returns:
        W', (hidden, len(kept)) float32.

    Raises:
        NumericsError: C holds a NaN or an infinity.
    """
    if not torch.isfinite(moments).all():
        raise NumericsError("the activations of an MLP are not finite on the calibration text")
    removed = torch.ones(output.shape[1], dtype=torch.bool, device=kept.device)
    removed[kept] = False
    weight = output.float()
    scale = moments.diagonal()[kept].sqrt()
    silent = scale == 0  # no activity: nothing to learn from these neurons
    inverse = torch.where(silent, 0.0, 1 / scale)
    system = moments[kept][:, kept] * inverse * inverse[:, None]
    system.diagonal().copy_(torch.where(silent, 1.0, 1.0 + damping))
    rows = weight[:, removed] @ moments[removed][:, kept] * inverse  # W_R C_RK D^-1/2
    factor, failed = torch.linalg.cholesky_ex(system.double())
    if failed:
        raise NumericsError("the activations' second moments are not positive definite")
    solved = torch.cholesky_solve(rows.T.double(), factor).T.float()
    return weight[:, kept] + solved * inverse


def bias_for_mean(output: Tensor, mean: Tensor, kept: Tensor, repaired: Tensor) -> Tensor:
    """Bias that restores the mean output: W E[h] - W' E[h_K], (hidden,) float32.

    For W' = W[:, K] it is W[:, R] E[h_R], the compensation of FLAP (arXiv:2312.11983, eq. 6).

    Args:
        output: W, (hidden, width).
        mean: E h, (width,).
        kept: indices K.
        repaired: W', (hidden, len(kept)).
    """
    return output.float() @ mean - repaired.float() @ mean[kept]
