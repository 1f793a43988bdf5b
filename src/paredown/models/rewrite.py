"""The common road of methods that rewrite a checkpoint block by block.

Each block is loaded, changed in memory, written, and dropped. A short probe runs through the
changed blocks on the way, so that the artifact can be compared with what was meant.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from paredown.models.checkpoint import TORCH_DTYPES, Checkpoint, CheckpointWriter
from paredown.models.compressed_tensors import packed_tensors, quantization_config
from paredown.models.embeddings import quantize_embeddings
from paredown.models.probe import probe_tokens
from paredown.models.walk import BlockWalk, submodule
from paredown.ops.affine import Grid, dequantize, require_finite
from paredown.spec.embeddings import copy_of_tied
from paredown.spec.scheme import Scheme
from paredown.spec.structure import Block

Progress = Callable[[float, str], None]


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
    quantize: Callable[[Block, nn.Module, dict[str, Tensor]], dict[str, tuple[Tensor, Grid]]],
    progress: Progress,
) -> Tensor:
    """Write `source` to `out` with its block linears packed.

    Args:
        walk: a walk over `source`, at its start.
        schemes: bits, group size and symmetry of every quantized layer, and of the embedding and
            the head if they are to be quantized (to nearest); the rest is left as it is.
        quantize: (block, its module, {layer name: weight}) -> {layer name: (codes, grid)}.

    Returns:
        Logits of the quantized model on the probe, computed from the weights in memory.
    """
    chosen = set(schemes)
    with CheckpointWriter(out, source) as writer:
        own = quantize_embeddings(source, writer, walk, schemes)
        for done, (block, module) in enumerate(walk):
            names = [name for name in block.linears if name in chosen]
            layers = {name: submodule(module, block, name) for name in names}
            weights = {name: layer.weight.detach() for name, layer in layers.items()}
            for name, (codes, grid) in quantize(block, module, weights).items():
                for key, value in packed_tensors(name, codes, grid).items():
                    writer.add(key, value)
                layers[name].weight.data = dequantize(codes, grid, walk.dtype)
            walk.advance_probe(block, module)
            progress((done + 1) / len(walk.blocks), f"block {done + 1} of {len(walk.blocks)}")
        replaced = {f"{name}.weight" for name in chosen}
        if own and (copy := copy_of_tied(source.spec)):
            replaced.add(f"{copy}.weight")
        writer.copy_rest(without=replaced)
        ignored = [n for n in _linear_modules(walk.model) if n not in chosen]
        writer.config["quantization_config"] = quantization_config(schemes, ignored, own=own)
    return walk.logits()


def _linear_modules(model: nn.Module) -> list[str]:
    return [name for name, m in model.named_modules() if isinstance(m, nn.Linear)]


def stored_dtype(source: Checkpoint) -> torch.dtype:
    """The dtype most weights of `source` are stored in; scales are stored in it too."""
    return TORCH_DTYPES[source.spec.dtype]


def keep_neurons(
    source: Checkpoint,
    out: Path,
    *,
    walk: BlockWalk,
    keep: Callable[[int, list[Tensor], Tensor], Tensor],
    width: int,
    progress: Progress,
) -> Tensor:
    """Write `source` to `out` with `width` neurons left in every MLP.

    Args:
        keep: (block index, input matrices (m, d), output matrix (d, m)) -> kept indices, rising.

    Returns:
        Logits of the smaller model on the probe, computed from the weights in memory.

    Raises:
        NumericsError: an MLP holds a NaN or an infinity, whose neuron has no score.
    """

    mlps = {mlp.block: mlp for mlp in source.spec.structure.mlps}
    with CheckpointWriter(out, source) as writer:
        for done, (block, module) in enumerate(walk):
            mlp = mlps[block.index]
            inputs = [submodule(module, block, name) for name in mlp.inputs]
            output = submodule(module, block, mlp.output)
            for layer, name in zip([*inputs, output], [*mlp.inputs, mlp.output], strict=True):
                require_finite(layer.weight, name)
            kept = keep(block.index, [m.weight.detach() for m in inputs], output.weight.detach())
            for layer, name in zip(inputs, mlp.inputs, strict=True):
                layer.weight = nn.Parameter(layer.weight[kept], requires_grad=False)
                writer.add(f"{name}.weight", source.read(f"{name}.weight")[kept])
                if layer.bias is not None:
                    layer.bias = nn.Parameter(layer.bias[kept], requires_grad=False)
                    writer.add(f"{name}.bias", source.read(f"{name}.bias")[kept])
            output.weight = nn.Parameter(output.weight[:, kept], requires_grad=False)
            stored = source.read(f"{mlp.output}.weight")[:, kept].contiguous()
            writer.add(f"{mlp.output}.weight", stored)
            walk.advance_probe(block, module)
            progress((done + 1) / len(walk.blocks), f"block {done + 1} of {len(walk.blocks)}")
        writer.copy_rest(without=set())
        writer.config[width_field(source.config)] = width
    return walk.logits()


def width_field(config: dict[str, object]) -> str:
    """The config's own name for the MLP width."""
    return next(
        (f for f in ("intermediate_size", "ffn_dim", "n_inner") if f in config),
        "intermediate_size",
    )
