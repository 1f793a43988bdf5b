"""Whole blocks: how much each changes its input, and models with fewer of them."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from paredown.artifact.checkpoint import Checkpoint, CheckpointWriter
from paredown.artifact.configs import language_part
from paredown.blocks.skeleton import read_config
from paredown.blocks.walk import BlockWalk
from paredown.errors import NumericsError
from paredown.ops.influence import block_influence
from paredown.spec.depth import without_blocks
from paredown.spec.families import KEYS
from paredown.spec.progress import Progress

PER_LAYER = ("layer_types", "mlp_layer_types", "no_rope_layers", "mlp_widths")
"""Config lists with one entry per block."""


def influences(walk: BlockWalk, progress: Progress) -> dict[int, float]:
    """Block influence of every block on the walk's calibration windows, by block index.

    Raises:
        NumericsError: hidden states hold a NaN or an infinity.
    """
    found = {}
    for done, (block, module) in enumerate(walk):
        # A list of its own, because `advance` replaces the entries of the walk's.
        before = list(walk.hidden)
        walk.advance(block, module)
        sums = [
            block_influence(old, new).sum() for old, new in zip(before, walk.hidden, strict=True)
        ]
        tokens = sum(states[..., 0].numel() for states in before)
        found[block.index] = float(torch.stack(sums).sum()) / tokens
        if not found[block.index] == found[block.index]:
            raise NumericsError(f"{block.prefix}: hidden states are not finite")
        progress((done + 1) / len(walk.blocks), f"influence of block {done + 1}")
    return found


def drop_blocks(
    source: Checkpoint,
    out: Path,
    *,
    walk: BlockWalk,
    dropped: Collection[int],
    progress: Progress,
    trust_remote_code: bool = False,
) -> Tensor:
    """Write `source` to `out` without the blocks of these indices, the others renumbered.

    Args:
        walk: a walk over `source`, at its start.

    Returns:
        Logits of the shallower model on the probe, computed from the weights in memory.
    """
    with CheckpointWriter(out, source) as writer:
        for done, (block, module) in enumerate(walk):
            if block.index not in dropped:
                walk.advance_probe(block, module)
            progress((done + 1) / len(walk.blocks), f"block {done + 1} of {len(walk.blocks)}")
        for old, new in without_blocks(source.names, walk.blocks, dropped).items():
            writer.add(new, source.read(old))
        config = read_config(source.folder, trust_remote_code=trust_remote_code)
        kept = [block.index for block in walk.blocks if block.index not in dropped]
        _cut(writer.config, config.get_text_config().to_dict(), kept, len(walk.blocks))
    return walk.logits()


def _cut(config: dict[str, Any], full: dict[str, Any], kept: list[int], depth: int) -> None:
    """Let the config say which blocks are left.

    Lists that the family derives from a block's number are written out, from `full`, the config
    as transformers reads it: the numbers have changed.
    """
    text = language_part(config)
    for key in KEYS["layers"]:
        if key in text:
            text[key] = len(kept)
    if "attention_types" in full:  # GPT-Neo: [[names of layers], how often]; the list follows
        names = [name for group, times in full["attention_types"] for name in group * times]
        text["attention_types"] = [[[names[i] for i in kept], 1]]
        text.pop("attention_layers", None)
    for key in PER_LAYER:
        values = text.get(key) or full.get(key)
        if isinstance(values, list) and len(values) == depth:
            text[key] = [values[i] for i in kept]
