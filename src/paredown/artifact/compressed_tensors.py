"""Quantized weights in the `pack-quantized` format of compressed-tensors: names, shapes, config.

Plain transformers and vLLM read it. Per quantized layer it stores `weight_packed` (int32 words),
`weight_scale`, for asymmetric grids `weight_zero_point` (packed along the rows), and
`weight_shape`. Of layers on two-level grids, which only `paredown.load` and llama.cpp read,
`weight_packed` holds llama.cpp's super-blocks (uint8), scales included.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from paredown.artifact.checkpoint import Checkpoint
from paredown.errors import ModelError
from paredown.ops.affine import Grid
from paredown.ops.grids import AnyGrid
from paredown.ops.packing import pack, unpack
from paredown.ops.superblock_bytes import pack_superblocks, unpack_superblocks
from paredown.ops.superblocks import SuperGrid
from paredown.spec.packed import SCALE_BITS, SUPERBLOCK_STRATEGY
from paredown.spec.scheme import GridKind, Scheme

STANDARD = "compressed-tensors"
OWN = "paredown"
"""The format of what only `paredown.load` reads, such as packed embeddings: the same tensors, but
without `quant_method`, which makes other loaders refuse instead of leaving those parts random."""


def packed_tensors(name: str, codes: Tensor, grid: AnyGrid) -> dict[str, Tensor]:
    """The stored tensors of one quantized layer, by full name."""
    if isinstance(grid, SuperGrid):
        return {
            f"{name}.weight_packed": pack_superblocks(codes, grid),
            f"{name}.weight_shape": torch.tensor(codes.shape, dtype=torch.int64),
        }
    tensors = {
        f"{name}.weight_packed": pack(codes, grid.bits),
        f"{name}.weight_scale": grid.scale.contiguous(),
        f"{name}.weight_shape": torch.tensor(codes.shape, dtype=torch.int64),
    }
    if grid.zero is not None:
        # The format packs zero-points down the rows: neighbours in a word are rows of one group.
        words = pack(grid.zero.T.contiguous(), grid.bits).T.contiguous()
        tensors[f"{name}.weight_zero_point"] = words
    return tensors


def read_packed(checkpoint: Checkpoint, name: str, scheme: Scheme) -> tuple[Tensor, AnyGrid]:
    """Codes and grid of one quantized layer: the reverse of `packed_tensors`."""
    if scheme.kind is GridKind.SUPERBLOCK:
        return unpack_superblocks(checkpoint.read(f"{name}.weight_packed"), scheme.bits)
    reader = PackedReader(checkpoint, name, scheme)
    return reader.rows(0, reader.shape[0])


class PackedReader:
    """A layer on an affine grid, some rows at a time: a vocabulary is larger than all blocks'
    memory.

    Attributes:
        shape: (rows, width) of the matrix.
        scale: (rows, groups), as stored.
        zero: (rows, groups) int8, or None for a symmetric grid.
    """

    def __init__(self, checkpoint: Checkpoint, name: str, scheme: Scheme) -> None:
        self._checkpoint, self._name, self._scheme = checkpoint, name, scheme
        rows, width = (int(n) for n in checkpoint.read(f"{name}.weight_shape"))
        self.shape = rows, width
        self.scale = checkpoint.read(f"{name}.weight_scale")
        self.zero: Tensor | None = None
        if not scheme.symmetric:
            words = checkpoint.read(f"{name}.weight_zero_point")
            self.zero = unpack(words.T.contiguous(), scheme.bits, rows).T.contiguous()

    def rows(self, start: int, end: int) -> tuple[Tensor, Grid]:
        """Codes (end - start, width) int8 of these rows, and their grid."""
        scheme, width = self._scheme, self.shape[1]
        words = self._checkpoint.read_rows(f"{self._name}.weight_packed", start, end)
        codes = unpack(words, scheme.bits, width)
        zero = None if self.zero is None else self.zero[start:end]
        return codes, Grid(scheme.bits, scheme.group_width(width), self.scale[start:end], zero)


def quantization_config(
    schemes: dict[str, Scheme], ignored: list[str], *, own: bool = False
) -> dict[str, Any]:
    """The `quantization_config` of a model whose layers (by name) have these schemes.

    `own` marks it as one that only `paredown.load` reads.
    """
    groups: dict[str, Any] = {}
    distinct = sorted(set(schemes.values()))
    for i, scheme in enumerate(distinct):
        names = [name for name, other in schemes.items() if other == scheme]
        groups[f"group_{i}"] = {
            "targets": ["Linear"] if len(distinct) == 1 else names,
            "weights": _weights(scheme),
            "input_activations": None,
            "output_activations": None,
            "format": "pack-quantized",
        }
    return {
        **({"format": OWN} if own else {"quant_method": STANDARD, "format": "pack-quantized"}),
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": ignored,
        "kv_cache_scheme": None,
    }


def _weights(scheme: Scheme) -> dict[str, Any]:
    """What the config says of the weights on a scheme."""
    strategy = "channel" if scheme.group_size < 0 else "group"
    if scheme.kind is GridKind.SUPERBLOCK:
        strategy = SUPERBLOCK_STRATEGY
    short = (
        {} if scheme.scale_bits is None else {"observer_kwargs": {SCALE_BITS: scheme.scale_bits}}
    )
    return {
        "num_bits": scheme.bits,
        "type": "int",
        "symmetric": scheme.symmetric,
        "strategy": strategy,
        "group_size": None if scheme.group_size < 0 else scheme.group_size,
        "dynamic": False,
        "observer": "minmax",
        **short,
    }


def _scheme(name: str, weights: dict[str, Any]) -> Scheme:
    """The reverse of `_weights`."""
    strategy = weights["strategy"]
    if weights["type"] != "int" or strategy not in {"group", "channel", SUPERBLOCK_STRATEGY}:
        raise ModelError(f"{name}: {weights['type']}/{strategy} is not read here")
    if strategy == SUPERBLOCK_STRATEGY:
        return Scheme.superblock(weights["num_bits"])
    size = weights["group_size"] if strategy == "group" else -1
    is_short = SCALE_BITS in (weights.get("observer_kwargs") or {})
    kind = GridKind.SHORT if is_short else GridKind.AFFINE
    return Scheme(weights["num_bits"], size, weights["symmetric"], kind)


def read_schemes(checkpoint: Checkpoint) -> dict[str, Scheme]:
    """Scheme of every packed layer of a checkpoint, by layer name.

    Raises:
        ModelError: a part of the format that is not understood here.
    """
    config = checkpoint.config.get("quantization_config") or {}
    groups = list((config.get("config_groups") or {}).values())
    schemes = {}
    for tensor in checkpoint.names:
        if tensor.endswith(".weight_g_idx"):
            raise ModelError("compressed-tensors with a stored activation order is not read here")
        if not tensor.endswith(".weight_packed"):
            continue
        name = tensor.removesuffix(".weight_packed")
        found = [g for g in groups if _targeted(name, g["targets"])]
        if len(found) != 1:
            raise ModelError(f"{name}: {len(found)} quantization groups apply, there must be one")
        schemes[name] = _scheme(name, found[0]["weights"])
    return schemes


def _targeted(name: str, targets: list[str]) -> bool:
    return any(
        target in {"Linear", name}
        or (target.startswith("re:") and re.match(target[3:], name) is not None)
        for target in targets
    )
