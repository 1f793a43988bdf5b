"""GPTQ: rounding that keeps each layer's outputs, on calibration text."""

from __future__ import annotations

from functools import cache
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
from paredown.spec.domain import Choice

if TYPE_CHECKING:
    from torch import Tensor, nn

    from paredown.artifact.checkpoint import Checkpoint
    from paredown.ops.grids import AnyGrid
    from paredown.spec.model import ModelSpec
    from paredown.spec.structure import Block
    from paredown.store.cache import Cache


NUMERICS = {"act_order", "damping", "search_steps"}
"""Parameters that change a layer's result, besides its scheme."""


class GptqParams(GridParams):
    """Parameters of `gptq`."""

    act_order: Annotated[bool, Choice(True, False)] = True
    """Visit input features by falling activity. Groups stay in stored order."""
    damping: Annotated[float, Field(gt=0, le=1)] = 0.01
    """Share of the Hessian's mean diagonal added to its diagonal."""
    search_steps: Annotated[int, Field(ge=0, le=100)] = 20
    """Smaller ranges tried per group for the least error; 0 keeps the full range."""
    rare_experts: Literal["rtn", "fail"] = "rtn"
    """What becomes of experts that fewer than 32 calibration tokens are routed to: `rtn` rounds
    them to nearest, and the artifact names them; `fail` ends the trial with the first."""


@final
class Gptq(GroupMethod[GptqParams]):
    """Second-order rounding, arXiv:2210.17323.

    The Hessians are those of the uncompressed model's activations, so they depend on model and
    calibration text alone: they are computed once and shared by all trials, whatever their bits.
    """

    name = "gptq"
    summary = "second-order rounding on calibration text, 2-8 bits"
    params_type = GptqParams
    needs_data = True

    def disk(self, spec: ModelSpec, params: GptqParams, cache: Cache) -> tuple[int, int]:
        return 0, solved_bytes(spec, cache)

    def apply(self, source: Checkpoint, out: Path, params: GptqParams, context: Context) -> Tensor:
        from paredown.blocks.embeddings import EmbeddingBank
        from paredown.blocks.experts import rare_experts
        from paredown.blocks.rewrite import quantize_blocks, stored_dtype
        from paredown.blocks.rounding import GptqRounding

        schemes = schemes_of(source.spec, params)
        hessians = hessians_on(source, context, head=params.embedding_bits is not None)
        rounding = GptqRounding(
            hessians,
            act_order=params.act_order,
            damping=params.damping,
            steps=params.search_steps,
            scale_dtype=stored_dtype(source),
        )

        def quantize(
            block: Block, module: nn.Module, weights: dict[str, Tensor]
        ) -> dict[str, tuple[Tensor, AnyGrid]]:
            found = cache(lambda: hessians.of_block(block, module))
            if hessians.walk.hidden:  # the calibration states have to pass in any case
                found()
            if params.rare_experts == "fail":
                hessians.require_tokens(block, weights)
            return rounding.layers(block, weights, schemes, found)

        return quantize_blocks(
            source,
            out,
            walk=hessians.walk,
            schemes=schemes,
            quantize=quantize,
            progress=context.progress,
            statement=lambda: rare_experts(hessians.rare(), schemes),
            embeddings=EmbeddingBank(hessians),
        )
