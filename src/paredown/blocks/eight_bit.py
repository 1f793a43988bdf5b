"""Writing a checkpoint with eight-bit weights, block by block; see `artifact.eight_bit`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from paredown.artifact.checkpoint import TORCH_DTYPES, Checkpoint, CheckpointWriter
from paredown.artifact.eight_bit import EightBit, eight_bit_config
from paredown.blocks.names import module_name
from paredown.blocks.walk import BlockWalk, submodule
from paredown.ops.affine import require_finite
from paredown.ops.eight_bit import dequantize_rows, quantize_rows
from paredown.spec.structure import Block

Prepare = Callable[[Block, nn.Module, dict[str, Tensor]], dict[str, Tensor]]
"""(block, its module, {layer name: float32 weight}) -> other tensors changed, by full name. May
replace the weights in the mapping."""


@torch.no_grad()
def write_eight_bit(
    source: Checkpoint,
    out: Path,
    *,
    walk: BlockWalk,
    chosen: set[str],
    how: EightBit,
    prepare: Prepare,
    progress: Callable[[float, str], None],
) -> Tensor:
    """Write `source` to `out` with the linears in `chosen` in eight bits.

    Returns:
        Logits on the probe with quantized weights and unrounded activations; see
        `runtimes.torch.eight_bit.unrounded_activations`.

    Raises:
        NumericsError: a weight is NaN or infinite.
    """
    # By the names in memory: under those of the file transformers would find no layer to leave out,
    # and would leave out the chosen ones.
    inside = {module_name(walk.model, name) for name in chosen}
    ignored = [
        name
        for name, module in walk.model.named_modules()
        if isinstance(module, nn.Linear) and name not in inside
    ]
    scale_dtype = TORCH_DTYPES[source.spec.dtype]
    with CheckpointWriter(out, source) as writer:
        for done, (block, module) in enumerate(walk):
            layers = {n: submodule(module, block, n) for n in block.linears if n in chosen}
            weights = {name: layer.weight.detach().float() for name, layer in layers.items()}
            for name, weight in weights.items():
                require_finite(weight, name)
            for key, value in prepare(block, module, weights).items():
                writer.add(key, value)
            for name, weight in weights.items():
                codes, scale = quantize_rows(weight, how.number, scale_dtype=scale_dtype)
                writer.add(f"{name}.weight", codes)
                writer.add(f"{name}.weight_scale", scale)
                layers[name].weight.data = dequantize_rows(codes, scale, walk.dtype)
            walk.advance_probe(block, module)
            progress((done + 1) / len(walk.blocks), f"block {done + 1} of {len(walk.blocks)}")
        writer.copy_rest(without=set())
        writer.config["quantization_config"] = eight_bit_config(how, ignored)
    return walk.logits()
