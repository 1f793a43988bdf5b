"""AWQ: factors on input features, chosen by calibration text, before the weights are rounded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, final

from pydantic import Field

from paredown.methods.base import Context
from paredown.methods.shared.groups import (
    GridParams,
    GroupMethod,
    hessians_on,
    schemes_of,
    solved_bytes,
)
from paredown.methods.shared.smoothing import check_folds
from paredown.spec.domain import Choice
from paredown.spec.folds import find_folds
from paredown.spec.model import ModelSpec
from paredown.spec.scheme import Scheme
from paredown.spec.target import Target

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from paredown.artifact.checkpoint import Checkpoint
    from paredown.blocks.bank import Solved
    from paredown.blocks.smoothing import Folding
    from paredown.ops.gptq import Curvature
    from paredown.ops.grids import AnyGrid
    from paredown.spec.structure import Block
    from paredown.store.cache import Cache


NUMERICS = {"rounding", "damping", "search_steps"}
"""Parameters that change what becomes of a scaled layer, besides its scheme."""


class AwqParams(GridParams):
    """Parameters of `awq`."""

    symmetric: Annotated[bool, Choice(False, True)] = False
    """Zero-point fixed at 0. Asymmetric grids store a zero-point per group as well."""
    rounding: Annotated[Literal["gptq", "nearest"], Choice("gptq", "nearest")] = "gptq"
    """How the scaled weights are rounded: `nearest` as in the paper, or each column's error made
    good by the columns after it, as in `gptq`."""
    strengths: Annotated[int, Field(ge=1, le=100)] = 20
    """How many strengths of the factors are tried for each input, besides none."""
    search_steps: Annotated[int, Field(ge=0, le=100)] = 20
    """Smaller ranges tried per group for the least error; 0 keeps the full range."""
    damping: Annotated[float, Field(gt=0, le=1)] = 0.01
    """For `gptq` rounding: share of the Hessian's mean diagonal added to its diagonal."""


@final
class Awq(GroupMethod[AwqParams]):
    """Activation-aware weight quantization, arXiv:2306.00978.

    The error that decides is that of the layers' outputs on calibration text, computed from the
    second moments of their inputs in the uncompressed model (the same that `gptq` uses).
    """

    name = "awq"
    summary = "rounding after activation-aware scaling, on calibration text, 2-8 bits"
    params_type = AwqParams
    needs_data = True

    def check(self, spec: ModelSpec, params: AwqParams, target: Target) -> None:
        super().check(spec, params, target)
        check_folds(self.name, spec, schemes_of(spec, params), "gptq")

    def disk(self, spec: ModelSpec, params: AwqParams, cache: Cache) -> tuple[int, int]:
        return 0, solved_bytes(spec, cache)

    def apply(self, source: Checkpoint, out: Path, params: AwqParams, context: Context) -> Tensor:
        from paredown.blocks.bank import LayerBank
        from paredown.blocks.embeddings import EmbeddingBank
        from paredown.blocks.experts import rare_experts
        from paredown.blocks.hessians import tensor_hash
        from paredown.blocks.rewrite import quantize_blocks, stored_dtype
        from paredown.blocks.smoothing import smooth_block

        schemes = schemes_of(source.spec, params)
        hessians = hessians_on(source, context, head=params.embedding_bits is not None)
        rounding = _Rounding(params, schemes, stored_dtype(source))
        bank = LayerBank(hessians, params.model_dump(include=NUMERICS))
        changed: dict[str, Tensor] = {}

        def quantize(
            block: Block, module: nn.Module, weights: dict[str, Tensor]
        ) -> dict[str, tuple[Tensor, AnyGrid]]:
            moments = hessians.of_block(block, module)
            scaled = {name: weight.float() for name, weight in weights.items()}
            chosen: dict[str, str] = {}  # hash of the factors on each layer's input

            def choose(folding: Folding, readers: list[Tensor]) -> Tensor:
                names = folding.fold.readers
                factors = rounding.search(folding, readers, moments[names[0]])
                shared = moments[names[0]] / factors / factors[:, None]  # those of x / s
                moments.update(dict.fromkeys(names, shared))
                chosen.update(dict.fromkeys(names, tensor_hash(factors)))
                return factors

            folds = find_folds(source.spec, block, schemes)
            changed.update(smooth_block(source, block, module, folds, scaled, choose))
            made: dict[str, tuple[Tensor, AnyGrid]] = {}
            for name, weight in scaled.items():
                made |= bank.of_layers(
                    block,
                    [name],
                    schemes[name],
                    lambda name=name: {  # type: ignore[misc]
                        name: rounding.final(name, scaled[name], moments[name])
                    },
                    content=f"{tensor_hash(weight)}:{chosen.get(name, '')}",
                )
            return made

        return quantize_blocks(
            source,
            out,
            walk=hessians.walk,
            schemes=schemes,
            quantize=quantize,
            progress=context.progress,
            changed=changed,
            # There are no experts here, but blocks that text without an image passes by.
            statement=lambda: rare_experts(hessians.rare(), schemes),
            embeddings=EmbeddingBank(hessians),
        )


class _Rounding:
    """Rounding of scaled weights: quickly while factors are searched, then for good."""

    def __init__(
        self, params: AwqParams, schemes: dict[str, Scheme], scale_dtype: torch.dtype
    ) -> None:
        self.params, self.schemes, self.scale_dtype = params, schemes, scale_dtype
        self._last: tuple[Tensor, Curvature] | None = None

    def search(self, folding: Folding, readers: list[Tensor], moments: Tensor) -> Tensor:
        """The best factors (inp,) for the layers of one fold."""
        from paredown.ops.awq import search_factors

        activity = folding.tie(moments.diagonal(), "mean").sqrt()
        found = search_factors(
            dict(zip(folding.fold.readers, readers, strict=True)),
            moments,
            activity,
            round_weights=self._nearest,
            realize=folding.realize,
            steps=self.params.strengths,
        )
        return found.factors

    def _nearest(self, name: str, weight: Tensor, importance: Tensor) -> Tensor:
        from paredown.ops.grids import dequantize, quantize

        grid = self._grid(name, weight, importance, steps=0)
        return dequantize(quantize(weight, grid), grid)

    def _grid(self, name: str, weight: Tensor, importance: Tensor, *, steps: int) -> AnyGrid:
        from paredown.ops.grids import fit

        return fit(
            weight,
            self.schemes[name],
            scale_dtype=self.scale_dtype,
            importance=importance,
            steps=steps,
        )

    def _inputs(self, moments: Tensor) -> Curvature:
        """What a solve needs of an input; its layers follow each other, and share the tensor."""
        from paredown.ops.gptq import curvature

        if self._last is None or self._last[0] is not moments:
            made = curvature(moments, act_order=True, damping=self.params.damping)
            self._last = moments, made
        return self._last[1]

    def final(self, name: str, weight: Tensor, moments: Tensor) -> Solved:
        """Codes and grid of a scaled layer, as they are stored; its error on scaled inputs, which
        is that of the layer on its own inputs (W s and x / s give W x)."""
        from paredown.blocks.bank import Solved
        from paredown.ops.awq import importance_of
        from paredown.ops.errors import output_error, row_powers
        from paredown.ops.gptq import Problem
        from paredown.ops.grids import dequantize, quantize, solve

        if self.params.rounding == "nearest":
            steps = self.params.search_steps
            grid = self._grid(name, weight, importance_of(moments.diagonal()), steps=steps)
            codes = quantize(weight, grid)
            changed = dequantize(codes, grid)
            rows = row_powers(changed - weight.float(), moments)
            return Solved(codes, grid, output_error(weight, changed, moments), rows)
        solution = solve(
            Problem(weight, self._inputs(moments)),
            self.schemes[name],
            scale_dtype=self.scale_dtype,
            steps=self.params.search_steps,
        )
        error = solution.error_of(0, len(weight))
        return Solved(solution.codes, solution.grid, error, solution.errors)
