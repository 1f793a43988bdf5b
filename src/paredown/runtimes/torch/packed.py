"""Linear layers whose weights stay packed in memory, with torch's own kernels where they fit.

For a few rows (decode) the kernels read the packed weights directly. For many rows (prefill) it is
faster to unpack the layer once, multiply densely, and drop the dense copy again.
"""

from __future__ import annotations

from functools import cache
from typing import Literal, Protocol, final

import torch
from torch import Tensor, nn

from paredown.ops.affine import Grid
from paredown.runtimes.torch.buffers import buffer
from paredown.runtimes.torch.int4 import Int4Layout, int4_layout

Kernel = Literal["int4", "int4x2", "int8", "unpack"]
"""`int4x2`: codes of 5 to 8 bits as two halves of 4 bits, `16 high + low`, in one int4 product."""

KERNEL_ROWS = 32
"""Up to this many rows the packed kernels beat unpacking once and multiplying densely."""
DENSE_ELEMENTS = 1 << 21
"""Unpacked at a time; larger matrices, such as a head's, are multiplied in slices of rows."""
_INT8_STEP = 16
"""torch's int8 kernel reads so many codes at once, beyond a row whose width is no multiple of it:
wrong products, or a crash where the memory behind is not ours."""
_INT4_GROUPS = (256, 128, 64, 32)
_STEP = 64
"""Slices of rows start at multiples of this, so that they hold whole blocks of every layout."""


def kernel_group(grid: Grid, width: int) -> int | None:
    """The int4 kernel's group size for this grid, or None; larger groups repeat their scale."""
    return next((g for g in _INT4_GROUPS if grid.group_size % g == 0 and width % g == 0), None)


def choose_kernel(grid: Grid, rows: int, width: int, device: str) -> Kernel:
    """Which kernel computes with a (rows, width) matrix on this grid and device."""
    grouped = kernel_group(grid, width) is not None
    if grid.bits <= 4 and grouped and int4_layout(rows, width, device) is not None:
        return "int4"
    # One scale per row is all that the int8 kernel takes.
    if grid.group_size == width and width % _INT8_STEP == 0 and int8_works(device):
        return "int8"
    if grid.bits > 4 and grouped and int4_layout(2 * rows, width, device) is not None:
        return "int4x2"
    return "unpack"


@cache
def int8_works(device: str) -> bool:
    """Whether torch has its int8 kernel for `device`, and it computes what it should."""
    if device == "cpu":
        return True
    if not torch.cuda.is_available():
        return False
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(-128, 128, (64, 256), generator=generator, dtype=torch.int8)
    scale = torch.rand(64, generator=generator).to(torch.bfloat16)
    x = torch.randn(3, 256, generator=generator).to(torch.bfloat16)
    exact = x.float() @ (codes.float() * scale.float()[:, None]).T
    try:
        found = torch.ops.aten._weight_int8pack_mm(x.to(device), codes.to(device), scale.to(device))
    except RuntimeError:  # no such kernel there: layers are unpacked
        return False
    return bool((found.float().cpu() - exact).norm() <= 0.02 * exact.norm())


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
        self.layout: Int4Layout | None = None
        self.shifted = False
        self.dense_dtype = dense_dtype(device) if dtype == torch.bfloat16 else dtype
        scale = grid.scale.float().to(device)
        if self.kernel in ("int4", "int4x2"):
            self._keep_int4(codes, grid, scale)
        else:
            zero_point = None if grid.zero is None else grid.zero.to(device)
            kept = scale[:, 0].to(dtype) if self.kernel == "int8" else scale
            self._keep(codes.to(device).contiguous(), kept, zero_point)

    def _keep_int4(self, codes: Tensor, grid: Grid, scale: Tensor) -> None:
        """Bring codes and scales into the form of torch's int4 kernels: `(q - 8) scale + shift`."""
        group = kernel_group(grid, self.width)
        if group is None:
            raise AssertionError("choose_kernel has checked this")
        zero = torch.zeros_like(scale) if grid.zero is None else grid.zero.to(scale)
        self.shifted = grid.zero is not None
        # (code - zero) scale = ((code + 8) - 8) scale + shift.
        shift = -zero * scale
        if self.kernel == "int4":
            unsigned = codes.to(torch.int32) + 8
            pairs = torch.stack((scale, shift), dim=-1)  # (rows, n_group, 2)
        else:
            high = codes >> 4  # code = 16 high + low, low in 0 .. 15
            unsigned = torch.cat((high.to(torch.int32) + 8, (codes - 16 * high).to(torch.int32)))
            # 16 high scale + low scale: what the kernel takes off the low half (8 scale), its shift
            # gives back.
            highs = torch.stack((16 * scale, torch.zeros_like(scale)), dim=-1)
            pairs = torch.cat((highs, torch.stack((scale, shift + 8 * scale), dim=-1)))
        self.layout = int4_layout(len(unsigned), self.width, scale.device.type)
        packed = self._int4.pack(unsigned.to(scale.device))
        pairs = pairs.repeat_interleave(grid.group_size // group, dim=1)
        self.group_size = group
        self._keep(packed, pairs.transpose(0, 1).to(self.dtype).contiguous(), None)

    @property
    def _int4(self) -> Int4Layout:
        if self.layout is None:
            raise AssertionError("choose_kernel has checked that there is one")
        return self.layout

    def _keep(self, codes: Tensor, scale: Tensor, zero: Tensor | None) -> None:
        self.register_buffer("codes", codes, persistent=False)
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("zero", zero, persistent=False)

    def multiply(self, x: Tensor) -> Tensor:
        """`x W^T` for x (n, width): (n, rows) in x's dtype."""
        if self.kernel == "unpack" or len(x) > KERNEL_ROWS:
            return self._multiply_dense(x)
        y: Tensor
        if self.kernel in ("int4", "int4x2"):
            y = self._int4.product(x, self.codes, self.group_size, self.scale)
            return y if self.kernel == "int4" else y[:, : self.rows] + y[:, self.rows :]
        y = torch.ops.aten._weight_int8pack_mm(x, self.codes, self.scale)
        if self.zero is not None:
            # sum_j x_j (q_j - z) s: the kernel knows no zero-point, so z s sum_j x_j comes off
            # here.
            y = y - x.sum(-1, keepdim=True) * (self.scale * self.zero[:, 0].to(x.dtype))
        return y

    def _multiply_dense(self, x: Tensor) -> Tensor:
        """The same by unpacking a slice of rows at a time, into buffers that all layers share."""
        wide = x.to(self.dense_dtype)
        step = max(_STEP, DENSE_ELEMENTS // self.width // _STEP * _STEP)
        slices = [(k, min(k + step, self.rows)) for k in range(0, self.rows, step)]
        if torch.is_grad_enabled() and x.requires_grad:  # autograd would keep the buffers
            parts = [wide @ self._turned(*rows, self.dense_dtype, reuse=False) for rows in slices]
            return torch.cat(parts, dim=-1).to(x.dtype)
        if len(slices) == 1:
            return (wide @ self._turned(*slices[0], self.dense_dtype, reuse=True)).to(x.dtype)
        y = x.new_empty(len(x), self.rows)
        for start, stop in slices:
            y[:, start:stop] = wide @ self._turned(start, stop, self.dense_dtype, reuse=True)
        return y

    def dense(self, dtype: torch.dtype) -> Tensor:
        """The weights, unpacked, (rows, width) in `dtype`; nothing is kept."""
        return self._turned(0, self.rows, dtype, reuse=False).T.contiguous()

    def _turned(self, start: int, stop: int, dtype: torch.dtype, *, reuse: bool) -> Tensor:
        """Rows `start` to `stop` (start a multiple of 64), unpacked, as (width, stop - start)."""
        if self.kernel in ("int4", "int4x2"):
            return self._turned_int4(start, stop, dtype, reuse=reuse)
        codes = self.codes[start:stop].view(stop - start, -1, self.group_size)
        groups = buffer(codes.shape, dtype, codes.device, slot=0 if reuse else None).copy_(codes)
        if self.zero is not None:
            groups -= self.zero[start:stop, :, None].to(dtype)
        scale = self.scale[start:stop].view(stop - start, -1, 1).to(dtype)
        return groups.mul_(scale).view(stop - start, self.width).T

    def _turned_int4(self, start: int, stop: int, dtype: torch.dtype, *, reuse: bool) -> Tensor:
        # Codes come column by column, as the kernel keeps them, and pass through whole bytes: each
        # step is then one pass over contiguous memory, which is what makes it fast.
        pairs = self.scale[:, start:stop]  # (n_group, rows, 2)
        if self.kernel == "int4":
            raised = self._raised(start, stop, slot=0 if reuse else None)
            codes, scale = raised.bitwise_xor_(0x80), pairs[..., :1] / 16  # 16 (q - 8), signed
            shift = pairs[..., 1:]
        else:
            high, low = self._both_halves(start, stop, reuse=reuse)
            codes = high.bitwise_xor_(0x80).bitwise_or_(low.bitwise_right_shift_(4))
            pairs = self.scale[:, self.rows + start : self.rows + stop]
            scale, shift = pairs[..., :1], pairs[..., 1:] - 8 * pairs[..., :1]
        shape = (self.width, stop - start)
        out = buffer(shape, dtype, codes.device, slot=0 if reuse else None)
        groups = out.copy_(codes.view(torch.int8)).view(-1, self.group_size, stop - start)
        groups.mul_(scale.to(dtype).transpose(1, 2))
        if self.shifted:
            groups.add_(shift.to(dtype).transpose(1, 2))
        return out

    def _both_halves(self, start: int, stop: int, *, reuse: bool) -> tuple[Tensor, Tensor]:
        if self.rows % _STEP:  # the low halves begin within a block
            both = self._raised(0, 2 * self.rows, slot=None)
            low = both[:, self.rows + start : self.rows + stop].contiguous()
            return both[:, start:stop].contiguous(), low
        low = self._raised(self.rows + start, self.rows + stop, slot=1 if reuse else None)
        return self._raised(start, stop, slot=0 if reuse else None), low

    def _raised(self, start: int, stop: int, *, slot: int | None) -> Tensor:
        out = buffer((self.width, stop - start), torch.uint8, self.codes.device, slot=slot)
        return self._int4.raise_codes(self.codes, start, out)

    def exact(self, x: Tensor) -> Tensor:
        """What `multiply` stands for, in plain float32 arithmetic."""
        return x.float() @ self.dense(torch.float32).T

    def lookup(self, index: Tensor) -> Tensor:
        """Some rows of the weights, (*index.shape, width) in the dtype of activations."""
        rows = index.reshape(-1)
        if self.kernel in ("int4", "int4x2"):
            found = self._lookup_int4(rows)
            if self.kernel == "int4x2":
                found = found + self._lookup_int4(rows + self.rows)
        else:
            groups = self.codes[rows].view(len(rows), -1, self.group_size).float()
            if self.zero is not None:
                groups -= self.zero[rows][..., None].float()
            found = groups * self.scale[rows].view(len(rows), -1, 1).float()
        return found.view(*index.shape, self.width).to(self.dtype)

    def _lookup_int4(self, rows: Tensor) -> Tensor:
        codes = self._int4.pick(self.codes, rows, self.width)
        pairs = self.scale[:, rows].transpose(0, 1).float()  # (n, n_group, 2)
        groups = codes.view(len(rows), -1, self.group_size).float() - 8
        return (groups * pairs[..., :1] + pairs[..., 1:]).view(len(rows), self.width)

    def extra_repr(self) -> str:
        return f"{self.rows}x{self.width}, group_size={self.group_size}, kernel={self.kernel}"


class Weight(Protocol):
    """A weight matrix (rows, width) in whatever form; multiplies from the right."""

    rows: int
    width: int
    dtype: torch.dtype
    codes: Tensor

    @property
    def kernel(self) -> str:
        """What computes the product for a few rows."""

    def multiply(self, x: Tensor) -> Tensor:
        """`x W^T` for x (n, width): (n, rows) in x's dtype."""

    def exact(self, x: Tensor) -> Tensor:
        """What `multiply` stands for, in plain float32 arithmetic."""


class _Shared:
    """One packed product of several linears that read the same input (q, k, v; gate, up).

    The first asked computes for all; the others find their part waiting, as long as they are asked
    with the very same tensor, unchanged. Nothing outlives its last reader.
    """

    def __init__(self, weight: Weight, sizes: list[int]) -> None:
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
    def kernel(self) -> str:
        """What computes this layer's product for a few rows."""
        return self.weights.kernel


@final
class PackedEmbedding(nn.Module):
    """Rows of a packed weight by token id; a tied head is a `PackedLinear` on the same weight."""

    def __init__(self, weight: PackedWeight, factor: float = 1.0) -> None:
        """`factor` multiplies every embedding (Gemma's square root of the width)."""
        super().__init__()
        self.weights, self.factor = weight, factor
        self.num_embeddings, self.embedding_dim = weight.rows, weight.width

    def forward(self, ids: Tensor) -> Tensor:
        found = self.weights.lookup(ids)
        return found if self.factor == 1.0 else found * self.factor


def linear_on(weight: PackedWeight) -> PackedLinear:
    """A head that multiplies by an embedding's packed weight."""
    return linears_on(weight, [weight.rows], [None])[0]


def linears_on(weight: Weight, sizes: list[int], biases: list[Tensor | None]) -> list[PackedLinear]:
    """Linears that are `sizes` rows each of one weight, and so share one product."""
    shared = _Shared(weight, sizes)
    return [
        PackedLinear(shared, i, None if bias is None else bias.to(weight.dtype))
        for i, bias in enumerate(biases)
    ]


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
    return linears_on(weight, [len(c) for c, _, _ in parts], [bias for _, _, bias in parts])
