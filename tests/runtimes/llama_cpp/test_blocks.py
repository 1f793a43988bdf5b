"""Blocks hold the very numbers: by hand, against gguf's own reader, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from paredown.ops.affine import Grid, dequantize, fit_grid, quantize
from paredown.runtimes.llama_cpp.blocks import (
    dense,
    encode,
    encode_grid,
    has_exact_minima,
    integers,
    is_exact,
)
from paredown.runtimes.llama_cpp.tensor_types import (
    ALL_TYPES,
    BLOCK_TYPES,
    MINIMUM_TYPES,
    Q4_0,
    Q5_0,
    Q8_0,
    BlockType,
    block_type,
    integer_range,
    tensor_bytes,
)
from paredown.spec.layers import grid_option, superblock_option

gguf = pytest.importorskip("gguf")


def grid_of(scale: float, bits: int = 4, width: int = 32) -> Grid:
    return Grid(bits, width, torch.full((1, 1), scale, dtype=torch.bfloat16), None)


def test_a_block_of_four_bits_by_hand() -> None:
    values = torch.zeros(1, 32, dtype=torch.int16)
    values[0, 0], values[0, 16], values[0, 31] = -8, 7, 1
    found = encode(values, grid_of(1.5), Q4_0)[0]
    assert found[:2].tolist() == [0x00, 0x3E]  # 1.5 in half precision, low byte first
    assert found[2] == 0xF0  # number 0 is -8 -> 0, number 16 is 7 -> 15 in the upper half
    assert found[17] == 0x98  # number 15 is 0 -> 8, number 31 is 1 -> 9
    assert set(found[3:17].tolist()) == {0x88}


def test_a_block_of_five_bits_by_hand() -> None:
    values = torch.zeros(1, 32, dtype=torch.int16)
    values[0, 0], values[0, 31] = -16, 15
    found = encode(values, grid_of(1.0, 5), Q5_0)[0]
    # 0 is 16, whose fifth bit is set; -16 is 0, whose is not.
    assert found[2:6].tolist() == [0xFE, 0xFF, 0xFF, 0xFF]
    assert found[6] == 0x00
    assert found[21] == 0xF0


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group", [32, 64, 192])
def test_every_grid_is_read_back_as_it_is(bits: int, symmetric: bool, group: int) -> None:
    option = grid_option(bits, group, symmetric=symmetric, scale_dtype="BF16")
    kind = block_type(option)
    if kind is None:
        assert (bits, symmetric) == (8, False)
        return
    weight = torch.randn(6, 192, generator=torch.Generator().manual_seed(bits)) + 0.3
    grid = fit_grid(
        weight, bits=bits, group_size=group, symmetric=symmetric, scale_dtype=torch.bfloat16
    )
    codes = quantize(weight, grid)
    raw = encode(integers(codes, grid.zero), grid, kind)
    assert raw.nbytes == tensor_bytes(kind, (6, 192))
    read = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType(kind.number))
    assert np.array_equal(read, dequantize(codes, grid).numpy())


@pytest.mark.parametrize("bits", [4, 5])
@pytest.mark.parametrize("group", [32, 64, 192])
def test_short_scales_are_read_back_with_their_minima(bits: int, group: int) -> None:
    kind = MINIMUM_TYPES[bits]
    option = grid_option(bits, group, symmetric=False, scale_dtype="BF16", scale_bits=11 - bits)
    assert block_type(option) == kind
    weight = torch.randn(6, 192, generator=torch.Generator().manual_seed(bits)) + 0.3
    weight[2] = 0.0
    grid = fit_grid(
        weight, bits=bits, group_size=group, symmetric=False, scale_dtype=torch.bfloat16,
        scale_bits=11 - bits,
    )  # fmt: skip
    codes = quantize(weight, grid)
    raw = encode_grid(codes, grid, kind)
    assert raw.nbytes == tensor_bytes(kind, (6, 192))
    read = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType(kind.number))
    assert np.array_equal(read, dequantize(codes, grid).numpy())


def test_a_minimum_that_is_rounded_is_refused() -> None:
    # 171 / 512 has 8 significant bits; times 15 they are 12, one more than half precision has.
    scale = torch.full((1, 1), 171 / 512, dtype=torch.bfloat16)
    grid = Grid(4, 32, scale, torch.full((1, 1), 7, dtype=torch.int8))
    codes = torch.zeros(1, 32, dtype=torch.int8)
    assert not has_exact_minima(grid)
    with pytest.raises(ValueError, match="minimum is no half-precision"):
        encode_grid(codes, grid, MINIMUM_TYPES[4])
    assert has_exact_minima(Grid(4, 32, scale, torch.full((1, 1), -8, dtype=torch.int8)))


def test_a_block_with_a_minimum_by_hand() -> None:
    grid = Grid(4, 32, torch.tensor([[1.5]]).bfloat16(), torch.tensor([[-6]], dtype=torch.int8))
    codes = torch.full((1, 32), -8, dtype=torch.int8)
    codes[0, 16] = 7
    found = encode_grid(codes, grid, MINIMUM_TYPES[4])[0]
    assert found[:4].tolist() == [0x00, 0x3E, 0x00, 0xC2]  # 1.5; -2 x 1.5 = -3
    assert found[4] == 0xF0
    assert set(found[5:].tolist()) == {0x00}


@pytest.mark.parametrize("kind", ALL_TYPES, ids=lambda kind: kind.name)
def test_types_are_numbered_and_sized_as_gguf_says(kind: BlockType) -> None:
    number = gguf.GGMLQuantizationType[kind.name]
    assert kind.number == number
    assert (kind.block, kind.block_bytes) == gguf.GGML_QUANT_SIZES[number]
    names = {f"MOSTLY_{kind.name}", f"MOSTLY_{kind.name}_S"}
    assert gguf.LlamaFileType(kind.file_type).name in names


@pytest.mark.parametrize("bits", range(2, 7))
def test_two_level_grids_have_the_types_of_their_bits(bits: int) -> None:
    kind = block_type(superblock_option(bits))
    assert kind is not None
    assert kind.name == f"Q{bits}_K"


@pytest.mark.parametrize(
    ("bits", "symmetric", "name"),
    [
        (2, True, "Q4_0"), (3, True, "Q4_0"), (4, True, "Q4_0"), (5, True, "Q5_0"),
        (6, True, "Q8_0"), (8, True, "Q8_0"), (2, False, "Q4_0"), (3, False, "Q4_0"),
        (4, False, "Q5_0"), (5, False, "Q8_0"), (7, False, "Q8_0"),
    ],
)  # fmt: skip
def test_the_smallest_type_that_spans_the_integers(bits: int, symmetric: bool, name: str) -> None:
    kind = block_type(grid_option(bits, 32, symmetric=symmetric, scale_dtype="BF16"))
    assert kind is not None
    assert kind.name == name
    low, high = integer_range(bits, symmetric=symmetric)
    smaller = [t for t in BLOCK_TYPES if t.block_bytes < kind.block_bytes]
    assert not any(t.low <= low and high <= t.high for t in smaller)


def test_a_scale_below_half_precision_is_no_block_unless_it_is_of_zeros() -> None:
    values = torch.ones(1, 32, dtype=torch.int16)
    tiny = 2.0**-20 * 1.015625  # 7 significant bits, the last of them 2**-26
    assert not is_exact(values, grid_of(tiny))
    with pytest.raises(ValueError, match="half-precision"):
        encode(values, grid_of(tiny), Q4_0)
    assert is_exact(values, grid_of(2.0**-17 * 1.9921875))  # 8 bits down to 2**-24
    zeros = encode(torch.zeros(1, 32, dtype=torch.int16), grid_of(tiny), Q4_0)[0]
    assert zeros[:2].tolist() == [0, 0]


def test_integers_outside_of_a_type_are_refused() -> None:
    values = torch.full((1, 32), 8, dtype=torch.int16)
    with pytest.raises(ValueError, match="do not fit into Q4_0"):
        encode(values, grid_of(1.0), Q4_0)
    assert encode(values, grid_of(1.0), Q8_0).shape == (1, 34)


def test_floating_point_is_never_rounded() -> None:
    exact = torch.tensor([[1.0, 2.0**-17, -3.5]], dtype=torch.bfloat16)
    assert torch.equal(
        torch.from_numpy(dense(exact, "F32").copy()).view(torch.float32), exact.float()
    )
    assert dense(exact, "BF16").nbytes == 6
    with pytest.raises(ValueError, match="rounded by F16"):
        dense(torch.tensor([[1e-7]], dtype=torch.bfloat16), "F16")
