"""Whether the numbers of a written graph are those of the artifact: all of them, none rounded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir

from paredown.errors import VerificationError
from paredown.runtimes.onnxruntime.matrices import Array, Matrix
from paredown.runtimes.onnxruntime.runtime import FILE

_AT_ONCE = 1 << 22
"""Weights that are taken apart at once."""


def require_equal(folder: Path, packed: dict[str, Matrix]) -> None:
    """See that every packed matrix of a file stands for the artifact's weights.

    Args:
        packed: what was to be written, by the node's name.

    Raises:
        VerificationError: weights that differ, and how many.
    """
    nodes = {node.name: node for node in ir.load(folder / FILE).graph}
    for name, matrix in packed.items():
        rows, width = matrix.shape
        step, differing = max(1, _AT_ONCE // width), 0
        for start in range(0, rows, step):
            end = min(start + step, rows)
            written = dequantized(nodes[name], start, end)
            differing += int((written != matrix.weights(start, end)).sum())
        if differing:
            raise VerificationError(
                f"{name}: {differing} of {rows * width} weights in the written file are not those "
                "of the artifact; nothing was kept"
            )


def dequantized(node: ir.Node, start: int, end: int) -> Array:
    """Rows of the weights of a packed node, (rows, inputs) float32, from its constants alone.

    Args:
        node: `MatMulNBits`, or `GatherBlockQuantized`, whose zero-points have a byte each.
    """
    numbers = {name: attribute.as_int() for name, attribute in node.attributes.items()}
    bits, block, rows = numbers["bits"], numbers["block_size"], end - start
    codes, scale, *zero = (
        np.asarray(value.const_value.numpy()[start:end])
        for value in node.inputs
        if value is not None and value.const_value is not None
    )
    unsigned = _unpacked(codes.reshape(rows, -1), bits).reshape(rows, -1, block)
    scale = scale.reshape(rows, -1, 1)
    zeros: Array = np.full(scale.shape, 2 ** (bits - 1), dtype=np.uint8)
    if zero:
        each = 8 if node.op_type == "GatherBlockQuantized" else bits
        told = _unpacked(zero[0].reshape(rows, -1), each)
        zeros = told[:, : scale.shape[1], None]
    whole = unsigned.astype(np.float32) - zeros.astype(np.float32)
    found: Array = (whole * scale).reshape(rows, -1)
    return found


def _unpacked(packed: Array, bits: int) -> Array:
    """(rows, n) of (rows, bytes), the first code in a byte's lowest bits."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    found: Array = (packed[..., None] >> shifts) & (2**bits - 1)
    return found.reshape(len(packed), -1)
