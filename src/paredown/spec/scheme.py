"""How weight matrices are quantized, and which formats can say so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from paredown.spec.embeddings import packable_embeddings
from paredown.spec.layers import LayerOption, grid_option
from paredown.spec.model import ModelSpec
from paredown.spec.structure import is_expert, uses_conv1d


@dataclass(frozen=True, order=True)
class Scheme:
    """An integer grid. `group_size` -1 = one group per row."""

    bits: int
    group_size: int
    symmetric: bool

    def group_width(self, width: int) -> int:
        """Input features per group in a matrix of `width` input features."""
        return self.group_size if self.group_size > 0 else width

    def option(self, scale_dtype: str) -> LayerOption:
        """What a layer on this grid is stored as, its scales in `scale_dtype`."""
        return grid_option(
            self.bits, self.group_size, symmetric=self.symmetric, scale_dtype=scale_dtype
        )


def needs_own_format(spec: ModelSpec, schemes: Mapping[str, Scheme]) -> bool:
    """Whether only `paredown.load` would read a model whose layers, by name, have these schemes.

    Plain transformers knows packed `Linear` layers, not embeddings or Conv1D; and it unpacks all
    experts by one symmetric scheme, whatever the config says of single ones.
    """
    if uses_conv1d(spec) or any(name in schemes for name in packable_embeddings(spec)):
        return True
    experts = [name for name in spec.structure.linears if is_expert(name)]
    uneven = len(set(schemes.values())) > 1 or any(name not in schemes for name in experts)
    symmetric = all(scheme.symmetric for scheme in schemes.values())
    return bool(experts) and (uneven or not symmetric)
