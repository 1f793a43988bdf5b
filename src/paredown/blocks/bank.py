"""The layer bank: what each (layers, scheme) yields, computed once and cached by content.

A killed trial, a second one with the same parameters, and one whose plan differs in other layers
only all read what is there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from paredown.blocks.hessians import HessianBank
from paredown.ops.affine import Grid
from paredown.spec.scheme import Scheme
from paredown.spec.structure import Block

Layers = dict[str, tuple[Tensor, Grid]]
"""Codes and grid by layer name."""


class LayerBank:
    """Codes and grids of layers that read one input and share a scheme."""

    def __init__(self, hessians: HessianBank, params: dict[str, Any]) -> None:
        """`params`: what results depend on besides model, calibration text, layers and scheme."""
        self.hessians, self.params = hessians, params

    def of_layers(
        self, block: Block, names: list[str], scheme: Scheme, solve: Callable[[], Layers]
    ) -> Layers:
        """The stored results of these layers of a block, or those of `solve`, then stored."""
        key = {
            **self.hessians.key,
            "block": block.index,
            "params": self.params,
            "names": names,
            "scheme": [scheme.bits, scheme.group_size, scheme.symmetric],
        }
        cache = self.hessians.cache
        path = cache.get("layers", key, ".safetensors")
        if path is not None:
            return _read(load_file(path), names, scheme)
        solved = solve()
        cache.put("layers", key, ".safetensors", lambda p: save_file(_flat(solved), p))
        return solved


def _read(tensors: dict[str, Tensor], names: list[str], scheme: Scheme) -> Layers:
    found = {}
    for name in names:
        codes = tensors[f"{name}.codes"]
        group = scheme.group_width(codes.shape[1])
        grid = Grid(scheme.bits, group, tensors[f"{name}.scale"], tensors.get(f"{name}.zero"))
        found[name] = (codes, grid)
    return found


def _flat(solved: Layers) -> dict[str, Tensor]:
    tensors = {}
    for name, (codes, grid) in solved.items():
        tensors[f"{name}.codes"] = codes.contiguous()
        tensors[f"{name}.scale"] = grid.scale.contiguous()
        if grid.zero is not None:
            tensors[f"{name}.zero"] = grid.zero.contiguous()
    return tensors
