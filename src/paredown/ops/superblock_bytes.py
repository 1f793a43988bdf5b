"""Codes on two-level grids as bytes, and back: the super-blocks of llama.cpp's K-types.

Artifacts store these bytes as they are, and GGUF files the same ones.

Source: the structs of ggml-common.h and `dequantize_row_q2_K` to `_q6_K` of ggml-quants.c.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from paredown.ops.superblocks import SuperGrid
from paredown.spec.superblocks import SUPER_LAYOUTS, SUPERBLOCK

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


def pack_superblocks(codes: Tensor, grid: SuperGrid) -> Tensor:
    """(rows, bytes) uint8 of int8 codes (rows, width)."""
    rows = len(codes)
    offset = 2 ** (grid.bits - 1)
    q = (codes.cpu().numpy().astype(np.int16) + offset).astype(np.uint8).reshape(-1, SUPERBLOCK)
    s = grid.s.cpu().numpy().reshape(len(q), -1)
    n = None if grid.n is None else grid.n.cpu().numpy().astype(np.uint8).reshape(len(q), -1)
    parts = _PACK[grid.bits](q, s, n, _halves(grid.d), _halves(grid.e))
    return torch.from_numpy(np.concatenate(parts, axis=1).reshape(rows, -1))


def unpack_superblocks(raw: Tensor, bits: int) -> tuple[Tensor, SuperGrid]:
    """The codes (rows, width) and the grid that `pack_superblocks` made `raw` of."""
    rows = len(raw)
    blocks = raw.cpu().numpy().reshape(-1, SUPER_LAYOUTS[bits].nbytes)
    q, s, n, d, e = _UNPACK[bits](blocks)
    codes = (q.astype(np.int16) - 2 ** (bits - 1)).astype(np.int8).reshape(rows, -1)

    def tensor(values: Any, dtype: Any) -> Tensor:
        # A copy: slices of the raw bytes are neither aligned nor writable.
        return torch.from_numpy(np.ascontiguousarray(values).view(dtype).reshape(rows, -1).copy())

    return torch.from_numpy(codes), SuperGrid(
        bits,
        tensor(d, "<f2"),
        tensor(s.astype(np.int8), np.int8),
        None if e is None else tensor(e, "<f2"),
        None if n is None else tensor(n.astype(np.int8), np.int8),
    )


def _halves(values: Tensor | None) -> Bytes:
    """(blocks, 2): half-precision numbers, low byte first; none of None."""
    if values is None:
        return np.empty((0, 2), dtype=np.uint8)
    return values.cpu().numpy().astype("<f2").reshape(-1, 1).view(np.uint8)


def _interleave(q: Bytes, span: int, bits: int) -> Bytes:
    """Codes of `bits` bits: a byte holds those of one place in neighbouring spans, first lowest.

    (blocks, 256) -> (blocks, 256 bits / 8).
    """
    each = 8 // bits
    spans = q.reshape(len(q), -1, each, span)
    found = np.zeros(spans[:, :, 0].shape, dtype=np.uint8)
    for place in range(each):
        found |= spans[:, :, place] << np.uint8(bits * place)
    return found.reshape(len(q), -1)


def _spread(raw: Bytes, span: int, bits: int) -> Bytes:
    """The reverse of `_interleave`."""
    each = 8 // bits
    shift = (np.arange(each, dtype=np.uint8) * np.uint8(bits)).reshape(1, 1, each, 1)
    spans = raw.reshape(len(raw), -1, 1, span) >> shift
    return (spans & np.uint8(2**bits - 1)).reshape(len(raw), -1)


# --- 2 bits: n and s share a byte -----------------------------------------------------------------


def _pack_two(q: Bytes, s: Any, n: Any, d: Bytes, e: Bytes) -> tuple[Bytes, ...]:
    return (s.astype(np.uint8) | (n << np.uint8(4))), _interleave(q, 32, 2), d, e


def _unpack_two(blocks: Bytes) -> tuple[Any, ...]:
    levels, q, d, e = np.split(blocks, [16, 80, 82], axis=1)
    return _spread(q, 32, 2), levels & 0xF, levels >> 4, d, e


# --- 3 bits: two below, the third in a mask; s in 6 bits, shifted by 32 ---------------------------


def _pack_three(q: Bytes, s: Any, n: Any, d: Bytes, e: Bytes) -> tuple[Bytes, ...]:
    levels = (s.astype(np.int16) + 32).astype(np.uint8)  # (blocks, 16)
    low = (levels[:, :8] & 0xF) | ((levels[:, 8:] & 0xF) << np.uint8(4))
    return (
        _interleave(q >> np.uint8(2), 32, 1),
        _interleave(q & np.uint8(3), 32, 2),
        low,
        _interleave(levels >> np.uint8(4), 4, 2),
        d,
    )


def _unpack_three(blocks: Bytes) -> tuple[Any, ...]:
    mask, q, low, high, d = np.split(blocks, [32, 96, 104, 108], axis=1)
    levels = np.concatenate((low & 0xF, low >> 4), axis=1) | (_spread(high, 4, 2) << np.uint8(4))
    codes = _spread(q, 32, 2) | (_spread(mask, 32, 1) << np.uint8(2))
    return codes, levels.astype(np.int16) - 32, None, d, None


# --- 4 and 5 bits: eight s and eight n of 6 bits in 12 bytes --------------------------------------


def _pack_levels(s: Any, n: Bytes) -> Bytes:
    """(blocks, 12): the first four s, the first four n, each with two bits of one of the last
    four above; then the lower four bits of those, s below n."""
    s = s.astype(np.uint8)
    first_s = s[:, :4] | ((s[:, 4:] >> np.uint8(4)) << np.uint8(6))
    first_n = n[:, :4] | ((n[:, 4:] >> np.uint8(4)) << np.uint8(6))
    last = (s[:, 4:] & 0xF) | ((n[:, 4:] & 0xF) << np.uint8(4))
    return np.concatenate((first_s, first_n, last), axis=1)


def _unpack_levels(raw: Bytes) -> tuple[Bytes, Bytes]:
    first_s, first_n, last = np.split(raw, 3, axis=1)
    s = np.concatenate((first_s & 63, (last & 0xF) | ((first_s >> 6) << np.uint8(4))), axis=1)
    n = np.concatenate((first_n & 63, (last >> 4) | ((first_n >> 6) << np.uint8(4))), axis=1)
    return s, n


def _pack_four(q: Bytes, s: Any, n: Any, d: Bytes, e: Bytes) -> tuple[Bytes, ...]:
    return d, e, _pack_levels(s, n), _interleave(q, 32, 4)


def _unpack_four(blocks: Bytes) -> tuple[Any, ...]:
    d, e, levels, q = np.split(blocks, [2, 4, 16], axis=1)
    return _spread(q, 32, 4), *_unpack_levels(levels), d, e


def _pack_five(q: Bytes, s: Any, n: Any, d: Bytes, e: Bytes) -> tuple[Bytes, ...]:
    fifth = _interleave(q >> np.uint8(4), 32, 1)
    return d, e, _pack_levels(s, n), fifth, _interleave(q & np.uint8(15), 32, 4)


def _unpack_five(blocks: Bytes) -> tuple[Any, ...]:
    d, e, levels, fifth, q = np.split(blocks, [2, 4, 16, 48], axis=1)
    codes = _spread(q, 32, 4) | (_spread(fifth, 32, 1) << np.uint8(4))
    return codes, *_unpack_levels(levels), d, e


# --- 6 bits: four below, two above; s a byte ------------------------------------------------------


def _pack_six(q: Bytes, s: Any, n: Any, d: Bytes, e: Bytes) -> tuple[Bytes, ...]:
    low, high = _interleave(q & np.uint8(15), 64, 4), _interleave(q >> np.uint8(4), 32, 2)
    return low, high, s.astype(np.int8).view(np.uint8), d


def _unpack_six(blocks: Bytes) -> tuple[Any, ...]:
    low, high, s, d = np.split(blocks, [128, 192, 208], axis=1)
    codes = _spread(low, 64, 4) | (_spread(high, 32, 2) << np.uint8(4))
    return codes, np.ascontiguousarray(s).view(np.int8), None, d, None


_PACK = {2: _pack_two, 3: _pack_three, 4: _pack_four, 5: _pack_five, 6: _pack_six}
_UNPACK = {2: _unpack_two, 3: _unpack_three, 4: _unpack_four, 5: _unpack_five, 6: _unpack_six}
