"""The common road of methods that rewrite a checkpoint block by block.

Each block is loaded, changed in memory, written, and dropped. A short probe runs through the
changed blocks on the way, so that the artifact can be compared with what was meant.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from paredown.artifact.checkpoint import TORCH_DTYPES, Checkpoint, CheckpointWriter
from paredown.artifact.compressed_tensors import packed_tensors, quantization_config
from paredown.blocks.embeddings import RoundRows, quantize_embeddings
from paredown.blocks.names import module_name
from paredown.blocks.probe import probe_tokens
from paredown.blocks.walk import BlockWalk, submodule
from paredown.ops.grids import AnyGrid, dequantize
from paredown.spec.embeddings import copy_of_tied
from paredown.spec.progress import Progress
from paredown.spec.scheme import Scheme, needs_own_format
from paredown.spec.structure import Block, routers


def compute_dtype(device: str) -> torch.dtype:
    """Dtype for walking: what the device multiplies fastest without losing what is stored."""
    return torch.float32 if device == "cpu" else torch.bfloat16


def probe_walk(
    source: Checkpoint, *, device: str, trust_remote_code: bool, tokens: Tensor | None = None
) -> BlockWalk:
    """A walk over `source` with the standard probe, and calibration windows if given."""
    return BlockWalk(
        source,
        probe=probe_tokens(source.spec.vocabulary or 2),
        tokens=tokens,
        dtype=compute_dtype(device),
        device=device,
        trust_remote_code=trust_remote_code,
    )


def quantize_blocks(
    source: Checkpoint,
    out: Path,
    *,
    walk: BlockWalk,
    schemes: dict[str, Scheme],
    quantize: Callable[[Block, nn.Module, dict[str, Tensor]], dict[str, tuple[Tensor, AnyGrid]]],
    progress: Progress,
    changed: dict[str, Tensor] | None = None,
    statement: Callable[[], dict[str, Any]] | None = None,
    embeddings: RoundRows | None = None,
) -> Tensor:
    """Write `source` to `out` with its block linears packed.

    Args:
        walk: a walk over `source`, at its start.
        schemes: bits, group size and symmetry of every quantized layer, and of the embedding and
            the head if they are to be quantized; the rest is left as it is.
        quantize: (block, its module, {layer name: weight}) -> {layer name: (codes, grid)}.
        changed: where `quantize` leaves the block's other tensors that it has changed, such as
            norms, by full name; emptied as they are written.
        statement: asked at the end for what the config should say besides.
        embeddings: rounds embedding and head; None: to nearest.

    Returns:
        Logits of the quantized model on the probe, computed from the weights in memory.
    """
    chosen = set(schemes)
    with CheckpointWriter(out, source) as writer:
        # First, because the probe starts from the embedding as it is written.
        has_embeddings = quantize_embeddings(source, writer, walk, schemes, embeddings)
        for done, (block, module) in enumerate(walk):
            names = [name for name in block.linears if name in chosen]
            layers = {name: submodule(module, block, name) for name in names}
            weights = {name: layer.weight.detach() for name, layer in layers.items()}
            for name, (codes, grid) in quantize(block, module, weights).items():
                for key, value in packed_tensors(name, codes, grid).items():
                    writer.add(key, value)
                layers[name].weight.data = dequantize(codes, grid, walk.dtype)  # as written
            for key in list(changed or ()):
                writer.add(key, (changed or {}).pop(key))
            walk.advance_probe(block, module)
            progress((done + 1) / len(walk.blocks), f"block {done + 1} of {len(walk.blocks)}")
        replaced = {f"{name}.weight" for name in chosen}
        if has_embeddings and (copy := copy_of_tied(source.spec)):
            replaced.add(f"{copy}.weight")  # else loaders find the unrounded head
        writer.copy_rest(without=replaced)
        # transformers looks layers up by its own names, `read_schemes` by those in the file.
        inside = {module_name(walk.model, name): scheme for name, scheme in schemes.items()}
        ignored = [n for n in _linear_modules(walk.model) if n not in inside]
        ignored += routers(source.spec)
        writer.config["quantization_config"] = quantization_config(
            schemes | inside, ignored, own=needs_own_format(source.spec, schemes)
        )
        writer.config |= statement() if statement is not None else {}
    return walk.logits()


def _linear_modules(model: nn.Module) -> list[str]:
    return [name for name, m in model.named_modules() if isinstance(m, nn.Linear)]


def stored_dtype(source: Checkpoint) -> torch.dtype:
    """The dtype most weights of `source` are stored in; scales are stored in it too."""
    return TORCH_DTYPES[source.spec.dtype]
