"""Removes whole blocks: the ones that change their input least."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, final

from pydantic import Field

from paredown.errors import ConfigError
from paredown.methods.base import Context, Kind, Method
from paredown.methods.shared.samples import SampledParams, counted_once
from paredown.spec.depth import without_blocks
from paredown.spec.domain import Choice
from paredown.spec.model import ModelSpec, tensor_info
from paredown.spec.structure import fused_experts
from paredown.spec.target import Target

if TYPE_CHECKING:
    from torch import Tensor

    from paredown.artifact.checkpoint import Checkpoint
    from paredown.blocks.walk import BlockWalk
    from paredown.spec.progress import Progress


class DepthParams(SampledParams):
    """Parameters of `depth`."""

    ratio: Annotated[float, Field(gt=0, lt=1), Choice(0.1, 0.2, 0.3)] = 0.1
    """Share of the blocks that is removed; their number is rounded, and at least 1."""


@final
class Depth(Method[DepthParams]):
    """Remove the blocks of least influence 1 - cos(input, output), arXiv:2403.03853."""

    name = "depth"
    kind = Kind.PRUNING
    summary = "remove the blocks that change their input least; faster everywhere"
    params_type = DepthParams
    needs_data = True

    def check(self, spec: ModelSpec, params: DepthParams, target: Target) -> None:
        blocks = spec.structure.blocks
        if fused := fused_experts(spec):
            raise ConfigError(
                f"{spec.architecture}: {fused[0]} holds all experts of a block in one tensor, "
                "which is not read yet; only experts stored one by one are"
            )
        if len({block.prefix.rpartition(".")[0] for block in blocks}) != 1:
            raise ConfigError(f"{spec.architecture}: no single stack of blocks was found")
        n = _dropped(spec, params)
        if n >= len(blocks):
            raise ConfigError(
                f"ratio = {params.ratio:g} would remove all {len(blocks)} blocks; use a ratio "
                f"below {1 - 0.5 / len(blocks):.3g}"
            )
        parts: dict[str, set[tuple[str, tuple[int, ...]]]] = {b.prefix: set() for b in blocks}
        for tensor in spec.tensors:
            for prefix, found in parts.items():
                if tensor.name.startswith(f"{prefix}."):
                    found.add((tensor.name.removeprefix(prefix), tensor.shape))
        if len({frozenset(found) for found in parts.values()}) > 1:
            raise ConfigError(
                f"{spec.architecture}: its blocks differ in their tensors, so what is left cannot "
                "be told beforehand; put depth before steps that give blocks different widths, or "
                "use a method that keeps all blocks"
            )

    def predict(self, spec: ModelSpec, params: DepthParams) -> ModelSpec:
        n = _dropped(spec, params)
        blocks = spec.structure.blocks
        names = without_blocks(spec.by_name, blocks, [block.index for block in blocks[:n]])
        stored = ((new, spec.by_name[old]) for old, new in names.items())
        tensors = [tensor_info(new, t.dtype, t.shape) for new, t in stored]
        gone = sum(t.numel for t in spec.tensors) - sum(t.numel for t in tensors)
        return spec.with_tensors(
            tensors,
            layers=len(blocks) - n,
            parameters=spec.parameters - gone,
            active_parameters=spec.active_parameters - gone,
        )

    def apply(self, source: Checkpoint, out: Path, params: DepthParams, context: Context) -> Tensor:
        from paredown.blocks.depth import drop_blocks
        from paredown.blocks.rewrite import probe_walk

        found = _influences(source, params, context)
        weakest = sorted(found, key=found.__getitem__)[: _dropped(source.spec, params)]
        return drop_blocks(
            source,
            out,
            walk=probe_walk(
                source, device=context.device, trust_remote_code=context.trust_remote_code
            ),
            dropped=weakest,
            progress=lambda share, message: context.progress(0.5 + share / 2, message),
            trust_remote_code=context.trust_remote_code,
        )


def _dropped(spec: ModelSpec, params: DepthParams) -> int:
    return max(1, round(len(spec.structure.blocks) * params.ratio))


def _influences(source: Checkpoint, params: DepthParams, context: Context) -> dict[int, float]:
    """Block influence by block index; measured once for a model and a calibration text."""
    from paredown.blocks.depth import influences
    from paredown.store.content import code

    def measure(walk: BlockWalk, tell: Progress, path: Path) -> None:
        path.write_text(json.dumps(influences(walk, tell)))

    path = counted_once(
        source, context, params.nsamples, kind="influence", version=code(2), suffix=".json",
        measure=measure,
    )  # fmt: skip
    return {int(index): value for index, value in json.loads(path.read_text()).items()}
