"""How one weight matrix is quantized."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Scheme:
    """An integer grid. `group_size` -1 = one group per row."""

    bits: int
    group_size: int
    symmetric: bool

    def group_width(self, width: int) -> int:
        """Input features per group in a matrix of `width` input features."""
        return self.group_size if self.group_size > 0 else width
