"""The road of methods that set single weights to zero, block by block."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from paredown.artifact.checkpoint import Checkpoint, CheckpointWriter
from paredown.artifact.sparse import sparse_tensors, state
from paredown.blocks.skeleton import as_stored, read_matrix
from paredown.blocks.walk import BlockWalk, submodule
from paredown.ops.affine import require_finite
from paredown.spec.progress import Progress
from paredown.spec.structure import Block

Masked = dict[str, tuple[Tensor, Tensor]]
"""By layer name: weights (out, inp), and what is removed of them, (out, inp) bool."""


def mask_blocks(
    source: Checkpoint,
    out: Path,
    *,
    walk: BlockWalk,
    layers: tuple[str, ...],
    mask: Callable[[Block, nn.Module, dict[str, Tensor]], Masked],
    sparse: bool,
    progress: Progress,
    statement: Callable[[], dict[str, Any]] | None = None,
) -> Tensor:
    """Write `source` to `out` with weights of `layers` set to zero.

    Args:
        walk: a walk over `source`, at its start.
        layers: linears to mask; the rest is left as it is.
        mask: (block, its module, {layer name: weight (out, inp) in the stored dtype}) -> new
            weights and masks; called for every block, with none where it has none of `layers`.
        sparse: store the layers as bitmask and values.
        statement: asked at the end for what the config should say besides.

    Returns:
        Logits of the masked model on the probe, computed from the weights in memory.

    Raises:
        NumericsError: a layer holds a NaN or an infinity, which no score can order.
    """
    zeros: dict[str, int] = {}
    weights = 0
    with CheckpointWriter(out, source) as writer:
        for done, (block, module) in enumerate(walk):
            names = [name for name in block.linears if name in layers]
            stored = {n: read_matrix(source, n).to(walk.device) for n in names}
            for name, weight in stored.items():
                require_finite(weight, name)
            for name, (weight, removed) in mask(block, module, stored).items():
                masked = weight.to(stored[name].dtype).masked_fill(removed, 0)
                if sparse:
                    for key, value in sparse_tensors(name, masked, removed).items():
                        writer.add(key, value)
                else:
                    writer.add(f"{name}.weight", as_stored(source, name, masked))
                submodule(module, block, name).weight.data = masked.to(walk.dtype)
                zeros[name], weights = int(removed.sum()), weights + removed.numel()
            walk.advance_probe(block, module)
            progress((done + 1) / len(walk.blocks), f"block {done + 1} of {len(walk.blocks)}")
        writer.copy_rest(without=set())
        state(writer.config, sparse=sparse, layers=zeros, weights=weights)
        writer.config |= statement() if statement is not None else {}
    return walk.logits()
