"""Packed linears against the same weights multiplied densely."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from paredown.ops.affine import Grid, dequantize, fit_grid, quantize
from paredown.runtimes.torch.packed import (
    KERNEL_ROWS,
    PackedEmbedding,
    PackedLinear,
    PackedWeight,
    choose_kernel,
    pack_linears,
)

Part = tuple[Tensor, Grid, Tensor | None]


def part(
    rows: int,
    width: int,
    bits: int,
    group_size: int,
    *,
    symmetric: bool = True,
    bias: bool = False,
    seed: int = 0,
) -> Part:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, width, generator=generator) / width**0.5
    grid = fit_grid(
        weight + (0.0 if symmetric else 0.02),
        bits=bits,
        group_size=group_size,
        symmetric=symmetric,
        scale_dtype=torch.bfloat16,
    )
    shift = torch.randn(rows, generator=generator) if bias else None
    return quantize(weight, grid), grid, shift


def inputs(rows: int, width: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(9)).to(dtype)


def expected(x: Tensor, made: Part) -> Tensor:
    codes, grid, bias = made
    y = x.float() @ dequantize(codes, grid).T
    return y if bias is None else y + bias.float()


def assert_close(found: Tensor, exact: Tensor, dtype: torch.dtype) -> None:
    assert found.dtype == dtype
    assert found.shape == exact.shape
    limit = 1e-5 if dtype == torch.float32 else 0.015
    assert (found.float() - exact).norm() <= limit * exact.norm()


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("group_size", [32, 64, 128])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_products_are_those_of_the_dense_weight(
    bits: int, group_size: int, symmetric: bool, dtype: torch.dtype
) -> None:
    made = part(64, 128, bits, group_size, symmetric=symmetric, bias=True)
    layer = pack_linears([made], dtype=dtype, device="cpu")[0]
    for rows in (1, 3, KERNEL_ROWS, KERNEL_ROWS + 1):
        x = inputs(rows, 128, dtype)
        assert_close(layer(x), expected(x, made), dtype)
    weight = layer.weights
    assert isinstance(weight, PackedWeight)
    assert_close(weight.dense(dtype), dequantize(*made[:2]), dtype)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize(("rows", "group_size"), [(64, 32), (96, 64), (208, 192), (33, 16)])
def test_unpacked_symmetric_weights_are_exact(bits: int, rows: int, group_size: int) -> None:
    codes, grid, _ = part(rows, 192, bits, group_size)
    weight = PackedWeight(codes, grid, dtype=torch.bfloat16, device="cpu")
    assert torch.equal(
        weight.dense(torch.float32), codes * grid.scale.float().repeat_interleave(group_size, dim=1)
    )


def test_kernels_by_shape_and_bits() -> None:
    four = part(64, 128, 4, 32)[1]
    eight = part(64, 128, 8, 128)[1]
    assert choose_kernel(four, 64, 128, "cpu") == "int4"
    assert choose_kernel(four, 7, 128, "cpu") == "unpack"
    assert choose_kernel(four, 64, 128, "cuda") == "unpack"
    assert choose_kernel(part(64, 128, 4, 16)[1], 64, 128, "cpu") == "unpack"
    assert choose_kernel(eight, 64, 128, "cpu") == "int8"
    assert choose_kernel(part(64, 128, 8, 32)[1], 64, 128, "cpu") == "int4x2"


@pytest.mark.parametrize("width", [8, 15, 17, 24, 31, 32, 48])
@pytest.mark.parametrize("rows", [1, 3, 7, 16, 33])
@pytest.mark.parametrize("symmetric", [True, False])
def test_one_scale_per_row_of_any_width(rows: int, width: int, symmetric: bool) -> None:
    """torch's int8 kernel reads beyond rows of 15, 17 or 31 codes, and crashes at the last."""
    made = part(rows, width, 8, width, symmetric=symmetric, bias=True)
    layer = pack_linears([made], dtype=torch.bfloat16, device="cpu")[0]
    assert layer.kernel == ("int8" if width in (32, 48) else "unpack")
    sizes = dequantize(*made[:2]).norm(dim=1)
    for count in (1, 3, KERNEL_ROWS + 1):
        x = inputs(count, width, torch.bfloat16)
        # Of single products some nearly cancel out, so the error is held against their terms.
        terms = x.float().norm(dim=1, keepdim=True) * sizes + expected(x, made).abs()
        assert ((layer(x).float() - expected(x, made)).abs() <= 0.01 * terms).all()


def test_torchs_kernel_is_never_called_beyond_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[int] = []

    def product(x: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
        called.append(codes.shape[1])
        return x @ (codes * scale[:, None]).T.to(x.dtype)

    monkeypatch.setattr(torch.ops.aten, "_weight_int8pack_mm", product)
    for width in range(1, 129):
        made = part(4, width, 8, width)
        pack_linears([made], dtype=torch.bfloat16, device="cpu")[0](
            inputs(1, width, torch.bfloat16)
        )
    assert called == [16, 32, 48, 64, 80, 96, 112, 128]


@pytest.mark.parametrize(("bits", "bytes_per_weight"), [(2, 0.5), (4, 0.5), (8, 1.0)])
def test_packed_weights_stay_packed(bits: int, bytes_per_weight: float) -> None:
    codes, grid, _ = part(64, 128, bits, 128)
    weight = PackedWeight(codes, grid, dtype=torch.bfloat16, device="cpu")
    weight.multiply(inputs(KERNEL_ROWS + 1, 128, torch.bfloat16))  # leaves no dense copy behind
    held = sum(b.numel() * b.element_size() for b in weight.buffers())
    assert held <= 64 * 128 * bytes_per_weight + 4 * 2 * 64 + 512


@pytest.mark.parametrize("shape", [(128,), (2, 3, 128), (1, 1, 128), (0, 128)])
def test_leading_dimensions_are_kept(shape: tuple[int, ...]) -> None:
    made = part(64, 128, 4, 32)
    layer = pack_linears([made], dtype=torch.bfloat16, device="cpu")[0]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(2)).bfloat16()
    y = layer(x)
    assert y.shape == (*shape[:-1], 64)
    if x.numel():
        assert_close(y, expected(x, made), torch.bfloat16)


Siblings = tuple[list[Part], list[PackedLinear]]


@pytest.fixture(params=[(4, 32), (4, 16), (8, 128), (8, 32)])
def siblings(request: pytest.FixtureRequest) -> Siblings:
    """q, k and v of unequal width, with biases, fused into one product of each kernel."""
    bits, group_size = request.param
    made = [
        part(rows, 128, bits, group_size, bias=True, symmetric=False, seed=i)
        for i, rows in enumerate((128, 64, 64))
    ]
    return made, pack_linears(made, dtype=torch.bfloat16, device="cpu")


def test_siblings_share_one_weight(siblings: Siblings) -> None:
    _, layers = siblings
    assert len({id(layer.weights) for layer in layers}) == 1
    assert [layer.out_features for layer in layers] == [128, 64, 64]
    assert all(layer.in_features == 128 for layer in layers)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (1, 1, 0, 2, 2)])
@pytest.mark.parametrize("rows", [1, 5, KERNEL_ROWS + 1])
def test_siblings_equal_those_packed_alone(
    siblings: Siblings, order: tuple[int, ...], rows: int
) -> None:
    made, layers = siblings
    alone = [pack_linears([m], dtype=torch.bfloat16, device="cpu")[0] for m in made]
    x = inputs(rows, 128, torch.bfloat16)
    for i in order:
        torch.testing.assert_close(layers[i](x), alone[i](x), rtol=0.01, atol=0.01)


def test_siblings_asked_with_different_inputs(siblings: Siblings) -> None:
    made, layers = siblings
    one, two = inputs(2, 128, torch.bfloat16), -2 * inputs(2, 128, torch.bfloat16)
    for i, x in ((0, one), (1, two), (2, one), (1, one), (0, two), (0, one), (2, two)):
        assert_close(layers[i](x), expected(x, made[i]), torch.bfloat16)


def test_only_one_sibling_asked_again_and_again(siblings: Siblings) -> None:
    made, layers = siblings
    for factor in (1.0, 2.0, 3.0):
        x = inputs(2, 128, torch.bfloat16) * factor
        assert_close(layers[1](x), expected(x, made[1]), torch.bfloat16)


def test_an_input_changed_in_place_is_not_answered_from_before(siblings: Siblings) -> None:
    made, layers = siblings
    x = inputs(2, 128, torch.bfloat16)
    layers[0](x)
    x.mul_(-3)
    assert_close(layers[1](x), expected(x, made[1]), torch.bfloat16)


def test_nothing_outlives_its_last_reader(siblings: Siblings) -> None:
    _, layers = siblings
    x = inputs(2, 128, torch.bfloat16)
    for layer in layers:
        layer(x)
    shared = layers[0].shared
    assert shared._parts == {}
    assert shared._input is None


def test_siblings_of_unlike_grids_are_kept_apart() -> None:
    made = [part(64, 128, 4, 32), part(64, 128, 8, 32), part(64, 128, 4, 32, symmetric=False)]
    layers = pack_linears(made, dtype=torch.bfloat16, device="cpu")
    assert len({id(layer.weights) for layer in layers}) == 3
    x = inputs(2, 128, torch.bfloat16)
    for layer, one in zip(layers, made, strict=True):
        assert_close(layer(x), expected(x, one), torch.bfloat16)


@pytest.mark.parametrize("rows", [128, 96])
@pytest.mark.parametrize(("bits", "group_size"), [(4, 32), (6, 32), (8, 160), (4, 16), (8, 16)])
@pytest.mark.parametrize("symmetric", [True, False])
def test_rows_are_looked_up_in_every_layout(
    rows: int, bits: int, group_size: int, symmetric: bool
) -> None:
    codes, grid, _ = part(rows, 160, bits, group_size, symmetric=symmetric)
    weight = PackedWeight(codes, grid, dtype=torch.bfloat16, device="cpu")
    ids = torch.tensor([[0, rows - 1, 31], [32, 64, 31]])
    found = PackedEmbedding(weight, factor=2.0)(ids)
    assert found.shape == (2, 3, 160)
    assert_close(found, 2 * dequantize(codes, grid)[ids], torch.bfloat16)


@pytest.mark.parametrize(("bits", "group_size"), [(4, 32), (8, 32), (8, 160), (4, 16)])
@pytest.mark.parametrize("rows", [192, 96])
def test_a_large_matrix_is_unpacked_in_slices(
    monkeypatch: pytest.MonkeyPatch, bits: int, group_size: int, rows: int
) -> None:
    made = part(rows, 160, bits, group_size, symmetric=False)
    (layer,) = pack_linears([made], dtype=torch.bfloat16, device="cpu")
    x = inputs(KERNEL_ROWS + 1, 160, torch.bfloat16)
    whole = layer(x)
    monkeypatch.setattr("paredown.runtimes.torch.packed.DENSE_ELEMENTS", 64 * 160)
    assert_close(layer(x), whole.float(), torch.bfloat16)


def test_shared_buffers_do_not_reach_results_or_gradients() -> None:
    one, two = (
        pack_linears([part(64, 64, 8, 32, seed=seed)], dtype=torch.float32, device="cpu")[0]
        for seed in (0, 5)
    )
    x = inputs(3, 64, torch.float32).requires_grad_()
    with torch.inference_mode():
        first = one(x.detach())
        kept = first.clone()
        two(x.detach())
        assert torch.equal(first, kept)
    (one(x) + two(x)).sum().backward()
    assert x.grad is not None
    expected_row = sum(dequantize(*part(64, 64, 8, 32, seed=seed)[:2]).sum(0) for seed in (0, 5))
    assert isinstance(expected_row, Tensor)
    torch.testing.assert_close(x.grad, expected_row.expand(3, 64))
