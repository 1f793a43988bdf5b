"""How weight matrices are quantized, and which formats can say so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from paredown.spec.embeddings import packable_embeddings
from paredown.spec.experts import is_sliced
from paredown.spec.layers import Format, LayerOption, grid_option, superblock_option
from paredown.spec.model import ModelSpec
from paredown.spec.structure import is_expert, uses_conv1d

HALF_BITS = 11
"""Significant bits of a half-precision number."""


class GridKind(StrEnum):
    """What the scales of an integer grid may be."""

    AFFINE = "affine"
    """Any number of their dtype, one per group."""
    SHORT = "short"
    """Of so few significant bits that a scale times any zero-point is a half-precision number:
    the minimum of a group, as Q4_1 and Q5_1 of llama.cpp store it, is then exact."""
    SUPERBLOCK = "k"
    """Integers under one half-precision number per 256 inputs: llama.cpp's K-types."""


@dataclass(frozen=True, order=True)
class Scheme:
    """An integer grid. `group_size` -1 = one group per row."""

    bits: int
    group_size: int
    symmetric: bool
    kind: GridKind = GridKind.AFFINE

    @classmethod
    def superblock(cls, bits: int) -> Self:
        """The two-level grid of a width."""
        return cls.of(superblock_option(bits))

    @classmethod
    def of(cls, option: LayerOption) -> Self:
        """What a layer that is stored as an option of integer grids is on."""
        kind = GridKind.AFFINE if option.scale_bits is None else GridKind.SHORT
        if option.format is Format.SUPERBLOCK:
            kind = GridKind.SUPERBLOCK
        return cls(option.bits, option.group_size, option.symmetric, kind)

    @property
    def key(self) -> list[object]:
        """What tells it from others in the keys of caches."""
        plain: list[object] = [self.bits, self.group_size, self.symmetric]
        return plain if self.kind is GridKind.AFFINE else [*plain, self.kind.value]

    @property
    def effective_bits(self) -> float:
        """Bits of a symmetric grid whose steps are about as fine.

        The range of a group of 16 to 64 normal numbers is 2**-0.2 of twice the largest of them.
        """
        return self.bits if self.symmetric else self.bits + 0.2

    @property
    def scale_bits(self) -> int | None:
        """Significant bits of a scale, at most; None: as many as its dtype has."""
        # A minimum is a scale times an integer of `bits` bits.
        return HALF_BITS - self.bits if self.kind is GridKind.SHORT else None

    def group_width(self, width: int) -> int:
        """Input features per group in a matrix of `width` input features."""
        return self.group_size if self.group_size > 0 else width

    def option(self, scale_dtype: str) -> LayerOption:
        """What a layer on this grid is stored as, its scales in `scale_dtype`."""
        if self.kind is GridKind.SUPERBLOCK:
            return superblock_option(self.bits)
        return grid_option(
            self.bits,
            self.group_size,
            symmetric=self.symmetric,
            scale_dtype=scale_dtype,
            scale_bits=self.scale_bits,
        )


def needs_own_format(spec: ModelSpec, schemes: Mapping[str, Scheme]) -> bool:
    """Whether only `paredown.load` would read a model whose layers, by name, have these schemes.

    Plain transformers knows packed `Linear` layers on affine grids, not embeddings or Conv1D; and
    it unpacks all experts by one symmetric scheme, whatever the config says of single ones.
    """
    if any(scheme.kind is GridKind.SUPERBLOCK for scheme in schemes.values()):
        return True
    if uses_conv1d(spec) or any(name in schemes for name in packable_embeddings(spec)):
        return True
    if any(is_sliced(name, spec.text_type) for name in schemes):
        return True  # transformers looks for one tensor
    experts = [name for name in spec.structure.linears if is_expert(name)]
    uneven = len(set(schemes.values())) > 1 or any(name not in schemes for name in experts)
    symmetric = all(scheme.symmetric for scheme in schemes.values())
    return bool(experts) and (uneven or not symmetric)
