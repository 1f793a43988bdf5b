"""Cutting one expert out of a tensor that holds all of a block, and joining them again."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from paredown.spec.experts import Slice


def cut_out(matrix: Tensor, cut: Slice) -> Tensor:
    """The slice (rows, columns) or (rows,) from what is stored of its expert."""
    rows = matrix.T if cut.transposed else matrix
    if cut.interleaved:
        return rows[cut.part :: cut.parts].contiguous()
    return rows.chunk(cut.parts)[cut.part].contiguous()


def join(slices: Mapping[Slice, Tensor]) -> Tensor:
    """The stored tensor (experts, ...) of all its slices: the reverse of `cut_out`."""
    experts: dict[int, list[Tensor]] = {}
    for cut in sorted(slices, key=lambda cut: (cut.expert, cut.part)):
        experts.setdefault(cut.expert, []).append(slices[cut])
    one = next(iter(slices))
    joined = [
        torch.stack(parts, dim=1).flatten(0, 1) if one.interleaved else torch.cat(parts)
        for parts in experts.values()
    ]
    return torch.stack([rows.T if one.transposed else rows for rows in joined]).contiguous()
