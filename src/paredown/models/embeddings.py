"""Token embedding and output head kept packed: what small models are mostly made of."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from paredown.errors import MethodError
from paredown.models.checkpoint import TORCH_DTYPES, Checkpoint, CheckpointWriter
from paredown.models.compressed_tensors import packed_tensors
from paredown.models.packed import PackedEmbedding, PackedWeight, linear_on, pack_linears
from paredown.models.skeleton import module_name
from paredown.models.walk import BlockWalk
from paredown.ops.affine import Grid
from paredown.ops.gptq import round_to_nearest
from paredown.spec.embeddings import find_embedding, packable_embeddings
from paredown.spec.scheme import Scheme

_ROWS = 4096
"""Rows rounded at a time: a vocabulary in float32 would be the largest thing in memory."""
_STEPS = 20

Parts = dict[str, tuple[Tensor, Grid]]
"""Codes and grid by module name."""


def quantize_embeddings(
    source: Checkpoint, writer: CheckpointWriter, walk: BlockWalk, schemes: dict[str, Scheme]
) -> bool:
    """Write the embedding and an untied head packed, where `schemes` names them.

    From then on the walk's probe sees what was written; its calibration states do not.

    Returns:
        Whether anything was packed.
    """
    parts: Parts = {}
    for name in packable_embeddings(source.spec):
        if name in schemes:
            parts[name] = _round(source.read(f"{name}.weight"), schemes[name], source)
            for key, value in packed_tensors(name, *parts[name]).items():
                writer.add(key, value)
    if parts:
        attach_embeddings(walk.model, parts, source, dtype=walk.dtype, device=walk.device)
        walk.embed_probe()
    return bool(parts)


def _round(weight: Tensor, scheme: Scheme, source: Checkpoint) -> tuple[Tensor, Grid]:
    made = [
        round_to_nearest(
            part,
            bits=scheme.bits,
            group_size=scheme.group_width(weight.shape[1]),
            symmetric=scheme.symmetric,
            scale_dtype=TORCH_DTYPES[source.spec.dtype],
            steps=_STEPS,
        )
        for part in weight.split(_ROWS)
    ]
    first = made[0][1]
    zeros = [grid.zero for _, grid in made if grid.zero is not None]
    scale = torch.cat([grid.scale for _, grid in made])
    grid = Grid(first.bits, first.group_size, scale, torch.cat(zeros) if zeros else None)
    return torch.cat([codes for codes, _ in made]), grid


def attach_embeddings(
    model: Any, parts: Parts, source: Checkpoint, *, dtype: torch.dtype, device: str
) -> None:
    """Put packed parts in the places of the model's embedding and head; a tied head stays tied.

    Raises:
        MethodError: the family's embedding does more than to look up rows.
    """
    for name, (codes, grid) in parts.items():
        if name == find_embedding(source.spec):
            place = module_name(model, name)
            factor = _factor(model.get_submodule(place), dtype)
            weight = PackedWeight(codes, grid, dtype=dtype, device=device)
            model.set_submodule(place, PackedEmbedding(weight, factor))
            if source.spec.tied_embeddings:
                model.set_output_embeddings(linear_on(weight))
        else:
            bias = source.read(f"{name}.bias") if f"{name}.bias" in source.spec.by_name else None
            (head,) = pack_linears([(codes, grid, bias)], dtype=dtype, device=device)
            model.set_output_embeddings(head)
    if parts:  # nothing is left that transformers could tie
        model.config.get_text_config().tie_word_embeddings = False
        model.config.tie_word_embeddings = False


def _factor(embedding: nn.Module, dtype: torch.dtype) -> float:
    """By what the family's embedding multiplies its rows."""
    scale = getattr(embedding, "embed_scale", None)
    if scale is not None:
        return float(torch.as_tensor(scale).to(dtype))
    if type(embedding) is not nn.Embedding:
        raise MethodError(
            f"embedding_bits: a {type(embedding).__name__} does more than to look up rows; "
            "leave embedding_bits out"
        )
    return 1.0
