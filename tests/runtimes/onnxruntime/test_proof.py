"""Weights that constants of a graph stand for, worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

ir = pytest.importorskip("onnx_ir")

from paredown.runtimes.onnxruntime.matrices import pack_low_first  # noqa: E402
from paredown.runtimes.onnxruntime.proof import dequantized  # noqa: E402


def node_of(kind: str, bits: int, block: int, *constants: Any) -> Any:
    values = [
        ir.Value(name=f"c{i}", const_value=ir.tensor(constant))
        for i, constant in enumerate(constants)
    ]
    inputs = [ir.Value(name="x"), *values]
    return ir.node(kind, inputs, {"bits": bits, "block_size": block}, domain="com.microsoft")


def test_four_bits_with_the_middle_as_zero() -> None:
    # Bytes 0x98 and 0x07: codes 8, 9, 7, 0, which are 0, 1, -1 and -8 steps of 0.5.
    codes = np.array([[[0x98, 0x07]]], dtype=np.uint8)
    scale = np.array([[0.5]], dtype=np.float32)
    found = dequantized(node_of("MatMulNBits", 4, 4, codes, scale), 0, 1)
    assert found.tolist() == [[0.0, 0.5, -0.5, -4.0]]


def test_two_bits_with_zero_points_of_blocks() -> None:
    # Codes 0, 1, 0, 0 and 2, 3, 0, 0; zero-points 1 and 3 in one byte.
    codes = np.array([[[0b0100], [0b1110]]], dtype=np.uint8)
    scale, zero = np.array([[1.0, 2.0]], dtype=np.float32), np.array([[0b1101]], dtype=np.uint8)
    found = dequantized(node_of("MatMulNBits", 2, 4, codes, scale, zero), 0, 1)
    assert found.tolist() == [[-1.0, 0.0, -1.0, -1.0, -2.0, 0.0, -6.0, -6.0]]


def test_rows_of_an_embedding_have_a_byte_for_a_zero_point() -> None:
    codes = np.array([[[0x21]], [[0x43]]], dtype=np.uint8)
    scale = np.array([[[1.0]], [[10.0]]], dtype=np.float32)
    zero = np.array([[[1]], [[15]]], dtype=np.uint8)
    found = dequantized(node_of("GatherBlockQuantized", 4, 2, codes, scale, zero), 1, 2)
    assert found.tolist() == [[-120.0, -110.0]]


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_codes_fill_bytes_from_below(bits: int) -> None:
    codes = torch.tensor([[i % 2**bits for i in range(8)]], dtype=torch.uint8)
    packed = pack_low_first(codes, bits)[0].tolist()
    whole = sum(int(code) << (bits * i) for i, code in enumerate(codes[0]))
    assert packed == list(whole.to_bytes(bits, "little"))
