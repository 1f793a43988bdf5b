"""Which groups of input features a layer can best do without."""

from __future__ import annotations

import torch
from torch import Tensor

from paredown.errors import NumericsError
from paredown.ops.repair import DAMPING, least_squares


def weakest_groups(weight: Tensor, moments: Tensor, groups: Tensor, count: int) -> list[int]:
    """Groups of columns to remove, one after the other, so that the output changes least.

    The error that is left when group g is removed and the other columns are fitted again is

        E_g = tr(W_g ([C^-1]_gg)^-1 W_g^T)

    with C damped as in `repair.least_squares`. The group of least error goes, W is fitted again,
    and so on.

    Args:
        weight: W, (out, inp).
        moments: C = E x x^T, (inp, inp) float32.
        groups: (inp,) int64: the group of each column.
        count: groups to remove, fewer than there are.

    Returns:
        Numbers of the groups that go, in the order in which they go.

    Raises:
        NumericsError: C holds a NaN or an infinity.

    Source: Optimal Brain Surgeon for groups of weights (arXiv:2203.07259), on a layer's output.
    """
    if not torch.isfinite(moments).all():
        raise NumericsError("what the heads say is not finite on the calibration text")
    # float64: C is inverted, and then blocks of its inverse once more.
    moments = moments.double()
    # A feature never seen gets a variance, so that C has an inverse; its group's error is 0.
    variance = moments.diagonal()
    floor = 1e-12 * variance.mean().clamp(min=1e-30)
    damped = moments + torch.diag(DAMPING * variance + torch.where(variance > 0, 0.0, floor))
    gone: list[int] = []
    left = torch.arange(len(groups), device=groups.device)
    for _ in range(count):
        fitted = weight.float() if not gone else least_squares(weight, moments.float(), left)
        # Of what is left: features that are gone can make up for nothing.
        inverse = torch.linalg.inv(damped[left][:, left])
        errors = {}
        for group in groups[left].unique().tolist():
            here = torch.nonzero(groups[left] == group)[:, 0]
            part = fitted[:, here].double()
            errors[group] = float((part @ torch.linalg.inv(inverse[here][:, here]) * part).sum())
        gone.append(min(errors, key=errors.__getitem__))
        left = torch.nonzero(
            torch.isin(groups, torch.tensor(gone, device=groups.device), invert=True)
        )[:, 0]
    return gone
