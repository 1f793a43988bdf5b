"""Layouts of the int4 kernels: undone, found by trying, refused where not understood."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from paredown.ops.affine import dequantize, fit_grid, quantize
from paredown.runtimes.torch import int4
from paredown.runtimes.torch.int4 import (
    CudaInt4,
    cpu_layout,
    find_places,
    int4_layout,
    is_right,
    nibbles,
)
from paredown.runtimes.torch.packed import PackedWeight, choose_kernel

Pack = Callable[[Tensor], Tensor]


def codes_of(rows: int, width: int, seed: int = 1) -> Tensor:
    return torch.randint(0, 16, (rows, width), generator=torch.Generator().manual_seed(seed))


def emulated_pack(order: Tensor) -> Pack:
    """A GPU's packing, computed here: each tile of 8 x 128 in an order of its own, 8 to a word."""

    def pack(codes: Tensor) -> Tensor:
        rows, width = codes.shape
        tiles = codes.view(rows // 8, 8, width // 128, 128).transpose(1, 2).flatten(2)
        words = tiles[..., order].view(rows // 8, width // 128, 32, 4, 8).to(torch.int64)
        packed = (words << torch.arange(0, 32, 4)).sum(-1)
        return torch.where(packed >= 1 << 31, packed - (1 << 32), packed).to(torch.int32)

    return pack


def some_order(seed: int = 3) -> Tensor:
    return torch.randperm(1024, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> CudaInt4:
    pack = emulated_pack(some_order())
    monkeypatch.setattr(int4, "_pack_cuda", pack)
    place = find_places(pack, "cpu")
    assert place is not None
    return CudaInt4(place)


def product_by(layout: CudaInt4) -> Callable[[Tensor, Tensor, int, Tensor], Tensor]:
    """What the GPU's kernel computes, from its own layout."""

    def product(x: Tensor, packed: Tensor, group_size: int, pairs: Tensor) -> Tensor:
        codes = layout.unpack(packed, 0, torch.empty(pairs.shape[1], x.shape[1]))
        spread = pairs.float().repeat_interleave(group_size, dim=0).transpose(0, 1)
        return (x.float() @ ((codes - 8) * spread[..., 0] + spread[..., 1]).T).to(x.dtype)

    return product


@pytest.mark.parametrize("rows", [16, 32, 48, 64, 80, 96, 112, 128, 160, 576])
@pytest.mark.parametrize("width", [32, 96, 160])
def test_the_layout_of_the_processor_is_undone(rows: int, width: int) -> None:
    layout = cpu_layout(rows)
    if layout is None:  # then nothing is packed this way
        assert rows % 64
        weight = torch.randn(rows, 32)
        grid = fit_grid(weight, bits=4, group_size=32, symmetric=True, scale_dtype=torch.bfloat16)
        assert choose_kernel(grid, rows, 32, "cpu") != "int4"
        return
    codes = codes_of(rows, width)
    packed = layout.pack(codes)
    assert torch.equal(layout.unpack(packed, 0, torch.empty_like(codes)), codes)
    picked = torch.tensor([rows - 1, 0, rows // 2, 0])
    assert torch.equal(layout.pick(packed, picked, width), codes[picked].to(torch.uint8))


def test_codes_are_raised_column_by_column() -> None:
    layout = cpu_layout(192)
    assert layout is not None
    codes = codes_of(192, 32)
    raised = layout.raise_codes(layout.pack(codes), 64, torch.empty(32, 128, dtype=torch.uint8))
    assert torch.equal(raised, 16 * codes[64:].T.to(torch.uint8))


def test_rows_that_no_block_divides_have_no_layout() -> None:
    assert int4_layout(24, 128, "cpu") is None


def test_a_packed_weight_uses_the_layout_of_the_processor() -> None:
    weight = torch.randn(64, 128, generator=torch.Generator().manual_seed(0))
    grid = fit_grid(weight, bits=4, group_size=64, symmetric=False, scale_dtype=torch.bfloat16)
    packed = PackedWeight(quantize(weight, grid), grid, dtype=torch.bfloat16, device="cpu")
    assert packed.layout is cpu_layout(64)


def test_half_bytes_of_a_word_by_hand() -> None:
    word = torch.tensor([[0x76543210]], dtype=torch.int32)
    assert nibbles(word).tolist() == [[0, 1, 2, 3, 4, 5, 6, 7]]
    assert nibbles(torch.tensor([[-1]], dtype=torch.int32)).tolist() == [[15] * 8]


def test_an_unknown_order_is_found_and_undone(emulated: CudaInt4) -> None:
    codes = codes_of(128, 384)
    packed = emulated.pack(codes)
    assert torch.equal(emulated.unpack(packed, 0, torch.empty_like(codes)), codes)
    part = torch.empty_like(codes[64:])
    assert torch.equal(emulated.unpack(packed, 64, part), codes[64:])
    picked = torch.tensor([127, 0, 9, 9, 64])
    assert torch.equal(emulated.pick(packed, picked, 384).to(codes.dtype), codes[picked])


def test_a_right_kernel_is_used_and_a_wrong_one_not(
    emulated: CudaInt4, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CudaInt4, "product", staticmethod(product_by(emulated)))
    assert is_right(emulated, "cpu")
    other = CudaInt4(some_order(seed=4))
    monkeypatch.setattr(CudaInt4, "product", staticmethod(product_by(other)))
    assert not is_right(emulated, "cpu")
    assert not is_right(other, "cpu")  # codes do not survive it


def test_packing_that_loses_codes_is_not_understood() -> None:
    assert find_places(lambda codes: torch.zeros(1, 1, 32, 4, dtype=torch.int32), "cpu") is None
    assert find_places(lambda codes: torch.zeros(1, 1, dtype=torch.int32), "cpu") is None


@pytest.mark.parametrize(("bits", "group_size"), [(4, 64), (4, 384), (3, 128), (8, 64)])
@pytest.mark.parametrize("symmetric", [True, False])
def test_a_packed_weight_in_the_order_of_a_gpu(
    emulated: CudaInt4, monkeypatch: pytest.MonkeyPatch, bits: int, group_size: int, symmetric: bool
) -> None:
    monkeypatch.setattr(CudaInt4, "product", staticmethod(product_by(emulated)))
    monkeypatch.setattr(
        "paredown.runtimes.torch.packed.int4_layout", lambda rows, width, device: emulated
    )
    weight = torch.randn(128, 384, generator=torch.Generator().manual_seed(0))
    grid = fit_grid(
        weight, bits=bits, group_size=group_size, symmetric=symmetric, scale_dtype=torch.bfloat16
    )
    codes = quantize(weight, grid)
    packed = PackedWeight(codes, grid, dtype=torch.bfloat16, device="cpu")
    assert packed.kernel == ("int4" if bits <= 4 else "int4x2")
    dense = dequantize(codes, grid)
    assert (packed.dense(torch.float32) - dense).norm() < 0.01 * dense.norm()
    rows = torch.tensor([[3, 127], [0, 3]])
    assert (packed.lookup(rows).float() - dense[rows]).norm() < 0.01 * dense[rows].norm()
    for n in (1, 65):
        x = torch.randn(n, 384, generator=torch.Generator().manual_seed(n)).to(torch.bfloat16)
        exact = x.float() @ dense.T
        assert (packed.multiply(x).float() - exact).norm() < 0.02 * exact.norm()


def test_without_a_gpu_there_is_no_such_layout() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert int4_layout(64, 128, "cuda") is None


@pytest.mark.gpu
@pytest.mark.parametrize(("bits", "group_size"), [(4, 64), (4, 128), (8, 64), (8, 512)])
def test_products_on_a_gpu_are_those_of_the_dense_weight(bits: int, group_size: int) -> None:
    weight = torch.randn(256, 512, generator=torch.Generator().manual_seed(0))
    grid = fit_grid(
        weight, bits=bits, group_size=group_size, symmetric=True, scale_dtype=torch.bfloat16
    )
    codes = quantize(weight, grid)
    packed = PackedWeight(codes, grid, dtype=torch.bfloat16, device="cuda")
    assert packed.kernel != "unpack"
    for n in (1, 7, 65):
        x = torch.randn(n, 512, generator=torch.Generator().manual_seed(n)).to(torch.bfloat16)
        exact = x.float() @ dequantize(codes, grid).T
        found = packed.multiply(x.cuda()).float().cpu()
        assert (found - exact).norm() < 0.02 * exact.norm()
