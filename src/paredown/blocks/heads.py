"""Models with fewer attention heads: whole groups of heads that share a key and a value."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from paredown.artifact.checkpoint import Checkpoint, CheckpointWriter
from paredown.artifact.configs import language_part
from paredown.blocks.hessians import HessianBank
from paredown.blocks.names import module_name
from paredown.ops.affine import require_finite
from paredown.ops.heads import weakest_groups
from paredown.ops.repair import least_squares
from paredown.spec.families import KEYS
from paredown.spec.heads import Attention, Groups, find_attentions
from paredown.spec.progress import Progress
from paredown.spec.structure import Block


def drop_groups(
    source: Checkpoint,
    out: Path,
    *,
    hessians: HessianBank,
    groups: Groups,
    left: int,
    progress: Progress,
) -> Tensor:
    """Write `source` to `out` with `left` groups of heads in every block.

    The output projection is fitted again to what it gave on the calibration text.

    Returns:
        Logits of the smaller model on the probe, computed from the weights in memory.

    Raises:
        NumericsError: an attention holds a NaN or an infinity.
    """
    attentions = {attention.block: attention for attention in find_attentions(source.spec)}
    walk = hessians.walk
    with CheckpointWriter(out, source) as writer:
        for done, (block, module) in enumerate(walk):
            moments = hessians.of_block(block, module)
            attention = attentions[block.index]
            for name, tensor in _cut(source, attention, groups, left, moments).items():
                writer.add(name, tensor)
                _put(module, block, name, tensor.to(walk.device, walk.dtype))
            walk.advance_probe(block, module)
            progress((done + 1) / len(walk.blocks), f"block {done + 1} of {len(walk.blocks)}")
        writer.copy_rest(without=set())
        text = language_part(writer.config)
        # head_dim is written out: families derive it from the number of heads, which has changed.
        sizes = {"heads": left * groups.queries, "kv_heads": left, "head_dim": groups.head_dim}
        for field, value in sizes.items():
            text[next((key for key in KEYS[field] if key in text), KEYS[field][0])] = value
    return walk.logits()


def _cut(
    source: Checkpoint,
    attention: Attention,
    groups: Groups,
    left: int,
    moments: dict[str, Tensor],
) -> dict[str, Tensor]:
    """The tensors of one smaller attention, by full name."""
    output = source.read(f"{attention.output}.weight")
    found = moments[attention.output]
    require_finite(output, attention.output)
    numbers = torch.arange(groups.count).repeat_interleave(groups.query_rows)
    weight, numbers = output.to(found.device), numbers.to(found.device)
    gone = weakest_groups(weight, found, numbers, groups.count - left)
    kept = [group for group in range(groups.count) if group not in gone]
    columns = _features(kept, groups.query_rows)
    fitted = least_squares(weight, found, columns.to(found.device))
    made = {f"{attention.output}.weight": fitted.to("cpu", output.dtype)}
    keys = _features(kept, groups.head_dim)
    # A query's rows are the output's columns: same features, same order.
    for name, rows in ((attention.q, columns), (attention.k, keys), (attention.v, keys)):
        for leaf in ("weight", "bias"):
            if f"{name}.{leaf}" in source.spec.by_name:
                stored = source.read(f"{name}.{leaf}")
                require_finite(stored, name)
                made[f"{name}.{leaf}"] = stored[rows]
    if attention.sinks in source.spec.by_name:
        made[attention.sinks] = source.read(attention.sinks)[_features(kept, groups.queries)]
    return made


def _features(groups: list[int], size: int) -> Tensor:
    """Indices of the features of some groups, `size` each."""
    return torch.cat([torch.arange(group * size, (group + 1) * size) for group in groups])


def _put(module: nn.Module, block: Block, name: str, value: Tensor) -> None:
    layer, _, leaf = name.rpartition(".")
    owner = module.get_submodule(module_name(module, layer.removeprefix(f"{block.prefix}.")))
    setattr(owner, leaf, nn.Parameter(value, requires_grad=False))
