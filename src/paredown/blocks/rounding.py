"""Layers rounded by GPTQ through the bank: one solve per input and scheme, whoever asks for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache, partial

import torch
from torch import Tensor

from paredown.artifact.checkpoint import Checkpoint
from paredown.blocks.bank import LayerBank, Layers, Solved
from paredown.blocks.hessians import HessianBank
from paredown.blocks.rewrite import compute_dtype
from paredown.blocks.skeleton import read_matrix
from paredown.ops import grids
from paredown.ops.gptq import Curvature, Problem, curvature
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
        scale_dtype: torch.dtype,
        act_order: bool = True,
        damping: float = 0.01,
        steps: int = 20,
    ) -> None:
        """For the arguments see `ops.gptq`; `steps` are those of `fit_grid`. The defaults are
        those of the method `gptq`."""
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
                made |= self._of_layers(block, alike, scheme, partial(_joined, alike, inputs))
        return {name: made[name] for name in weights}

    def fill(
        self,
        block: Block,
        weights: Mapping[str, Tensor],
        schemes: Iterable[Scheme],
        moments: Callable[[], Tensor],
    ) -> dict[Scheme, Layers]:
        """All layers that read one input on each of some schemes, from one factorisation."""
        problem = cache(partial(_joined, weights, lambda: self._curvature(moments())))
        return {scheme: self._of_layers(block, weights, scheme, problem) for scheme in schemes}

    def _of_layers(
        self,
        block: Block,
        weights: Mapping[str, Tensor],
        scheme: Scheme,
        problem: Callable[[], Problem],
    ) -> Layers:
        return self.bank.of_layers(
            block, list(weights), scheme, lambda: self._solve(weights, problem(), scheme)
        )

    def _curvature(self, hessian: Tensor) -> Curvature:
        return curvature(hessian, act_order=self.act_order, damping=self.damping)

    def _solve(
        self, weights: Mapping[str, Tensor], problem: Problem, scheme: Scheme
    ) -> dict[str, Solved]:
        solution = grids.solve(problem, scheme, scale_dtype=self.scale_dtype, steps=self.steps)
        start, found = 0, {}
        for name, weight in weights.items():
            stop = start + len(weight)
            part = solution.grid.rows(slice(start, stop))
            codes = solution.codes[start:stop].contiguous()
            rows = solution.errors[start:stop]
            found[name] = Solved(codes, part, solution.error_of(start, stop), rows)
            start = stop
        return found


def _joined(weights: Mapping[str, Tensor], inputs: Callable[[], Curvature]) -> Problem:
    """Layers that read the same input as one matrix: rows are independent."""
    return Problem(torch.cat(list(weights.values())), inputs())


class PlanRounding:
    """Rounds layers by a plan: each on its own scheme, whatever its siblings have.

    Rows are independent only up to the last bit of a product, which depends on what is stacked. So
    a scheme is solved for all layers of an input that a plan may round: the codes of a layer do
    not depend on the plan of its siblings, and are those that a uniform `gptq` leaves in the bank.
    """

    def __init__(self, source: Checkpoint, rounding: GptqRounding, names: Iterable[str]) -> None:
        """`names`: the block linears that plans may round."""
        self.source, self.rounding, self.names = source, rounding, frozenset(names)

    def groups(self, block: Block, layers: Iterable[str]) -> list[list[str]]:
        """The layers of a block that are solved together, as far as they hold one of `layers`."""
        mine = [name for name in block.linears if name in self.names]
        groups = self.rounding.hessians.sharing(block, mine)
        return [group for group in groups if not set(group).isdisjoint(layers)]

    def fill(
        self,
        block: Block,
        group: list[str],
        schemes: Iterable[Scheme],
        moments: Callable[[], Mapping[str, Tensor]] | None = None,
    ) -> dict[Scheme, Layers]:
        """A whole group on each of some schemes.

        Args:
            moments: of the block's inputs by layer name; None: those that are kept.
        """
        hessians = self.rounding.hessians
        device = hessians.walk.device
        found = moments or (lambda: hessians.of_kept_block(block))
        weights = {
            name: read_matrix(self.source, name).to(device, compute_dtype(device)) for name in group
        }
        return self.rounding.fill(block, weights, schemes, lambda: found()[group[0]])

    def rounded(
        self,
        block: Block,
        schemes: Mapping[str, Scheme],
        moments: Callable[[], Mapping[str, Tensor]] | None = None,
    ) -> Layers:
        """Codes and grids of those layers of a block that have a scheme."""
        made: Layers = {}
        for group in self.groups(block, schemes):
            wanted = dict.fromkeys(schemes[name] for name in group if name in schemes)
            every = self.fill(block, group, wanted, moments)
            made |= {name: every[schemes[name]][name] for name in group if name in schemes}
        return made
