"""What changing a weight matrix does to the outputs of its layer.

With H = mean x x^T over the inputs x of calibration tokens, a change E of the matrix W changes the
output by E x, and the mean of |E x|^2 is tr(E H E^T): exact for these tokens, without running
anything.

Source: Frantar et al. 2022 (arXiv:2210.17323), eq. 1, as a quadratic form; the same is eq. 20 of
Nagel et al. 2020 (arXiv:2004.10568).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_BLOCK = 192
"""Input features whose products with those before them are taken at once; affects speed only."""


@dataclass(frozen=True)
class OutputError:
    """Error of a layer's outputs on the tokens that H stands for.

    Attributes:
        squared: tr(E H E^T), the mean squared error of the output vector, >= 0; in units of the
            output squared, summed over output features.
        power: tr(W H W^T), the mean square of the output itself, in the same units.
    """

    squared: float
    power: float

    @property
    def relative(self) -> float:
        """squared / power; 0 where both are 0, infinite where only the power is."""
        if self.power > 0:
            return self.squared / self.power
        return math.inf if self.squared > 0 else 0.0

    def __add__(self, other: OutputError) -> OutputError:
        """Of two layers that read one input: their outputs are parts of one vector."""
        return OutputError(self.squared + other.squared, self.power + other.power)


def row_powers(rows: Tensor, hessian: Tensor) -> Tensor:
    """(out,): r H r^T of every row r, the mean of (r x)^2.

    Args:
        rows: (out, inp) float32: a matrix, or a change of one.
        hessian: (inp, inp) mean of x x^T, symmetric, positive semidefinite.
    """
    columns = rows.T.contiguous()  # (inp, out); free where `rows` is the transpose of such a one
    total = columns.new_zeros(columns.shape[1])
    space = columns.new_empty(_BLOCK, columns.shape[1])
    for start in range(0, len(columns), _BLOCK):
        part = slice(start, start + _BLOCK)
        here = columns[part]
        product = torch.mm(hessian[part, part], here, out=space[: len(here)])
        if start:
            # H is symmetric: what is left of its diagonal stands for what is right of it as well.
            product.addmm_(hessian[part, :start], columns[:start], alpha=2.0)
        total += product.mul_(here).sum(0)
    # Below 0 only by rounding: H is positive semidefinite up to that.
    return total.clamp_(min=0)


def output_error(weight: Tensor, changed: Tensor, hessian: Tensor) -> OutputError:
    """Of a layer whose matrix (out, inp) is `changed` in place of `weight`; see `row_powers`."""
    weight = weight.float()
    squared = float(row_powers(changed.float() - weight, hessian).sum())
    return OutputError(squared, float(row_powers(weight, hessian).sum()))
