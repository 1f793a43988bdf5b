"""Two-level grids: bytes against gguf's own reader, fits, and GPTQ against a plain loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from paredown.errors import NumericsError
from paredown.ops import grids
from paredown.ops.gptq import Problem, curvature
from paredown.ops.superblock_bytes import pack_superblocks, unpack_superblocks
from paredown.ops.superblocks import SuperGrid, dequantize_super, fit_super, quantize_super
from paredown.spec.scheme import Scheme
from paredown.spec.superblocks import SUPER_LAYOUTS, superblock_bytes

WIDTHS = sorted(SUPER_LAYOUTS)
NUMBERS = {2: 10, 3: 11, 4: 12, 5: 13, 6: 14}
"""Of the types in GGUF files."""


def seeded(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def any_grid(bits: int, rows: int, width: int) -> tuple[Tensor, SuperGrid]:
    """Codes and a grid that use all that the type can hold."""
    layout, g = SUPER_LAYOUTS[bits], seeded(bits)
    supers, groups = (rows, width // 256), (rows, width // layout.group)
    half = 2 ** (bits - 1)
    codes = torch.randint(-half, half, (rows, width), generator=g, dtype=torch.int8)
    s = torch.randint(layout.lowest, layout.highest + 1, groups, generator=g).to(torch.int8)
    d = torch.randn(supers, generator=g).half()
    if not layout.has_minima:
        return codes, SuperGrid(bits, d, s, None, None)
    n = torch.randint(0, layout.highest + 1, groups, generator=g).to(torch.int8)
    return codes, SuperGrid(bits, d.abs(), s, torch.rand(supers, generator=g).half(), n)


def spread_weights(rows: int = 8, width: int = 512) -> Tensor:
    """Groups of very different sizes, as models have them."""
    sizes = torch.rand(rows, width // 16, 1, generator=seeded(1)) * 0.1 + 0.01
    return (torch.randn(rows, width // 16, 16, generator=seeded(2)) * sizes).reshape(rows, width)


@pytest.mark.parametrize("bits", WIDTHS)
def test_bytes_are_what_ggufs_own_reader_reads(bits: int) -> None:
    gguf = pytest.importorskip("gguf")
    codes, grid = any_grid(bits, 5, 768)
    raw = pack_superblocks(codes, grid)
    assert raw.nbytes == superblock_bytes(bits, (5, 768))
    read = gguf.quants.dequantize(raw.numpy(), gguf.GGMLQuantizationType(NUMBERS[bits]))
    assert np.array_equal(read, dequantize_super(codes, grid).numpy())


@pytest.mark.parametrize("bits", WIDTHS)
def test_bytes_become_the_codes_and_the_grid_that_they_were(bits: int) -> None:
    codes, grid = any_grid(bits, 3, 512)
    again, found = unpack_superblocks(pack_superblocks(codes, grid), bits)
    assert torch.equal(again, codes)
    assert found.tensors().keys() == grid.tensors().keys()
    assert all(torch.equal(t, found.tensors()[name]) for name, t in grid.tensors().items())


def test_a_weight_by_hand() -> None:
    """d = 0.5, s = 3, e = 0.25, n = 2: code q stands for 1.5 q - 0.5."""
    s, n = torch.zeros(1, 8, dtype=torch.int8), torch.zeros(1, 8, dtype=torch.int8)
    s[0, 1], n[0, 1] = 3, 2
    grid = SuperGrid(4, torch.tensor([[0.5]]).half(), s, torch.tensor([[0.25]]).half(), n)
    codes = torch.full((1, 256), -8, dtype=torch.int8)  # q = 0
    codes[0, 32], codes[0, 33] = -1, 7  # q = 7, q = 15
    found = dequantize_super(codes, grid)[0]
    assert found[32:35].tolist() == [10.0, 22.0, -0.5]
    assert found[0] == 0.0  # its group has neither scale nor minimum
    weight = torch.zeros(1, 256)
    weight[0, 32:35] = torch.tensor([10.6, 99.0, -0.5])
    assert quantize_super(weight, grid)[0, 32:35].tolist() == [-1, 7, -8]


@pytest.mark.parametrize("bits", WIDTHS)
def test_a_fit_beats_the_ends_of_the_ranges(bits: int) -> None:
    """Against scales from smallest and largest weights, rounded to integers of the largest."""
    weight, layout = spread_weights(), SUPER_LAYOUTS[bits]
    groups = weight.reshape(len(weight), -1, 256 // layout.group, layout.group)
    if layout.has_minima:
        low, high = groups.amin(-1).clamp(max=0), groups.amax(-1).clamp(min=0)
        scale, minimum = (high - low) / (2**bits - 1), -low
        d, e = (t.amax(-1, keepdim=True) / layout.highest for t in (scale, minimum))
        s, n = (scale / d).round(), (minimum / e).round()
        naive = SuperGrid(
            bits, d[..., 0].half(), s.flatten(1).to(torch.int8),
            e[..., 0].half(), n.flatten(1).to(torch.int8),
        )  # fmt: skip
    else:
        scale = groups.abs().amax(-1) / 2 ** (bits - 1)
        d = scale.amax(-1, keepdim=True) / layout.lowest
        s = (scale / d).round().flatten(1).to(torch.int8)
        naive = SuperGrid(bits, d[..., 0].half(), s, None, None)

    def error(grid: SuperGrid) -> Tensor:
        made = dequantize_super(quantize_super(weight, grid), grid)
        return (made - weight).square().sum(1)

    fitted = error(fit_super(weight, bits=bits))
    assert (fitted <= error(naive)).all()
    assert fitted.sum() < 0.93 * error(naive).sum()


def test_what_matters_more_is_kept_better() -> None:
    weight = spread_weights()
    heavy = torch.ones(512)
    heavy[::16] = 100.0
    errors = []
    for importance in (None, heavy):
        grid = fit_super(weight, bits=3, importance=importance)
        made = dequantize_super(quantize_super(weight, grid), grid)
        errors.append(float((made - weight)[:, ::16].square().sum()))
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize("bits", WIDTHS)
def test_zeros_stay_zeros_and_tiny_weights_weights(bits: int) -> None:
    weight = spread_weights(3)
    weight[0], weight[1] = 0.0, weight[1] * 1e-4
    weight[2, 256:] = 0.0
    grid = fit_super(weight, bits=bits)
    made = dequantize_super(quantize_super(weight, grid), grid)
    assert torch.equal(made[0], weight[0])
    assert torch.equal(made[2, 256:], weight[2, 256:])
    assert (made[1] - weight[1]).norm() < 0.45 * weight[1].norm()


def test_weights_beyond_half_precision_are_an_error() -> None:
    with pytest.raises(NumericsError, match="half precision"):
        fit_super(torch.full((1, 256), 1e9), bits=4)
    with pytest.raises(NumericsError, match="not finite"):
        fit_super(torch.full((1, 256), torch.inf), bits=4)


def plain_gptq(weight: Tensor, hessian: Tensor, grid: SuperGrid) -> Tensor:
    """Algorithm 1 of arXiv:2210.17323 in float64, column by column, in stored order."""
    h = hessian.double()
    h = h + 0.01 * h.diagonal().mean() * torch.eye(len(h), dtype=torch.float64)
    factor = torch.linalg.cholesky(torch.linalg.inv(h), upper=True)
    w = weight.double().clone()
    scale, minimum = grid.scale.double(), grid.minimum
    half = 2 ** (grid.bits - 1)
    low, high, shift = (-half, half - 1, 0) if minimum is None else (0, 2 * half - 1, half)
    codes = torch.empty(weight.shape, dtype=torch.int8)
    for j in range(weight.shape[1]):
        a = scale[:, j // grid.group_size]
        b = torch.zeros(len(w)) if minimum is None else minimum[:, j // grid.group_size]
        q = ((w[:, j] + b) / a).round().clamp(low, high)
        codes[:, j] = (q - shift).to(torch.int8)
        error = (w[:, j] - (q * a - b)) / factor[j, j]
        w[:, j + 1 :] -= error[:, None] * factor[j, j + 1 :]
    return codes


@pytest.mark.parametrize("bits", WIDTHS)
def test_gptq_solves_on_the_grid_as_a_plain_loop_does(bits: int) -> None:
    weight = spread_weights()
    x = torch.randn(2000, 512, generator=seeded(3)) @ torch.randn(512, 512, generator=seeded(4))
    hessian = x.T @ x / len(x)
    inputs = curvature(hessian, act_order=False)
    scheme = Scheme.superblock(bits)
    found = grids.solve(Problem(weight, inputs), scheme, scale_dtype=torch.bfloat16)
    assert isinstance(found.grid, SuperGrid)
    same = found.codes == plain_gptq(weight, hessian, found.grid)
    assert same.float().mean() > 0.995  # float32 against float64: few round the other way
    change = dequantize_super(found.codes, found.grid) - weight
    exact = torch.einsum("ri,ij,rj->", change, hessian, change)
    assert found.error == pytest.approx(float(exact), rel=1e-3)
    assert float(found.powers.sum()) == pytest.approx(
        float(torch.einsum("ri,ij,rj->", weight, hessian, weight)), rel=1e-3
    )
    nearest = dequantize_super(quantize_super(weight, found.grid), found.grid) - weight
    assert exact < 0.8 * torch.einsum("ri,ij,rj->", nearest, hessian, nearest)


def test_rows_and_stacks_of_grids_are_those_of_the_matrix() -> None:
    codes, grid = any_grid(4, 6, 256)
    parts = [grid.rows(slice(0, 2)), grid.rows(slice(2, 6))]
    again = grids.stack(parts)
    assert torch.equal(grids.dequantize(codes, again), grids.dequantize(codes, grid))
    picked = torch.tensor([5, 1])
    found = grids.dequantize(codes[picked], grid.rows(picked))
    assert torch.equal(found, grids.dequantize(codes, grid)[picked])
