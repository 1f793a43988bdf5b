"""ReFer: removes the weights that matter least to the singular values of the MLPs' outputs."""

from __future__ import annotations

from typing import final

from paredown.methods.shared.weight_scores import FirstOrderMethod


@final
class ReferSvd(FirstOrderMethod):
    """Zero the weights of smallest mean |w dF/dw|, F the mean singular value of MLP outputs.

    F is summed over the outputs of all MLP matrices, each a matrix with one row per window of a
    batch. It needs no labels.
    """

    name = "refer_svd"
    summary = "zero the weights of least first-order effect on singular values of MLP outputs"
    losses = ("nuclear",)
