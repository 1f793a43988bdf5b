"""Layers rounded by GPTQ through the bank: one solve per input and scheme, whoever asks for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

import torch
from torch import Tensor

from paredown.blocks.bank import LayerBank, Layers, Solved
from paredown.blocks.hessians import HessianBank
from paredown.ops import gptq
from paredown.ops.affine import Grid
from paredown.ops.gptq import Curvature, curvature
from paredown.spec.scheme import Scheme
from paredown.spec.structure import Block


class GptqRounding:
    """Rounds the layers of a block that share an input and a scheme as one matrix.

    The bank keeps them under their names, scheme and numerics, so a trial of `gptq` and a plan of
    `mixed` that want the same codes compute them once between them.
    """

    def __init__(
        self,
        hessians: HessianBank,
        *,
        act_order: bool,
        damping: float,
        steps: int,
        scale_dtype: torch.dtype,
    ) -> None:
        """For the arguments see `ops.gptq`; `steps` are those of `fit_grid`."""
        numerics = {"act_order": act_order, "damping": damping, "search_steps": steps}
        self.hessians, self.bank = hessians, LayerBank(hessians, numerics)
        self.act_order, self.damping = act_order, damping
        self.steps, self.scale_dtype = steps, scale_dtype

    def layers(
        self,
        block: Block,
        weights: Mapping[str, Tensor],
        schemes: Mapping[str, Scheme],
        moments: Callable[[], Mapping[str, Tensor]],
    ) -> Layers:
        """Codes and grids of some layers of a block.

        Args:
            weights: (out, inp) by layer name.
            schemes: of each of them, at least.
            moments: second moments of their inputs, by layer name; asked once, when first needed.
        """
        made: Layers = {}
        found = cache(moments)
        for names in self.hessians.sharing(block, list(weights)):
            # Shared by all schemes of an input: half of the time of a solve is this.
            inputs = cache(lambda first=names[0]: self._curvature(found()[first]))
            for scheme in dict.fromkeys(schemes[name] for name in names):
                alike = {name: weights[name] for name in names if schemes[name] == scheme}
                made |= self.bank.of_layers(
                    block,
                    list(alike),
                    scheme,
                    lambda alike=alike, scheme=scheme, inputs=inputs: self.solve_together(  # type: ignore[misc]
                        alike, inputs(), scheme
                    ),
                )
        return {name: made[name] for name in weights}

    def _curvature(self, hessian: Tensor) -> Curvature:
        return curvature(hessian, act_order=self.act_order, damping=self.damping)

    def solve_together(
        self, weights: Mapping[str, Tensor], inputs: Curvature, scheme: Scheme
    ) -> dict[str, Solved]:
        """Layers that read the same input, solved as one matrix: rows are independent."""
        stacked = torch.cat(list(weights.values()))
        solution = gptq.solve(
            stacked,
            inputs,
            bits=scheme.bits,
            group_size=scheme.group_width(stacked.shape[1]),
            symmetric=scheme.symmetric,
            scale_dtype=self.scale_dtype,
            steps=self.steps,
        )
        grid, start, found = solution.grid, 0, {}
        for name, weight in weights.items():
            stop = start + len(weight)
            zero = None if grid.zero is None else grid.zero[start:stop]
            part = Grid(grid.bits, grid.group_size, grid.scale[start:stop].contiguous(), zero)
            codes = solution.codes[start:stop].contiguous()
            rows = solution.errors[start:stop]
            found[name] = Solved(codes, part, solution.error_of(start, stop), rows)
            start = stop
        return found
