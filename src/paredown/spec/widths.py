"""How a model folder says that its MLPs differ in width."""

from __future__ import annotations

from paredown.spec.model import ModelSpec

FIELD = "mlp_widths"
"""Config field: widths of the MLPs in block order; there only where they are unequal."""


def unequal_widths(spec: ModelSpec) -> tuple[int, ...]:
    """The widths of the model's MLPs, rising, if there are several; else nothing."""
    widths = sorted({mlp.width for mlp in spec.structure.mlps})
    return tuple(widths) if len(widths) > 1 else ()
