"""Fitting and rounding on two-level grids: `w = (d s) q - (e n)`, the K-types of llama.cpp.

d and e are half-precision numbers of a super-block of 256 inputs, s and n small integers of a group
of 16 or 32, q the code. A grid is fitted in three steps: real-valued scale and minimum of every
group (least squares on the codes of ranges that shrink); d and e from the largest of them; then,
by turns, s and n each one up or down where that helps, and d and e by least squares again. Every
step is kept only where the weighted error falls.

Given the grid, adding `e n` to the weights leaves an affine grid without a minimum, on which any
solver works as it is: errors, and so what GPTQ passes on, are the same.

Source: the layouts of ggml-common.h (llama.cpp); GPTQ codes on such grids: Frantar et al. 2022
(arXiv:2210.17323), whose columns only need a grid that is fixed beforehand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from paredown.errors import NumericsError
from paredown.ops import affine
from paredown.ops.affine import SHRINK, Grid, require_finite
from paredown.spec.superblocks import SUPER_LAYOUTS, SUPERBLOCK, SuperLayout

_AT_ONCE = 1 << 20
"""Weights that are fitted together: what fits into a processor's cache is several times faster."""
_TURNS = 2
"""How often integers and super-scales are improved in turns; a third changes next to nothing."""
_SMALLEST = 2.0**-24
"""Of the half-precision numbers."""
_TINY = 1e-30
"""In the place of a scale of 0, by which nothing could be divided."""


@final
@dataclass(frozen=True)
class SuperGrid:
    """The two-level grid of a matrix.

    Attributes:
        bits: width of one code.
        d: (out, n_super) float16.
        s: (out, n_group) int8, within the layout's bounds.
        e: (out, n_super) float16 >= 0, or None for types without minima.
        n: (out, n_group) int8 >= 0, or None likewise.
    """

    bits: int
    d: Tensor
    s: Tensor
    e: Tensor | None
    n: Tensor | None

    @property
    def layout(self) -> SuperLayout:
        return SUPER_LAYOUTS[self.bits]

    @property
    def group_size(self) -> int:
        """Inputs that share s and n."""
        return self.layout.group

    @property
    def scale(self) -> Tensor:
        """(out, n_group) float32: d s, exact (11 times 8 significant bits)."""
        return _spread(self.d, self.s) * self.s.float()

    @property
    def minimum(self) -> Tensor | None:
        """(out, n_group) float32: e n, exact; None where all are 0."""
        if self.e is None or self.n is None:
            return None
        return _spread(self.e, self.n) * self.n.float()

    @classmethod
    def of(cls, bits: int, tensors: Mapping[str, Tensor]) -> SuperGrid:
        """The grid made of these `tensors()`."""
        return cls(bits, tensors["d"], tensors["s"], tensors.get("e"), tensors.get("n"))

    def rows(self, index: Tensor | slice) -> SuperGrid:
        """That of some rows of the matrix."""
        return self.with_tensors({n: t[index].contiguous() for n, t in self.tensors().items()})

    def to(self, device: torch.device | str) -> SuperGrid:
        """The same on a device."""
        return self.with_tensors({name: t.to(device) for name, t in self.tensors().items()})

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> SuperGrid:
        """A grid of the same kind made of other `tensors()`."""
        return SuperGrid.of(self.bits, tensors)

    def tensors(self) -> dict[str, Tensor]:
        """What it is made of, by name."""
        found = {"d": self.d, "s": self.s, "e": self.e, "n": self.n}
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    def shifted(self, weight: Tensor) -> tuple[Tensor, Grid]:
        """The weights plus their groups' minima, and the affine grid that is left for them."""
        scale = self.scale
        scale = torch.where(scale == 0, _TINY, scale)
        minimum = self.minimum
        if minimum is None:
            return weight.float(), Grid(self.bits, self.group_size, scale, None)
        # Codes are stored signed; the smallest stands for q = 0.
        bottom = torch.full_like(self.s, -(2 ** (self.bits - 1)))
        moved = weight.float() + minimum.repeat_interleave(self.group_size, dim=1)
        return moved, Grid(self.bits, self.group_size, scale, bottom)


def _spread(supers: Tensor, groups: Tensor) -> Tensor:
    """(out, n_super) float16 for every group, float32."""
    return supers.float().repeat_interleave(groups.shape[1] // supers.shape[1], dim=1)


def quantize_super(weight: Tensor, grid: SuperGrid) -> Tensor:
    """Nearest codes of `weight` (out, inp) on `grid`: int8 (out, inp)."""
    return affine.quantize(*grid.shifted(weight))


def dequantize_super(codes: Tensor, grid: SuperGrid, dtype: torch.dtype = torch.float32) -> Tensor:
    """`(d s) q - (e n)`, (out, inp) in `dtype`; computed in float32, as llama.cpp does."""
    unsigned = codes.reshape(len(codes), -1, grid.group_size).float()
    if (minimum := grid.minimum) is None:
        found = unsigned * grid.scale[..., None]
    else:
        unsigned += float(2 ** (grid.bits - 1))
        found = unsigned * grid.scale[..., None] - minimum[..., None]
    return found.reshape(codes.shape).to(dtype)


def fit_super(
    weight: Tensor, *, bits: int, importance: Tensor | None = None, steps: int = 20
) -> SuperGrid:
    """Choose scales and minima of every super-block and group.

    Args:
        weight: (out, inp), any float dtype; `inp` a multiple of 256.
        bits: 2 to 6.
        importance: (inp,) weight of each input feature's squared error; None counts all alike.
        steps: how many smaller ranges of a group to try, down to `SHRINK` of the full one.

    Raises:
        NumericsError: a weight is not finite, or too large for half-precision scales.
    """
    require_finite(weight)
    layout = SUPER_LAYOUTS[bits]
    width = weight.shape[1]
    h = torch.ones(width) if importance is None else importance.float()
    h = h.to(weight.device).reshape(1, width // SUPERBLOCK, -1, layout.group)
    parts = [
        _fit(part.float().reshape(len(part), *h.shape[1:]), h, layout, steps)
        for part in weight.split(max(1, _AT_ONCE // width))
    ]
    d, s, e, n = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    if not (d.isfinite().all() and e.isfinite().all()):
        raise NumericsError("weights are too large for scales in half precision")
    return SuperGrid(bits, d, s, *((e, n) if layout.has_minima else (None, None)))


# --- The fit --------------------------------------------------------------------------------------
# x and h are (rows, n_super, n_group, group); s, n and errors (rows, n_super, n_group); d and e
# (rows, n_super, 1). All are float32 until the end; e and n stay 0 where there are no minima.


def _fit(x: Tensor, h: Tensor, layout: SuperLayout, steps: int) -> tuple[Tensor, ...]:
    """d, s, e and n of some rows, in the dtypes they are stored in."""
    found = _Fit(x, h, layout, *_first(x, h, layout, steps))
    for _ in range(_TURNS):
        for step in (1.0, -1.0):
            found.offer("s", (found.s + step).clamp(layout.lowest, layout.highest))
        if layout.has_minima:
            for step in (1.0, -1.0):
                found.offer("n", (found.n + step).clamp(0, layout.highest))
        found.offer_supers(*found.least_squares())
    return (
        found.d.squeeze(-1).half(),
        found.s.flatten(1).to(torch.int8),
        found.e.squeeze(-1).half(),
        found.n.flatten(1).to(torch.int8),
    )


def _first(
    x: Tensor, h: Tensor, layout: SuperLayout, steps: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """d, s, e and n from real-valued scales and minima of the groups."""
    if not layout.has_minima:
        scale = _real_scales(x, h, layout.bits, steps)
        # The largest becomes the lowest integer, of which there is one more than of positive ones.
        largest = scale.gather(-1, scale.abs().argmax(-1, keepdim=True))
        d = _half(largest / layout.lowest)
        s = (scale / d).round_().clamp_(layout.lowest, layout.highest)
        return d, s, torch.zeros_like(d), torch.zeros_like(s)
    scale, minimum = _real_ranges(x, h, 2**layout.bits - 1, steps)
    d, e = (_half(t.amax(-1, keepdim=True) / layout.highest) for t in (scale, minimum))
    s, n = ((t / u).round_().clamp_(0, layout.highest) for t, u in ((scale, d), (minimum, e)))
    return d, s, e, n


@dataclass
class _Fit:
    """Super-blocks while they are improved: only what lowers the error is taken."""

    x: Tensor
    h: Tensor
    layout: SuperLayout
    d: Tensor
    s: Tensor
    e: Tensor
    n: Tensor

    def __post_init__(self) -> None:
        self.q, self.error = self._rounded(self.d * self.s, self.e * self.n)

    def offer(self, name: str, integers: Tensor) -> None:
        """Other integers `s` or `n` for every group."""
        s, n = (integers, self.n) if name == "s" else (self.s, integers)
        q, error = self._rounded(self.d * s, self.e * n)
        better = error < self.error
        self.s, self.n = torch.where(better, s, self.s), torch.where(better, n, self.n)
        self._take(better, q, error)

    def offer_supers(self, d: Tensor, e: Tensor) -> None:
        """Other d and e for every super-block."""
        q, error = self._rounded(d * self.s, e * self.n)
        better = error.sum(-1, keepdim=True) < self.error.sum(-1, keepdim=True)
        self.d, self.e = torch.where(better, d, self.d), torch.where(better, e, self.e)
        self._take(better, q, error)

    def _take(self, better: Tensor, q: Tensor, error: Tensor) -> None:
        self.q = torch.where(better[..., None], q, self.q)
        self.error = torch.where(better, error, self.error)

    def _rounded(self, scale: Tensor, minimum: Tensor) -> tuple[Tensor, Tensor]:
        return _rounded(self.x, self.h, scale, minimum, _codes(self.layout))

    def least_squares(self) -> tuple[Tensor, Tensor]:
        """d and e that minimise sum h (d (s q) - e n - x)^2 for the codes as they are."""
        sq, n = self.s[..., None] * self.q, self.n[..., None]
        hs, hn = self.h * sq, self.h * n
        ss, sn, nn = _total(hs * sq), _total(hs * n), _total(hn * n)
        sx, nx = _total(hs * self.x), _total(hn * self.x)
        if not self.layout.has_minima:
            return _half(torch.where(ss > _TINY, sx / ss, self.d)), self.e
        det = ss * nn - sn * sn
        d, e = (nn * sx - sn * nx) / det, (sn * sx - ss * nx) / det
        usable = (det > _TINY) & (d > 0) & (e >= 0)
        return _half(torch.where(usable, d, self.d)), _half(torch.where(usable, e, self.e))


def _total(values: Tensor) -> Tensor:
    """Sums over super-blocks, (rows, n_super, 1)."""
    return values.sum((-2, -1))[..., None]


def _codes(layout: SuperLayout) -> tuple[int, int]:
    """Smallest and largest q."""
    half = 2 ** (layout.bits - 1)
    return (0, 2 * half - 1) if layout.has_minima else (-half, half - 1)


def _rounded(
    x: Tensor, h: Tensor, scale: Tensor, minimum: Tensor, ends: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Nearest codes between `ends`, and the weighted squared error of every group."""
    divisor = torch.where(scale == 0, _TINY, scale)[..., None]
    moved = x + minimum[..., None]
    q = (moved / divisor).round_().clamp_(*ends)
    return q, (q * scale[..., None]).sub_(moved).square_().mul_(h).sum(-1)


def _real_ranges(x: Tensor, h: Tensor, top: int, steps: int) -> tuple[Tensor, Tensor]:
    """Scale and minimum (>= 0) of every group, real-valued."""
    low, high = x.amin(-1).clamp(max=0.0), x.amax(-1).clamp(min=0.0)
    span = (high - low).clamp(min=_TINY)
    scale, minimum = span / top, -low
    least = _rounded(x, h, scale, minimum, (0, top))[1]
    weight, hx = h.sum(-1), h * x
    sx = hx.sum(-1)
    for i in range(steps + 1):
        factor = 1.0 - (1.0 - SHRINK) * i / max(steps, 1)
        step, bottom = span * factor / top, -low * factor
        q, _ = _rounded(x, h, step, bottom, (0, top))
        # Minimise sum h (a q - b - x)^2 over a and b >= 0: the normal equations of a line.
        hq = h * q
        sq, sqq, sqx = hq.sum(-1), (hq * q).sum(-1), (hx * q).sum(-1)
        det = weight * sqq - sq * sq
        a, b = (weight * sqx - sq * sx) / det, (sq * sqx - sqq * sx) / det
        a = torch.where(b < 0, sqx / sqq, a)
        usable = (det > _TINY) & (a > 0)
        a, b = torch.where(usable, a, step), torch.where(usable, b.clamp(min=0.0), bottom)
        error = _rounded(x, h, a, b, (0, top))[1]
        better = error < least
        least = torch.where(better, error, least)
        scale, minimum = torch.where(better, a, scale), torch.where(better, b, minimum)
    return scale, minimum


def _real_scales(x: Tensor, h: Tensor, bits: int, steps: int) -> Tensor:
    """Scale of every group, real-valued, negative where its largest weight is positive."""
    extreme = x.gather(-1, x.abs().argmax(-1, keepdim=True)).squeeze(-1)
    half = 2 ** (bits - 1)
    none, ends = torch.zeros_like(extreme), (-half, half - 1)
    scale: Tensor = extreme / -half  # codes reach further down than up
    least = _rounded(x, h, scale, none, ends)[1]
    for i in range(steps + 1):
        factor = 1.0 - (1.0 - SHRINK) * i / max(steps, 1)
        q, _ = _rounded(x, h, extreme * factor / -half, none, ends)
        hq = h * q
        sqq = (hq * q).sum(-1)
        a = torch.where(sqq > _TINY, (hq * x).sum(-1) / sqq, scale)
        error = _rounded(x, h, a, none, ends)[1]
        better = error < least
        least, scale = torch.where(better, error, least), torch.where(better, a, scale)
    return scale


def _half(ideal: Tensor) -> Tensor:
    """Rounded to half precision, as float32, and never 0: integers are found by dividing by it."""
    found = ideal.half().float()
    sign = torch.where(ideal < 0, -_SMALLEST, _SMALLEST)
    return torch.where(found == 0, sign, found)
