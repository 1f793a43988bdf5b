"""SNIP: removes the weights whose loss changes least when they go, to first order."""

from __future__ import annotations

from typing import final

from paredown.methods.shared.weight_scores import FirstOrderMethod


@final
class Snip(FirstOrderMethod):
    """Zero the weights of smallest mean |w dL/dw|, L the next-token loss of a calibration window.

    Source: arXiv:1810.02340, eq. 5, on a trained model, with labels shifted and all tokens scored.
    """

    name = "snip"
    summary = "zero the weights of least first-order effect on the next-token loss"
    losses = ("ce",)
