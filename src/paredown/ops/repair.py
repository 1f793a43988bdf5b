"""Making up for removed neurons without training: least squares on calibration activations."""

from __future__ import annotations

import torch
from torch import Tensor

from paredown.errors import NumericsError

DAMPING = 1e-2
"""Share of each neuron's own mean square added to the diagonal."""
_NOISE = 1e-5
"""Share of a neuron's mean square that sums in float32 cannot tell from no variance."""


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
        damping: grows tenfold, up to 1, where the system has no Cholesky factor: little text says
            the same of many neurons, and rounding then makes their moments indefinite.

    Returns:
        W', (hidden, len(kept)) float32.

    Raises:
        NumericsError: C holds a NaN or an infinity, or is indefinite at any damping.
    """
    if not torch.isfinite(moments).all():
        raise NumericsError("the activations of an MLP are not finite on the calibration text")
    removed = torch.ones(output.shape[1], dtype=torch.bool, device=kept.device)
    removed[kept] = False
    weight = output.float()
    power = moments.diagonal()[kept]
    silent = power <= 0  # no activity: nothing to learn from these neurons
    # D^-1/2: the system gets a unit diagonal, so that damping is a share of each neuron's power.
    inverse = torch.where(silent, 0.0, power.clamp(min=0).rsqrt())
    system = moments[kept][:, kept] * inverse * inverse[:, None]
    rows = weight[:, removed] @ moments[removed][:, kept] * inverse  # W_R C_RK D^-1/2
    factor = _damped_factor(system, silent, damping)
    solved = torch.cholesky_solve(rows.T.double(), factor).T.float()
    return weight[:, kept] + solved * inverse


def centred(second: Tensor, mean: Tensor) -> Tensor:
    """Covariance E h h^T - E h E h^T, (width, width), of moments that were summed in float32.

    A neuron that hardly varies, as on text that repeats itself, leaves the difference of two equal
    numbers: rounding, of either sign, which is not its variance. It counts as constant.
    """
    found = second - torch.outer(mean, mean)
    constant = found.diagonal() <= _NOISE * second.diagonal()
    found[constant] = 0.0
    found[:, constant] = 0.0
    return found


def _damped_factor(system: Tensor, silent: Tensor, damping: float) -> Tensor:
    """Lower Cholesky factor, float64, of a matrix of unit diagonal with its diagonal damped."""
    share, wide = damping, system.double()
    while True:
        wide.diagonal().copy_(torch.where(silent, 1.0, 1.0 + share).double())
        factor, failed = torch.linalg.cholesky_ex(wide)
        if not failed:
            lower: Tensor = factor
            return lower
        if share >= 1.0:
            break
        # From 1e-6 on, or a damping of 0 would never grow.
        share = min(1.0, 10 * max(share, 1e-6))
    raise NumericsError("the activations' second moments are not positive definite")


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
