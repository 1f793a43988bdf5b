"""Linear layers whose weights stay packed in memory, with torch's own kernels where they fit.

For a few rows (decode) the kernels read the packed weights directly. For many rows (prefill) it is
faster to unpack the layer once, multiply densely, and drop the dense copy again.
"""

from __future__ import annotations

from typing import Literal, final

import torch
from torch import Tensor, nn

from paredown.ops.affine import Grid

Kernel = Literal["int4", "int4x2", "int8", "unpack"]
"""`int4x2`: codes of 5 to 8 bits as two halves of 4 bits, `16 high + low`, in one int4 product."""

KERNEL_ROWS = 64
"""Up to this many rows the packed kernels beat unpacking once and multiplying densely."""
_INT4_GROUPS = (256, 128, 64, 32)
_BLOCKS = (64, 32, 16)


def kernel_group(grid: Grid, width: int) -> int | None:
    """The int4 kernel's group size for this grid, or None; larger groups repeat their scale."""
    return next((g for g in _INT4_GROUPS if grid.group_size % g == 0 and width % g == 0), None)


def choose_kernel(grid: Grid, rows: int, width: int, device: str) -> Kernel:
    """Which kernel computes with a (rows, width) matrix on this grid and device."""
    if device != "cpu":
        return "unpack"
    if grid.bits <= 4 and kernel_group(grid, width) and int4_block(rows) is not None:
        return "int4"
    if grid.group_size == width:
        return "int8"
    if grid.bits > 4 and kernel_group(grid, width) and int4_block(2 * rows) is not None:
        return "int4x2"
    return "unpack"


def dense_dtype(device: str) -> torch.dtype:
    """The dtype in which a dense product is fastest: bfloat16 only where the device has it."""
    if device == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return torch.float32
    if device == "cpu" and not (
        torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    ):
        return torch.float32
    return torch.bfloat16


@final
class PackedWeight(nn.Module):
    """A weight matrix (rows, width) kept as codes of 2 to 8 bits; multiplies from the right.

    Codes of up to 4 bits occupy 4 bits in memory, codes of 5 to 8 bits one byte, whatever the file
    holds, because that is what the kernels read.
    """

    codes: Tensor
    scale: Tensor
    zero: Tensor | None

    def __init__(self, codes: Tensor, grid: Grid, *, dtype: torch.dtype, device: str) -> None:
        """`codes` is (rows, width) int8 on `grid`; `dtype` is that of activations."""
        super().__init__()
        self.rows, self.width = codes.shape
        self.group_size = grid.group_size
        self.dtype = dtype
        # The int4 and int8 kernels are fast in bfloat16 only.
        self.kernel: Kernel = (
            choose_kernel(grid, self.rows, self.width, device)
            if dtype == torch.bfloat16
            else "unpack"
        )
        self.dense_dtype = dense_dtype(device) if dtype == torch.bfloat16 else dtype
        scale = grid.scale.float().to(device)
        if self.kernel in ("int4", "int4x2"):
            self._keep_int4(codes, grid, scale)
        else:
            zero_point = None if grid.zero is None else grid.zero.to(device)
            kept = scale[:, 0].to(dtype) if self.kernel == "int8" else scale
            self._keep(codes.to(device).contiguous(), kept, zero_point)

    def _keep_int4(self, codes: Tensor, grid: Grid, scale: Tensor) -> None:
        """Bring codes and scales into the form of torch's int4 kernel: `(q - 8) scale + shift`."""
        group = kernel_group(grid, self.width)
        if group is None:
            raise AssertionError("choose_kernel has checked this")
        zero = torch.zeros_like(scale) if grid.zero is None else grid.zero.float()
        shift = -zero * scale
        if self.kernel == "int4":
            unsigned = codes.to(torch.int32) + 8
            pairs = torch.stack((scale, shift), dim=-1)  # (rows, n_group, 2)
        else:
            high = codes >> 4  # code = 16 high + low, low in 0 .. 15
            unsigned = torch.cat((high.to(torch.int32) + 8, (codes - 16 * high).to(torch.int32)))
            highs = torch.stack((16 * scale, torch.zeros_like(scale)), dim=-1)
            pairs = torch.cat((highs, torch.stack((scale, shift + 8 * scale), dim=-1)))
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(unsigned.contiguous(), 8)
        pairs = pairs.repeat_interleave(grid.group_size // group, dim=1)
        self.group_size = group
        self._keep(packed, pairs.transpose(0, 1).to(self.dtype).contiguous(), None)

    def _keep(self, codes: Tensor, scale: Tensor, zero: Tensor | None) -> None:
        self.register_buffer("codes", codes, persistent=False)
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("zero", zero, persistent=False)

    def multiply(self, x: Tensor) -> Tensor:
        """`x W^T` for x (n, width): (n, rows) in x's dtype."""
        if self.kernel == "unpack" or len(x) > KERNEL_ROWS:
            return (x.to(self.dense_dtype) @ self.dense(self.dense_dtype).T).to(x.dtype)
        if self.kernel in ("int4", "int4x2"):
            y: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(
                x, self.codes, self.group_size, self.scale
            )
            return y if self.kernel == "int4" else y[:, : self.rows] + y[:, self.rows :]
        y = torch.ops.aten._weight_int8pack_mm(x, self.codes, self.scale)
        if self.zero is not None:
            y = y - x.sum(-1, keepdim=True) * (self.scale * self.zero[:, 0].to(x.dtype))
        return y

    def dense(self, dtype: torch.dtype) -> Tensor:
        """The weights, unpacked, (rows, width) in `dtype`; nothing is kept."""
        if self.kernel in ("int4", "int4x2"):
            rows = len(self.codes)
            groups = unpack_int4(self.codes, dtype).view(rows, -1, self.group_size)
            pairs = self.scale.transpose(0, 1).to(dtype)  # (rows, n_group, 2)
            dense = groups.sub_(8).mul_(pairs[..., :1]).add_(pairs[..., 1:])
            dense = dense.view(rows, self.width)
            return dense if self.kernel == "int4" else dense[: self.rows] + dense[self.rows :]
        groups = self.codes.view(self.rows, -1, self.group_size).to(dtype)
        if self.zero is not None:
            groups -= self.zero[..., None].to(dtype)
        scale = self.scale.view(self.rows, -1, 1).to(dtype)
        return groups.mul_(scale).view(self.rows, self.width)

    def extra_repr(self) -> str:
        return f"{self.rows}x{self.width}, group_size={self.group_size}, kernel={self.kernel}"


def unpack_int4(packed: Tensor, dtype: torch.dtype) -> Tensor:
    """Undo torch's int4 layout: unsigned codes (rows, width) from packed (rows, width / 2) uint8.

    The layout holds, for each block of rows and each input feature, the codes of the block's first
    half of rows in the low nibbles and of its second half in the high ones. The block's size
    depends on the processor; `int4_block` finds it by trying.
    """
    rows, half = packed.shape
    block = int4_block(rows)
    if block is None:
        raise AssertionError(f"{rows} rows were never packed")
    return _unpack_blocks(packed, rows, half * 2, block, dtype)


def _unpack_blocks(packed: Tensor, rows: int, width: int, block: int, dtype: torch.dtype) -> Tensor:
    tiles = packed.reshape(rows // block, width, block // 2)  # (block, width, half the rows)
    out = torch.empty(rows // block, 2, block // 2, width, dtype=dtype)
    out[:, 0].copy_((tiles & 15).transpose(1, 2))
    out[:, 1].copy_((tiles >> 4).transpose(1, 2))
    return out.view(rows, width)


_blocks_found: dict[int, int | None] = {}


def int4_block(rows: int) -> int | None:
    """Rows per block of torch's int4 layout on this processor, or None where it is not known."""
    if rows % 16:
        return None
    if rows not in _blocks_found:
        probe = torch.randint(0, 16, (rows, 32), generator=torch.Generator().manual_seed(0))
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(probe.to(torch.int32), 8)
        fits = (
            block
            for block in _BLOCKS
            if rows % block == 0
            and torch.equal(_unpack_blocks(packed, rows, 32, block, torch.int64), probe)
        )
        _blocks_found[rows] = next(fits, None)
    return _blocks_found[rows]


class _Shared:
    """One packed product of several linears that read the same input (q, k, v; gate, up).

    The first asked computes for all; the others find their part waiting, as long as they are asked
    with the very same tensor, unchanged. Nothing outlives its last reader.
    """

    def __init__(self, weight: PackedWeight, sizes: list[int]) -> None:
        self.weight, self.sizes = weight, sizes
        self._input: Tensor | None = None
        self._version = 0
        self._parts: dict[int, Tensor] = {}

    def product(self, x: Tensor, part: int) -> Tensor:
        """Rows of part number `part` of `x W^T`, in x's leading shape."""
        version = 0 if x.is_inference() else x._version  # grows with every change in place
        if self._input is not x or self._version != version or part not in self._parts:
            y = self.weight.multiply(x.reshape(-1, self.weight.width))
            y = y.view(*x.shape[:-1], y.shape[-1])
            if len(self.sizes) == 1:
                return y
            self._input, self._version = x, version
            self._parts = dict(enumerate(y.split(self.sizes, dim=-1)))
        found = self._parts.pop(part)
        if not self._parts:
            self._input = None
        return found


@final
class PackedLinear(nn.Module):
    """`y = x W^T + b`, W being some rows of a packed weight."""

    def __init__(self, shared: _Shared, part: int, bias: Tensor | None) -> None:
        super().__init__()
        self.weights = shared.weight
        self.shared, self.part = shared, part
        self.in_features, self.out_features = shared.weight.width, shared.sizes[part]
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.shared.product(x, self.part)
        return y if self.bias is None else y + self.bias

    @property
    def kernel(self) -> Kernel:
        """What computes this layer's product for a few rows."""
        return self.weights.kernel


def pack_linears(
    parts: list[tuple[Tensor, Grid, Tensor | None]], *, dtype: torch.dtype, device: str
) -> list[PackedLinear]:
    """Packed linears that read one input, as one product where their grids allow it.

    Args:
        parts: per linear its codes (rows, width) int8, grid, and bias (rows,) or None.
        dtype: dtype of activations.
        device: `cpu` or `cuda`.
    """
    first = parts[0][1]
    alike = all(
        (g.bits, g.group_size, g.zero is None) == (first.bits, first.group_size, first.zero is None)
        for _, g, _ in parts
    )
    if not alike:
        return [pack_linears([part], dtype=dtype, device=device)[0] for part in parts]
    zeros = [g.zero for _, g, _ in parts if g.zero is not None]
    grid = Grid(
        first.bits,
        first.group_size,
        torch.cat([g.scale for _, g, _ in parts]),
        torch.cat(zeros) if zeros else None,
    )
    weight = PackedWeight(torch.cat([c for c, _, _ in parts]), grid, dtype=dtype, device=device)
    shared = _Shared(weight, [len(codes) for codes, _, _ in parts])
    return [
        PackedLinear(shared, i, None if bias is None else bias.to(dtype))
        for i, (_, _, bias) in enumerate(parts)
    ]
