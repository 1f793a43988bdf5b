"""Codes and scales as the blocks of a GGUF file, byte for byte.

Nothing is rounded: what cannot be written as it is raises an error. The layouts are those of
ggml-quants.c (`quantize_row_q4_0_ref` and its likes): a half-precision scale, of some types a
minimum, then the integers; of 4 and 5 bits, number j and number j + 16 of a block share a byte.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from paredown.ops.affine import Grid
from paredown.runtimes.llama_cpp.tensor_types import BLOCK, MINIMUM_TYPES, BlockType

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


def integers(codes: Tensor, zero: Tensor | None) -> Tensor:
    """`code - zero` (rows, width) int16, zero given per group (rows, groups) or None."""
    found = codes.to(torch.int16)
    if zero is None:
        return found
    return found - zero.to(torch.int16).repeat_interleave(codes.shape[1] // zero.shape[1], dim=1)


def is_exact(values: Tensor, grid: Grid) -> bool:
    """Whether every block can be written as it is.

    bf16 scales become half precision exactly from 2**-17 up (8 significant bits above the last bit,
    2**-24); below that, some do not. The scale of a block of zeros means nothing.

    Args:
        values: (rows, width) as `integers` gives them.
    """
    return bool((~_off(values, grid)).all())


def minima(grid: Grid) -> Tensor:
    """(rows, groups) float32: what an asymmetric grid's code of 0, counted from its lowest, is."""
    if grid.zero is None:
        raise ValueError("a symmetric grid has no minima")
    return (grid.low - grid.zero.float()) * grid.scale.float()


def has_exact_minima(grid: Grid) -> bool:
    """Whether scales and minima of an asymmetric grid are half-precision numbers."""
    return all(
        bool((t.to(torch.float16).double() == t.double()).all()) for t in (grid.scale, minima(grid))
    )


def encode_grid(codes: Tensor, grid: Grid, kind: BlockType) -> Bytes:
    """(rows, bytes) of a matrix of codes int8 (rows, width) on its grid, as blocks of `kind`.

    Raises:
        ValueError: a scale, minimum or integer that the type does not hold.
    """
    if kind not in MINIMUM_TYPES.values():
        return encode(integers(codes, grid.zero), grid, kind)
    if not has_exact_minima(grid):
        raise ValueError("a scale or minimum is no half-precision number")
    if grid.bits > 5:
        raise ValueError(f"codes of {grid.bits} bits do not fit into {kind.name}")
    head = np.concatenate([_head(t, codes.shape[1]) for t in (grid.scale, minima(grid))], axis=-1)
    unsigned = (codes.to(torch.int16) - grid.low).numpy().astype(np.uint8)
    body = _UNSIGNED[kind.name](unsigned.reshape(len(codes), -1, BLOCK))
    return np.concatenate((head, *body), axis=-1).reshape(len(codes), -1)


def _off(values: Tensor, grid: Grid) -> Tensor:
    """(rows, groups): whether a scale that matters is no half-precision number."""
    used = values.reshape(len(values), grid.scale.shape[1], -1).any(-1)
    return used & (grid.scale.to(torch.float16).double() != grid.scale.double())


def encode(values: Tensor, grid: Grid, kind: BlockType) -> Bytes:
    """(rows, bytes) of a matrix as blocks of `kind`.

    Args:
        values: (rows, width) integers within the type's range; groups are whole blocks.

    Raises:
        ValueError: a scale or an integer that the type does not hold.
    """
    if not is_exact(values, grid):
        raise ValueError("a scale is no half-precision number")
    low, high = int(values.min()), int(values.max())
    if low < kind.low or high > kind.high:
        raise ValueError(f"integers from {low} to {high} do not fit into {kind.name}")
    rows, width = values.shape
    used = values.reshape(rows, grid.scale.shape[1], -1).any(-1)
    # A block of zeros may have a scale below half precision's smallest, or none worth keeping.
    head = _head(torch.where(used, grid.scale.float(), torch.zeros(())), width)
    body = _BODIES[kind.name](values.numpy().reshape(rows, -1, BLOCK))
    return np.concatenate((head, *body), axis=-1).reshape(rows, -1)


def _head(values: Tensor, width: int) -> Bytes:
    """(rows, blocks, 2): a half-precision number of every block."""
    # A group of several blocks repeats its own.
    spread = values.to(torch.float16).repeat_interleave(width // BLOCK // values.shape[1], dim=1)
    raw = np.ascontiguousarray(spread.numpy().astype("<f2")).view(np.uint8)
    return raw.reshape(len(values), -1, 2)


def _halves(unsigned: Bytes) -> Bytes:
    """(rows, blocks, 16): number j below, number j + 16 above."""
    return (unsigned[..., :16] | (unsigned[..., 16:] << 4)).astype(np.uint8)


def _four(values: np.ndarray[Any, Any]) -> tuple[Bytes, ...]:
    return (_halves((values + 8).astype(np.uint8)),)


def _five(values: np.ndarray[Any, Any]) -> tuple[Bytes, ...]:
    return _unsigned_five((values + 16).astype(np.uint8))


def _unsigned_four(unsigned: Bytes) -> tuple[Bytes, ...]:
    return (_halves(unsigned),)


def _unsigned_five(unsigned: Bytes) -> tuple[Bytes, ...]:
    fifth = np.packbits(unsigned >> 4, axis=-1, bitorder="little")  # 32 bits, number 0 the lowest
    return fifth, _halves((unsigned & 0xF).astype(np.uint8))


def _eight(values: np.ndarray[Any, Any]) -> tuple[Bytes, ...]:
    return (values.astype(np.int8).view(np.uint8),)


_BODIES = {"Q4_0": _four, "Q5_0": _five, "Q8_0": _eight}
_UNSIGNED = {"Q4_1": _unsigned_four, "Q5_1": _unsigned_five}


def dense(values: Tensor, kind: str) -> Bytes:
    """(rows, bytes) of floating-point numbers, or (bytes,) of one dimension.

    Raises:
        ValueError: a number would be rounded.
    """
    dtype = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[kind]
    cast = values.to(dtype).contiguous()
    if not torch.equal(cast.to(values.dtype), values):
        raise ValueError(f"{values.dtype} numbers are rounded by {kind}")
    raw: Bytes = cast.view(torch.uint8).numpy()
    return raw
