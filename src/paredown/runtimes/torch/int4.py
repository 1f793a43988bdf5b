"""Layouts of torch's int4 kernels, on processors and on NVIDIA GPUs.

Both kernels compute `x ((q - 8) scale + shift)^T` for codes q of 4 bits and read the codes in an
order of their own, which no document fixes. So nothing is taken for granted: the order is found by
packing known codes, a kernel whose order is not understood or whose product is off is not used.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cache
from typing import final

import torch
from torch import Tensor

_BLOCKS = (64, 32, 16)
_TILE_ROWS, _TILE_WIDTH = 8, 128
"""What stands for itself in CUDA's layout with the most inner tiles (8) that it knows."""
_INNER_TILES = 8
_NIBBLES = 8
"""Codes in a 32-bit word."""
_WORD = 8
"""Bytes in a 64-bit word."""
_OFF = 0.02
"""Largest relative error of a product that counts as right: bfloat16 rounds to 0.004."""


class Int4Layout(ABC):
    """How one kernel wants codes of 4 bits; codes are unsigned, 0 to 15, of shape (rows, width)."""

    @abstractmethod
    def pack(self, codes: Tensor) -> Tensor:
        """Codes (rows, width) of any integer dtype in the kernel's order, half a byte each."""

    @abstractmethod
    def raise_codes(self, packed: Tensor, start: int, out: Tensor) -> Tensor:
        """Codes of rows `start` (a multiple of 64) and following, in the upper halves of bytes.

        Args:
            out: (width, count) uint8, contiguous, one column for each of the rows; becomes 16 q.
        """

    def unpack(self, packed: Tensor, start: int, out: Tensor) -> Tensor:
        """The same codes, row by row, into `out` (count, width) of any dtype."""
        raised = torch.empty(out.T.shape, dtype=torch.uint8, device=out.device)
        return out.copy_((self.raise_codes(packed, start, raised) >> 4).T)

    @abstractmethod
    def pick(self, packed: Tensor, rows: Tensor, width: int) -> Tensor:
        """Codes (n, width) of the rows numbered `rows` (n,)."""

    @abstractmethod
    def product(self, x: Tensor, packed: Tensor, group_size: int, pairs: Tensor) -> Tensor:
        """`x ((q - 8) scale + shift)^T`, (n, rows).

        Args:
            x: (n, width) bfloat16.
            packed: as `pack` made it.
            group_size: columns that share a pair: 32, 64, 128 or 256.
            pairs: scale and shift, (width / group_size, rows, 2) bfloat16.
        """


@final
class CpuInt4(Int4Layout):
    """The processor's layout: for each block of rows and each column, the codes of the block's
    first half of rows in the low halves of bytes, and of its second half in the high ones."""

    def __init__(self, block: int) -> None:
        self.block = block

    def pack(self, codes: Tensor) -> Tensor:
        packed: Tensor = torch.ops.aten._convert_weight_to_int4pack_for_cpu(
            codes.to(torch.int32).contiguous(), 8
        )
        return packed

    def raise_codes(self, packed: Tensor, start: int, out: Tensor) -> Tensor:
        width, rows = out.shape
        # Eight bytes at a time: byte by byte the transposition takes longer than all the rest.
        words = self.block // 2 // _WORD
        blocks = packed[start : start + rows].reshape(-1).view(torch.int64)
        blocks = blocks.view(rows // self.block, width, words).transpose(0, 1)
        halves = out.view(torch.int64).view(width, rows // self.block, 2, words)
        torch.bitwise_left_shift(blocks, 4, out=halves[:, :, 0])
        halves[:, :, 1].copy_(blocks)
        # Lower halves hold what the shift brought from the next byte, or the block's first rows.
        return out.bitwise_and_(0xF0)

    def pick(self, packed: Tensor, rows: Tensor, width: int) -> Tensor:
        half = self.block // 2
        within = rows % self.block
        tiles = packed.view(-1, width, half)
        found = tiles[rows // self.block, :, within % half]  # (n, width)
        return torch.where((within < half)[:, None], found & 15, found >> 4)

    def product(self, x: Tensor, packed: Tensor, group_size: int, pairs: Tensor) -> Tensor:
        y: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(x, packed, group_size, pairs)
        return y


@final
class CudaInt4(Int4Layout):
    """The GPU's layout (tinygemm): tiles of 8 rows and 128 columns, each in an order of its own."""

    def __init__(self, place: Tensor) -> None:
        """`place` (1024,): which code of a tile, counted row by row, each half byte holds."""
        # The inverse permutation: which half byte holds each code.
        self.order = place.argsort()

    def pack(self, codes: Tensor) -> Tensor:
        return _pack_cuda(codes)

    def raise_codes(self, packed: Tensor, start: int, out: Tensor) -> Tensor:
        width, rows = out.shape
        first = start // _TILE_ROWS
        tiles = self._tiles(packed[first : first + rows // _TILE_ROWS], width) << 4
        # (rows / 8, width / 128, 8, 128) -> (width / 128, 128, rows / 8, 8)
        out.view(-1, _TILE_WIDTH, rows // _TILE_ROWS, _TILE_ROWS).copy_(tiles.permute(1, 3, 0, 2))
        return out

    def pick(self, packed: Tensor, rows: Tensor, width: int) -> Tensor:
        tiles = self._tiles(packed[rows // _TILE_ROWS], width)  # (n, tiles, 8, 128)
        index = torch.arange(len(rows), device=rows.device)
        return tiles[index, :, rows % _TILE_ROWS].reshape(len(rows), width)

    def _tiles(self, packed: Tensor, width: int) -> Tensor:
        """(n, width / 128, 8, 128) codes of n rows of tiles."""
        codes = nibbles(packed).view(len(packed), width // _TILE_WIDTH, -1)
        return codes[..., self.order.to(codes.device)].view(*codes.shape[:2], _TILE_ROWS, -1)

    def product(self, x: Tensor, packed: Tensor, group_size: int, pairs: Tensor) -> Tensor:
        y: Tensor = torch.ops.aten._weight_int4pack_mm(x.contiguous(), packed, group_size, pairs)
        return y


def int4_layout(rows: int, width: int, device: str) -> Int4Layout | None:
    """The layout in which a (rows, width) matrix can be multiplied on `device`, if there is one."""
    if device == "cpu":
        return cpu_layout(rows)
    if device == "cuda" and rows % _TILE_ROWS == 0 and width % _TILE_WIDTH == 0:
        return _checked_cuda_layout()
    return None


@cache
def cpu_layout(rows: int) -> CpuInt4 | None:
    """The processor's layout for so many rows: its block depends on them and on the processor."""
    if rows % _BLOCKS[-1]:
        return None
    probe = torch.randint(0, 16, (rows, 32), generator=torch.Generator().manual_seed(0))
    for layout in (CpuInt4(block) for block in _BLOCKS if rows % block == 0):
        if torch.equal(layout.unpack(layout.pack(probe), 0, torch.empty_like(probe)), probe):
            return layout
    return None


@cache
def _checked_cuda_layout() -> CudaInt4 | None:
    """CUDA's layout, if the kernel exists on this GPU and computes what it should."""
    if not torch.cuda.is_available():
        return None
    try:
        place = find_places(_pack_cuda, "cuda")
        layout = None if place is None else CudaInt4(place)
        return layout if layout is not None and is_right(layout, "cuda") else None
    except (RuntimeError, AttributeError):
        # Before Ampere, on ROCm, or in a torch without it: layers are unpacked, and it is said so.
        return None


def _pack_cuda(codes: Tensor) -> Tensor:
    pairs = codes[:, ::2] << 4 | codes[:, 1::2]
    packed: Tensor = torch.ops.aten._convert_weight_to_int4pack(
        pairs.to(torch.uint8).contiguous(), _INNER_TILES
    )
    return packed


def nibbles(packed: Tensor) -> Tensor:
    """The halves of bytes of (rows of tiles, ...) 32-bit words, (rows of tiles, n)."""
    shifts = torch.arange(0, 4 * _NIBBLES, 4, dtype=torch.int32, device=packed.device)
    return ((packed.reshape(len(packed), -1, 1) >> shifts) & 15).flatten(1)


def find_places(pack: Callable[[Tensor], Tensor], device: str) -> Tensor | None:
    """Which code of a tile each half byte holds, (1024,); None if that is not a permutation.

    A code has only 4 bits, so the tile is packed three times, with 4 bits of each place's number.
    """
    number = torch.arange(_TILE_ROWS * _TILE_WIDTH, device=device)
    place = torch.zeros_like(number)
    for shift in (0, 4, 8):
        codes = (number >> shift & 15).view(_TILE_ROWS, _TILE_WIDTH)
        found = nibbles(pack(codes)).flatten()
        if len(found) != len(number):
            return None
        place |= found.to(place.dtype) << shift
    return place if torch.equal(place.sort().values, number) else None


def is_right(layout: Int4Layout, device: str) -> bool:
    """Whether codes survive the layout, and the product is that of the codes, on random data."""
    generator = torch.Generator().manual_seed(0)
    rows, width, group = 4 * _TILE_ROWS, 3 * _TILE_WIDTH, 64
    codes = torch.randint(0, 16, (rows, width), generator=generator)
    pairs = torch.randn(width // group, rows, 2, generator=generator).to(torch.bfloat16)
    x = torch.randn(5, width, generator=generator).to(torch.bfloat16)
    packed = layout.pack(codes.to(device))
    if not torch.equal(
        layout.unpack(packed, 0, torch.empty_like(codes, device=device)).cpu(), codes
    ):
        return False
    spread = pairs.float().repeat_interleave(group, dim=0).transpose(0, 1)  # (rows, width, 2)
    exact = x.float() @ ((codes - 8) * spread[..., 0] + spread[..., 1]).T
    found = layout.product(x.to(device), packed, group, pairs.to(device)).float().cpu()
    return bool((found - exact).norm() <= _OFF * exact.norm())
