"""Whether the engine computes each kind of packed product rightly: tried, never taken for granted.

Its kernels for some groups have given other numbers without an error, so every kind of matrix that
is written (codes, groups, inputs) is multiplied beside numpy before a file is kept.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import openvino as ov
import openvino.opset13 as op
import torch

from paredown.artifact.checkpoint import Checkpoint
from paredown.artifact.compressed_tensors import PackedReader
from paredown.errors import VerificationError
from paredown.ops.affine import dequantize
from paredown.runtimes.openvino.settings import properties
from paredown.runtimes.openvino.weights import Constants
from paredown.spec.scheme import Scheme

TOLERANCE = 0.03
"""Largest error against the largest result: sixteen-bit arithmetic makes 0.01, garbage 1."""
_ROWS = (1, 8)
"""Tokens at once: one as in decoding, several as in reading a prompt."""


def require_right(checkpoint: Checkpoint, schemes: dict[str, Scheme], names: Iterable[str]) -> int:
    """Multiply one matrix of every kind; how many kinds were tried.

    Raises:
        VerificationError: the engine computes something else.
    """
    kinds: dict[object, str] = {}
    for name in names:
        shape = PackedReader(checkpoint, name, schemes[name]).shape
        kinds.setdefault((schemes[name], shape), name)
    for name in kinds.values():
        _try(checkpoint, schemes, name)
    return len(kinds)


def _try(checkpoint: Checkpoint, schemes: dict[str, Scheme], name: str) -> None:
    reader = PackedReader(checkpoint, name, schemes[name])
    exact = dequantize(*reader.rows(0, reader.shape[0]), torch.float32).numpy()
    width = reader.shape[1]
    x = op.parameter(ov.PartialShape([-1, -1, width]), ov.Type.f32, "x")
    constants = Constants(checkpoint, schemes)
    product = op.matmul(x, constants.matrix(name), False, True)
    compiled = ov.Core().compile_model(ov.Model([op.result(product)], [x]), "CPU", properties(1))
    random = np.random.default_rng(0)
    for count in _ROWS:
        inputs = random.standard_normal((1, count, width), dtype=np.float32)
        (found,) = compiled([inputs]).values()
        expected = inputs @ exact.T
        error = float(np.abs(found - expected).max() / np.abs(expected).max())
        if not error <= TOLERANCE:
            raise VerificationError(
                f"openvino computes the product with {name} ({schemes[name].option('BF16')}) "
                f"wrongly: {error:.2g} of the largest result; nothing was kept"
            )
