"""AFR: removes the weights that matter least to both the MLPs' outputs and the loss."""

from __future__ import annotations

from typing import final

from paredown.methods.shared.weight_scores import FirstOrderMethod


@final
class Afr(FirstOrderMethod):
    """Zero the weights of smallest z(|w dF/dw|) + z(|w dL/dw|).

    F is the sum over all MLP matrices of the root mean square of their outputs, L the next-token
    loss; z standardises over all pruned weights of the model.
    """

    name = "afr"
    summary = "zero the weights of least first-order effect on activations and loss together"
    losses = ("frobenius", "ce")
