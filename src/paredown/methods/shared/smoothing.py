"""What methods that move factors between norms and layers have in common."""

from __future__ import annotations

from collections.abc import Collection

from paredown.errors import ConfigError
from paredown.spec.folds import GAIN_OFFSET, find_folds
from paredown.spec.model import ModelSpec


def check_folds(name: str, spec: ModelSpec, chosen: Collection[str], instead: str) -> None:
    """Refuse models in which no factor can move.

    Raises:
        ConfigError: an unknown family, or no layer left that something can be folded into.
    """
    if spec.text_type not in GAIN_OFFSET:
        raise ConfigError(
            f"{name}: between which layers of {spec.text_type} factors can move is not known; use "
            f"{instead}"
        )
    if not any(find_folds(spec, block, chosen) for block in spec.structure.blocks):
        raise ConfigError(
            f"{name}: no norm or layer is left that factors can move into; use {instead}, or "
            "leave fewer layers out"
        )
