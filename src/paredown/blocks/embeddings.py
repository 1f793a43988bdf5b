"""Token embedding and output head rounded to a grid while a model is rewritten."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from paredown.artifact.checkpoint import TORCH_DTYPES, Checkpoint, CheckpointWriter
from paredown.artifact.compressed_tensors import packed_tensors
from paredown.blocks.names import module_name
from paredown.blocks.walk import BlockWalk
from paredown.errors import MethodError
from paredown.ops import grids
from paredown.ops.gptq import Problem, curvature
from paredown.ops.grids import AnyGrid, dequantize, grid_of
from paredown.spec.embeddings import find_embedding, packable_embeddings
from paredown.spec.model import ModelSpec
from paredown.spec.scheme import Scheme

if TYPE_CHECKING:
    from paredown.blocks.hessians import HessianBank

RoundRows = Callable[[str, Scheme], tuple[Tensor, AnyGrid]]
"""(name of the embedding or the head, scheme) -> codes and grid."""

_ROWS = 4096
"""Rows in float32 at a time: a whole vocabulary would be the largest thing in memory."""
_STEPS = 20
INPUT_SHARE = 0.3
"""Weight of a tied matrix's use as an embedding beside its use as a head, whose mean diagonal
counts 1. On SmolLM2-135M at 4 bits, KL on WikiText and on Python's manual: 0.052 and 0.119 at
0.03, 0.051 and 0.108 at 0.3, 0.062 and 0.128 at 1; 0.205 and 0.300 when rounded to nearest."""


class _CodedRows(nn.Module):
    """An embedding, and the head tied to it, as codes on a grid; a row is decoded when needed.

    Written down apart from what serves such artifacts, so that comparing the two proves something.
    """

    def __init__(
        self, codes: Tensor, grid: AnyGrid, dtype: torch.dtype, factor: float = 1.0
    ) -> None:
        super().__init__()
        self.codes, self.grid, self.dtype, self.factor = codes, grid, dtype, factor

    def _rows(self, rows: Tensor | slice) -> Tensor:
        return dequantize(self.codes[rows], self.grid.rows(rows))

    def forward(self, ids: Tensor) -> Tensor:
        found = self._rows(ids.reshape(-1)).view(*ids.shape, -1).to(self.dtype)
        return found if self.factor == 1.0 else found * self.factor

    def project(self, hidden: Tensor, bias: Tensor | None = None) -> Tensor:
        """`hidden W^T + b` in float32."""
        starts = range(0, len(self.codes), _ROWS)
        parts = [hidden.float() @ self._rows(slice(s, s + _ROWS)).T for s in starts]
        logits = torch.cat(parts, dim=-1)
        return logits if bias is None else logits + bias.float()


def quantize_embeddings(
    source: Checkpoint,
    writer: CheckpointWriter,
    walk: BlockWalk,
    schemes: dict[str, Scheme],
    rounded: RoundRows | None = None,
) -> bool:
    """Write the embedding and an untied head packed, where `schemes` names them.

    From then on the walk's probe sees what was written; its calibration states do not.

    Args:
        rounded: codes and grid of a matrix by its name and scheme; None rounds to nearest.

    Returns:
        Whether anything was packed.
    """
    parts: dict[str, tuple[Tensor, AnyGrid]] = {}
    for name in packable_embeddings(source.spec):
        if name in schemes:
            parts[name] = (rounded or partial(_nearest, source))(name, schemes[name])
            for key, value in packed_tensors(name, *parts[name]).items():
                writer.add(key, value)
    if parts:
        attach_rounded(walk, parts, source)
        # Its states came from the embedding as it was.
        walk.embed_probe()
    return bool(parts)


def _nearest(source: Checkpoint, name: str, scheme: Scheme) -> tuple[Tensor, AnyGrid]:
    weight = source.read(f"{name}.weight")
    return round_rows(weight, scheme, None, TORCH_DTYPES[source.spec.dtype])


class EmbeddingBank:
    """Embedding and head rounded on what the head reads, kept in the cache by content."""

    def __init__(self, hessians: HessianBank) -> None:
        """`hessians` know the moments of the head."""
        self.hessians = hessians

    def __call__(self, name: str, scheme: Scheme) -> tuple[Tensor, AnyGrid]:
        """Codes and grid of the matrix called `name`."""
        key = {
            **self.hessians.key,
            "embedding": name,
            "scheme": scheme.key,
            "input_share": INPUT_SHARE,
        }

        def write(path: Path) -> None:
            source = self.hessians.source
            moments = reading_moments(source.spec, name, self.hessians.head)
            weight, dtype = source.read(f"{name}.weight"), TORCH_DTYPES[source.spec.dtype]
            codes, grid = round_rows(weight, scheme, moments, dtype)
            parts = {"codes": codes} | grid.tensors()
            save_file({k: v.cpu().contiguous() for k, v in parts.items()}, path)

        found = load_file(self.hessians.cache.get_or_put("layers", key, ".safetensors", write))
        codes = found["codes"]
        return codes, grid_of(scheme, codes.shape[1], found)


def reading_moments(spec: ModelSpec, name: str, head_moments: Tensor | None) -> Tensor | None:
    """What rounding the embedding or head `name` should keep: second moments, or None for nothing.

    As a head, a row w gives the logit w h, so errors count by the moments of h. As an embedding it
    is taken as it is, so all its entries count alike: the identity. A tied matrix is both.
    """
    if head_moments is None:
        return None
    is_input = name == find_embedding(spec)
    if is_input and not spec.tied_embeddings:
        return None  # the identity passes no error on, which is rounding to nearest
    if not is_input:
        return head_moments
    scaled = head_moments / head_moments.diagonal().mean()
    return scaled + INPUT_SHARE * torch.eye(len(scaled), device=scaled.device)


def round_rows(
    weight: Tensor, scheme: Scheme, moments: Tensor | None, scale_dtype: torch.dtype
) -> tuple[Tensor, AnyGrid]:
    """Codes and grid of a matrix (vocabulary, hidden): by GPTQ on `moments`, else to nearest."""
    inputs = None if moments is None else curvature(moments, act_order=True)

    # Rows are independent, so slices give what the whole matrix would.
    def rounded(part: Tensor) -> tuple[Tensor, AnyGrid]:
        if inputs is None:
            return grids.nearest(part, scheme, scale_dtype=scale_dtype, steps=_STEPS)
        problem = Problem(part.to(inputs.order.device), inputs)
        return grids.compensated(problem, scheme, scale_dtype=scale_dtype, steps=_STEPS)[:2]

    made = [rounded(part) for part in weight.split(_ROWS)]
    return torch.cat([codes for codes, _ in made]), grids.stack([grid for _, grid in made])


def attach_rounded(
    walk: BlockWalk, parts: dict[str, tuple[Tensor, AnyGrid]], source: Checkpoint
) -> None:
    """Let the walk's embedding and head compute with what was written; a tied head stays tied."""
    for name, (codes, grid) in parts.items():
        codes, grid = codes.to(walk.device), grid.to(walk.device)
        head = walk.model.get_output_embeddings()
        bias = getattr(head, "bias", None)
        if name != find_embedding(source.spec):
            head.forward = partial(_CodedRows(codes, grid, walk.dtype).project, bias=bias)
            continue
        place = module_name(walk.model, name)
        factor = embedding_factor(walk.model.get_submodule(place), walk.dtype)
        rows = _CodedRows(codes, grid, walk.dtype, factor)
        walk.model.set_submodule(place, rows)
        if source.spec.tied_embeddings:
            head.forward = partial(rows.project, bias=bias)
            # The old matrix, which would be kept alive here for nothing.
            head.weight = None


def embedding_factor(embedding: nn.Module, dtype: torch.dtype) -> float:
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
