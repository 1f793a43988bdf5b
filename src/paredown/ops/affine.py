"""Affine quantisation of weight matrices in groups of neighbouring input features.

Codes are signed, as compressed-tensors stores them: `-2**(b-1) .. 2**(b-1)-1`, and
`w = (code - zero) * scale`. Scales are rounded to the dtype they are stored in *before* codes are
chosen, so that what is stored is exactly what was optimised.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from paredown.errors import NumericsError
from paredown.ops import compiled

SHRINK = 0.5
"""Smallest fraction of a group's range that the scale search tries."""


@dataclass(frozen=True)
class Grid:
    """Scales and zero-points of a matrix: one of each per group.

    Attributes:
        bits: width of one code.
        group_size: input features per group.
        scale: (out, n_group), dtype as stored, > 0.
        zero: (out, n_group) int8 in code range, or None for a symmetric grid.
    """

    bits: int
    group_size: int
    scale: Tensor
    zero: Tensor | None

    def rows(self, index: Tensor | slice) -> Grid:
        """That of some rows of the matrix."""
        return self.with_tensors({n: t[index].contiguous() for n, t in self.tensors().items()})

    def to(self, device: torch.device | str) -> Grid:
        """The same on a device."""
        return self.with_tensors({name: t.to(device) for name, t in self.tensors().items()})

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Grid:
        """A grid of the same kind made of other `tensors()`."""
        return Grid(self.bits, self.group_size, tensors["scale"], tensors.get("zero"))

    def tensors(self) -> dict[str, Tensor]:
        """What it is made of, by name."""
        return {"scale": self.scale} | ({} if self.zero is None else {"zero": self.zero})

    @property
    def low(self) -> int:
        return -int(2 ** (self.bits - 1))

    @property
    def high(self) -> int:
        return int(2 ** (self.bits - 1) - 1)


def require_finite(weight: Tensor, name: str = "weight") -> None:
    """Raise NumericsError, with the count, if `weight` holds a NaN or an infinity."""
    if weight.sum(dtype=torch.float32).isfinite():  # one pass, and the rule
        return
    n_bad = int((~torch.isfinite(weight)).sum())  # 0 where only the sum was too large
    if n_bad:
        raise NumericsError(f"{name}: {n_bad} of {weight.numel()} weights are not finite")


def fit_grid(
    weight: Tensor,
    *,
    bits: int,
    group_size: int,
    symmetric: bool,
    scale_dtype: torch.dtype,
    importance: Tensor | None = None,
    steps: int = 0,
    scale_bits: int | None = None,
) -> Grid:
    """Choose scale and zero-point of every group.

    The full range of each group is the starting point; `steps` > 0 also tries smaller ranges and
    keeps, per group, the one with the least squared error weighted by `importance`.

    Args:
        weight: (out, inp), any float dtype; the arithmetic is done in float32.
        bits: width of one code, 2 to 8.
        group_size: input features per group; must divide `inp`.
        symmetric: zero-point fixed at 0; else the range always contains 0.0.
        scale_dtype: dtype in which scales will be stored.
        importance: (inp,) weight of each input feature's squared error; None counts all alike.
        steps: how many smaller ranges to try, evenly spaced down to `SHRINK` of the full one.
        scale_bits: significant bits of a scale, at most; None: as many as its dtype has.

    Raises:
        NumericsError: `weight` holds a NaN or an infinity.

    Source: Jacob et al. 2018 (arXiv:1712.05877), eq. 1; groups and range search:
    Frantar et al. 2022 (arXiv:2210.17323) and its public code.
    """
    require_finite(weight)
    groups = weight.float().reshape(len(weight), -1, group_size)  # (out, n_group, group_size)
    weights = None if importance is None else importance.float().reshape(1, -1, group_size)
    # The range always holds 0, so the zero-point is a code and a weight of zero stays zero.
    low, high = groups.amin(-1).clamp(max=0.0), groups.amax(-1).clamp(min=0.0)  # (out, n_group)
    if symmetric:
        high = torch.maximum(high, -low)
        low = -high

    def spanning(factor: float) -> Grid:
        ends = low * factor, high * factor
        return _grid(*ends, bits, group_size, symmetric, scale_dtype, scale_bits)

    best = spanning(1.0)
    if steps == 0:
        return best
    best_scale, best_zero = best.scale, best.zero
    space = torch.empty(groups.shape, device=groups.device)  # one for all ranges that are tried
    least = _group_error(groups, best, weights, space)  # (out, n_group)
    for i in range(1, steps + 1):
        factor = 1.0 - (1.0 - SHRINK) * i / steps
        trial = spanning(factor)
        error = _group_error(groups, trial, weights, space)
        better = error < least
        least = torch.where(better, error, least)
        best_scale = torch.where(better, trial.scale, best_scale)
        if best_zero is not None and trial.zero is not None:
            best_zero = torch.where(better, trial.zero, best_zero)
    return Grid(bits, group_size, best_scale, best_zero)


def _grid(
    low: Tensor,
    high: Tensor,
    bits: int,
    group_size: int,
    symmetric: bool,
    dtype: torch.dtype,
    scale_bits: int | None,
) -> Grid:
    levels = 2**bits - 1
    # A symmetric range ends half a step beyond the highest code (7.5 steps at 4 bits), so the
    # largest positive weight is clipped by half a step at most.
    ideal = (high - low) / levels
    ideal = ideal if scale_bits is None else short_scale(ideal, scale_bits)
    scale = stored_scale(ideal, dtype, levels)
    if symmetric:
        return Grid(bits, group_size, scale, None)
    bottom = -(2 ** (bits - 1))
    # The lowest weight of the range gets the lowest code.
    zero = (bottom - low / scale.float()).round().clamp(bottom, bottom + levels)
    return Grid(bits, group_size, scale, zero.to(torch.int8))


def smallest_scale(dtype: torch.dtype) -> float:
    """The smallest scale that is stored: for float16 a subnormal number, 2**-24.

    The smallest *normal* float16, 6e-5, would be the step of every group of small weights: at 8
    bits, all groups within 0.0078 would lose bits, and a model whose weights are spread over a
    wide range (one matrix scaled down, the next one up) would not be itself any more. The other
    dtypes reach down to 1e-38, where no model has weights.
    """
    info = torch.finfo(dtype)
    return float(info.tiny * info.eps) if dtype is torch.float16 else float(info.tiny)


def short_scale(ideal: Tensor, bits: int) -> Tensor:
    """Scales rounded to `bits` significant bits, the last of them worth 2**-24 at least.

    So a scale times an integer of `11 - bits` bits is a half-precision number.
    """
    ideal = ideal.clamp(min=2.0**-24)
    _, exponent = torch.frexp(ideal)
    quantum = torch.ldexp(torch.ones_like(ideal), exponent - bits).clamp(min=2.0**-24)
    return (ideal / quantum).round() * quantum


def stored_scale(ideal: Tensor, dtype: torch.dtype, levels: float) -> Tensor:
    """Scales rounded to the dtype they are stored in, none of them 0.

    Subnormal float16 numbers lie `smallest_scale` apart, which for the smallest scales is much of
    their size. Rounded down by more than a step in `levels`, a scale would clip the group's
    largest weights; it is rounded up instead.
    """
    smallest = smallest_scale(dtype)
    scale = ideal.clamp(min=smallest).to(dtype)
    if dtype is not torch.float16:
        return scale
    short = ideal > scale.float() * (1.0 + 1.0 / levels)
    # Not where a float16 ends: what is too large for it stays infinite, and is refused elsewhere.
    higher = (scale.float() + smallest).to(dtype)
    return torch.where(short & scale.isfinite(), higher, scale)


def _group_error(groups: Tensor, grid: Grid, weights: Tensor | None, space: Tensor) -> Tensor:
    """Squared error of every group, (out, n_group); `space` of the groups' shape is overwritten."""
    scale = grid.scale.float()
    zero = None if grid.zero is None else grid.zero.float()
    found = compiled.loops() if groups.device.type == "cpu" else None
    if found is not None:
        size = grid.group_size
        compiled.squares(
            found,
            groups.reshape(-1, size),
            scale.reshape(-1),
            (torch.zeros_like(scale) if zero is None else zero).reshape(-1),
            groups.new_ones(1, size) if weights is None else weights.reshape(-1, size),
            grid.low,
            grid.high,
            space.view(-1, size),
        )
        # Added by torch: the order of a sum is part of its bits.
        return space.sum(-1)
    codes = torch.div(groups, scale[..., None], out=space).round_()
    if zero is None:
        codes.clamp_(grid.low, grid.high)
    else:
        codes.add_(zero[..., None]).clamp_(grid.low, grid.high).sub_(zero[..., None])
    error = codes.mul_(scale[..., None]).sub_(groups).square_()
    return (error if weights is None else error.mul_(weights)).sum(-1)


def quantize(weight: Tensor, grid: Grid) -> Tensor:
    """Nearest codes of `weight` (out, inp) on `grid`: int8 (out, inp).

    Error bound: |w - dequantize(...)| <= scale / 2 for every w within the grid's range.
    """
    groups = weight.float().reshape(len(weight), -1, grid.group_size)
    codes = (groups / grid.scale.float()[..., None]).round_()
    if grid.zero is not None:
        codes += grid.zero.float()[..., None]
    return codes.clamp_(grid.low, grid.high).to(torch.int8).reshape(weight.shape)


def dequantize(codes: Tensor, grid: Grid, dtype: torch.dtype = torch.float32) -> Tensor:
    """`(code - zero) * scale`, (out, inp) in `dtype`; computed in float32."""
    groups = codes.reshape(len(codes), -1, grid.group_size).float()
    if grid.zero is not None:
        groups = groups - grid.zero.float()[..., None]
    return (groups * grid.scale.float()[..., None]).reshape(codes.shape).to(dtype)
