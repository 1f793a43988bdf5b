"""The numbers of a product in the graph: rows of one or several layers, as they are stored.

Read when they are written, so that a file of any size takes the memory of its largest matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paredown.artifact.checkpoint import Checkpoint
from paredown.artifact.compressed_tensors import PackedReader
from paredown.errors import ConfigError
from paredown.ops.affine import Grid, dequantize
from paredown.runtimes.onnxruntime.formats import block_size, code_bits
from paredown.runtimes.onnxruntime.skeleton import SPLITS, stored_shape
from paredown.spec.scheme import Scheme

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Layout:
    """How codes lie in a `MatMulNBits`."""

    bits: int
    block: int
    symmetric: bool


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows of a stored layer."""

    layer: str
    start: int
    end: int


class Matrix:
    """Rows of layers, one under the other, all stored alike.

    Attributes:
        shape: (rows, inputs).
        layout: of the codes; None: floating-point numbers.
    """

    def __init__(
        self, checkpoint: Checkpoint, schemes: dict[str, Scheme], pieces: Sequence[Piece]
    ) -> None:
        self._checkpoint, self.pieces = checkpoint, tuple(pieces)
        width = stored_shape(checkpoint, pieces[0].layer)[1]
        self.shape = sum(piece.end - piece.start for piece in pieces), width
        layouts = {layout_of(schemes.get(piece.layer), width) for piece in pieces}
        if len(layouts) > 1:
            names = ", ".join(piece.layer for piece in pieces)
            raise AssertionError(f"{names} are joined and stored in several ways")
        (self.layout,) = layouts
        self._readers = {
            piece.layer: PackedReader(checkpoint, piece.layer, schemes[piece.layer])
            for piece in pieces
            if piece.layer in schemes
        }

    @property
    def blocks(self) -> int:
        """Of a row."""
        return self.shape[1] // self._packed.block

    @property
    def _packed(self) -> Layout:
        if self.layout is None:
            raise AssertionError(f"{self.pieces} is not packed")
        return self.layout

    def codes(self) -> Array:
        """(rows, blocks, bytes) uint8: unsigned codes, the first of a byte in its lowest bits."""
        layout, parts = self._packed, []
        for codes, _ in self._rows():
            unsigned = (codes.to(torch.int16) + 2 ** (layout.bits - 1)).to(torch.uint8)
            parts.append(pack_low_first(unsigned, layout.bits).numpy())
        return np.concatenate(parts).reshape(self.shape[0], self.blocks, -1)

    def scales(self) -> Array:
        """(rows, blocks) float32; a group of several blocks repeats its own."""
        found = [self._per_block(grid.scale.float()) for _, grid in self._rows()]
        return torch.cat(found).numpy()

    def zeros(self) -> Array:
        """(rows, blocks) uint8 zero-points, unsigned as codes are."""
        parts = []
        for _, grid in self._rows():
            if grid.zero is None:
                raise AssertionError("a symmetric grid has no zero-points")
            unsigned = grid.zero.to(torch.int16) + 2 ** (self._packed.bits - 1)
            parts.append(self._per_block(unsigned.to(torch.uint8)))
        return torch.cat(parts).numpy()

    def packed_zeros(self) -> Array:
        """(rows, bytes) uint8: zero-points packed as codes are, a row's last byte filled up."""
        zeros, bits = torch.from_numpy(self.zeros()), self._packed.bits
        pad = -zeros.shape[1] % (8 // bits)
        return pack_low_first(torch.nn.functional.pad(zeros, (0, pad)), bits).numpy()

    def weights(self, start: int, end: int) -> Array:
        """Rows `start` to `end` as the artifact has them: (rows, inputs) float32."""
        found, at = [], 0
        for piece in self.pieces:
            first, last = max(start - at, 0), min(end - at, piece.end - piece.start)
            at += piece.end - piece.start
            if first < last:
                span = piece.start + first, piece.start + last
                found.append(dequantize(*self._readers[piece.layer].rows(*span), torch.float32))
        return torch.cat(found).numpy()

    def dense(self) -> Array:
        """(rows, inputs) float32."""
        rows = [
            self._checkpoint.read_rows(f"{piece.layer}.weight", piece.start, piece.end).float()
            for piece in self.pieces
        ]
        return torch.cat(rows).numpy()

    def _rows(self) -> list[tuple[Tensor, Grid]]:
        return [self._readers[piece.layer].rows(piece.start, piece.end) for piece in self.pieces]

    def _per_block(self, per_group: Tensor) -> Tensor:
        return per_group.repeat_interleave(self.blocks // per_group.shape[1], dim=1)


def layout_of(scheme: Scheme | None, width: int) -> Layout | None:
    """How a layer with rows of `width` inputs lies in the file; None: as floating point."""
    if scheme is None:
        return None
    block = block_size(scheme.option("F32"), width)
    if block is None:
        raise ConfigError(f"onnxruntime: no block divides groups of {scheme.group_size}")
    return Layout(code_bits(scheme.bits), block, scheme.symmetric)


def pack_low_first(codes: Tensor, bits: int) -> Tensor:
    """(rows, n) unsigned codes as (rows, n * bits / 8) bytes."""
    each = 8 // bits
    found = torch.zeros(len(codes), codes.shape[1] // each, dtype=torch.uint8)
    for i in range(each):
        found |= codes[:, i::each] << (i * bits)
    return found


def pieces_of(checkpoint: Checkpoint, stored: set[str], name: str) -> list[Piece]:
    """The rows of which a layer consists that the graph knows by `name`.

    Args:
        stored: names of all layers. Phi-3 keeps q, k and v in one, gate and up in another.
    """
    if name in stored:
        return [Piece(name, 0, stored_shape(checkpoint, name)[0])]
    for whole, parts in SPLITS.items():
        for part in parts:
            stem = name.removesuffix(part)
            if stem == name:
                continue
            if part == whole or f"{stem}{whole}" not in stored:
                continue
            return [_part_of(checkpoint, f"{stem}{whole}", parts.index(part), len(parts))]
    if name.endswith("qkv_proj"):
        stem = name.removesuffix("qkv_proj")
        return [
            piece
            for part in ("q_proj", "k_proj", "v_proj")
            for piece in pieces_of(checkpoint, stored, f"{stem}{part}")
        ]
    raise ConfigError(f"onnxruntime: the graph has a product {name} that the model does not have")


def _part_of(checkpoint: Checkpoint, whole: str, index: int, count: int) -> Piece:
    """One of several equal parts of a layer's rows."""
    rows = stored_shape(checkpoint, whole)[0]
    return Piece(whole, rows * index // count, rows * (index + 1) // count)
