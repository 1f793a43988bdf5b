"""Whether the constants of a written model are the artifact's numbers: all, and none rounded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import torch

from paredown.artifact.checkpoint import Checkpoint
from paredown.artifact.compressed_tensors import PackedReader
from paredown.errors import VerificationError
from paredown.ops.affine import dequantize
from paredown.spec.scheme import Scheme

Array = np.ndarray[Any, Any]


def require_equal(file: Path, checkpoint: Checkpoint, schemes: dict[str, Scheme]) -> None:
    """See that every packed matrix of a written file stands for the artifact's weights.

    Raises:
        VerificationError: weights that differ, and how many.
    """
    found = packed_matrices(file)
    for name, scheme in schemes.items():
        reader = PackedReader(checkpoint, name, scheme)
        rows, width = reader.shape
        written = found.get(name)
        if written is None:
            raise VerificationError(f"openvino: the written file has no {name}")
        differing = 0
        for start in range(0, rows, max(1, (1 << 22) // width)):
            end = min(start + max(1, (1 << 22) // width), rows)
            expected = dequantize(*reader.rows(start, end), torch.float32).numpy()
            differing += int((written.weights(start, end) != expected).sum())
        if differing:
            raise VerificationError(
                f"{name}: {differing} of {rows * width} weights in the written file are not those "
                "of the artifact; nothing was kept"
            )


class Packed:
    """Codes, zero-point and scale of a matrix, as the file has them."""

    def __init__(self, codes: Any, zero: Any, scale: Any) -> None:
        self.shape = tuple(codes.get_output_shape(0))
        self._bits = 4 if codes.get_element_type() == ov.Type.u4 else 8
        self._codes, self._zero, self._scale = codes, zero, scale

    def weights(self, start: int, end: int) -> Array:
        """(rows, inputs) float32 of some rows."""
        _, groups, size = self.shape
        codes = self._part(self._codes, start, end, groups * size).reshape(-1, groups, size)
        scale = np.asarray(self._scale.data)[start:end].astype(np.float32)
        if tuple(self._zero.get_output_shape(0)) == (1, 1, 1):
            zero = self._part(self._zero, 0, 1, 1).reshape(1, 1, 1)
        else:
            zero = self._part(self._zero, start, end, groups).reshape(-1, groups, 1)
        whole = codes.astype(np.float32) - zero.astype(np.float32)
        found: Array = (whole * scale).reshape(end - start, -1)
        return found

    def _part(self, constant: Any, start: int, end: int, width: int) -> Array:
        raw = np.asarray(constant.data).view(np.uint8).reshape(-1)
        if self._bits == 8:
            return raw[start * width : end * width]
        first, last = start * width // 2, (end * width + 1) // 2
        part = raw[first:last]
        both = np.stack((part & 0xF, part >> 4), axis=-1).reshape(-1)
        skip = start * width % 2
        return both[skip : skip + (end - start) * width]


def packed_matrices(file: Path) -> dict[str, Packed]:
    """Every packed matrix of a file, by the layer's name."""
    found = {}
    for node in ov.Core().read_model(file).get_ordered_ops():
        kind = node.get_type_name()
        if kind not in {"MatMul", "Gather"}:
            continue
        place = node.input_value(1 if kind == "MatMul" else 0).get_node()
        while place.get_type_name() in {"Convert", "Reshape"}:
            place = place.input_value(0).get_node()
        if place.get_type_name() != "Multiply":
            continue
        difference, scale = (place.input_value(i).get_node() for i in (0, 1))
        codes, zero = (_constant(difference.input_value(i).get_node()) for i in (0, 1))
        found[node.get_friendly_name()] = Packed(codes, zero, _constant(scale))
    return found


def _constant(node: Any) -> Any:
    while node.get_type_name() != "Constant":
        node = node.input_value(0).get_node()
    return node
