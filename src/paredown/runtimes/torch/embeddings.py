"""Token embedding and output head kept packed: what small models are mostly made of."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from paredown.artifact.checkpoint import Checkpoint
from paredown.blocks.embeddings import embedding_factor
from paredown.blocks.names import module_name
from paredown.ops.affine import Grid
from paredown.runtimes.torch.packed import PackedEmbedding, PackedWeight, linear_on, pack_linears
from paredown.spec.embeddings import find_embedding

Parts = dict[str, tuple[Tensor, Grid]]
"""Codes and grid by module name."""


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
            factor = embedding_factor(model.get_submodule(place), dtype)
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
