"""The two innermost loops of rounding, compiled by numba: `ops.compiled` is their only caller.

They do what torch does, operation by operation, so they give its bits. What they save is the ten
calls for each column of a matrix, and the ten passes over it for each range that is tried.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

log = logging.getLogger(__name__)

TILE = 128
"""Rows that pass through a block of columns together: 128 columns of them fit the inner caches."""

Floats = NDArray[np.float32]
Codes = NDArray[np.int8]


def _fma(context: Any, a: Any, b: Any, c: Any) -> Any:
    """a b + c, rounded once."""
    signature = types.float32(types.float32, types.float32, types.float32)
    return signature, lambda _context, builder, _signature, words: builder.fma(*words)


fma: Any = intrinsic(_fma)


def _eliminate(
    part: Floats,
    errors: Floats,
    codes: Codes,
    scale: Floats,
    zero: Floats,
    group_of: NDArray[np.int64],
    factor: Floats,
    low: Any,
    high: Any,
    first: int,
    last: int,
) -> None:
    """See `compiled.eliminate`; of the rows `first` to `last`."""
    n = part.shape[0]
    for start in range(first, last, TILE):
        stop = min(start + TILE, last)
        rows = stop - start
        # Four columns at a time: their errors reach a later column in one pass over it, added in
        # the order in which four passes would add them.
        for near in range(0, n, 4):
            far = min(near + 4, n)
            for i in range(near, far):
                w, e, code = part[i, start:stop], errors[i, start:stop], codes[i, start:stop]
                s, z = scale[group_of[i], start:stop], zero[group_of[i], start:stop]
                pivot = factor[i, i]
                for r in range(rows):
                    level = np.rint(w[r] / s[r]) + z[r]
                    level = low if level < low else level
                    level = high if level > high else level
                    code[r] = np.int8(level)
                    value = (level - z[r]) * s[r]
                    e[r] = (w[r] - value) / pivot
                    w[r] = value
                for k in range(i + 1, far):
                    w, a = part[k, start:stop], -factor[i, k]
                    for r in range(rows):
                        w[r] = fma(a, e[r], w[r])
            if far == n:
                break
            e0, e1 = errors[near, start:stop], errors[near + 1, start:stop]
            e2, e3 = errors[near + 2, start:stop], errors[near + 3, start:stop]
            for k in range(far, n):
                a0, a1 = -factor[near, k], -factor[near + 1, k]
                a2, a3 = -factor[near + 2, k], -factor[near + 3, k]
                w = part[k, start:stop]
                for r in range(rows):
                    w[r] = fma(a3, e3[r], fma(a2, e2[r], fma(a1, e1[r], fma(a0, e0[r], w[r]))))


def _squares(
    groups: Floats,
    scale: Floats,
    zero: Floats,
    weights: Floats,
    low: Any,
    high: Any,
    found: Floats,
    first: int,
    last: int,
) -> None:
    """See `compiled.squares`; of the groups `first` to `last`."""
    size, cycle = groups.shape[1], len(weights)
    for i in range(first, last):
        s, z = scale[i], zero[i]
        group, weight, squares = groups[i], weights[i % cycle], found[i]
        for j in range(size):
            level = np.rint(group[j] / s) + z
            level = low if level < low else level
            level = high if level > high else level
            error = (level - z) * s - group[j]
            squares[j] = error * error * weight[j]


def _compile(function: Callable[..., None], signature: str) -> Callable[..., None]:
    """Compiled for one signature; kept on disk, so that only the first process waits."""
    # numpy's division: Python's would look for a 0 below each line, and no loop would be vectors.
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        compiled: Callable[..., None] = numba.njit(signature, cache=True, **options)(function)
    except RuntimeError as error:  # no folder to keep it in
        log.info("compiled loops are not kept on disk: %s", error)
        compiled = numba.njit(signature, **options)(function)
    return compiled


_MATRIX = "float32[:,::1]"
eliminate = _compile(
    _eliminate,
    f"void({_MATRIX}, {_MATRIX}, int8[:,::1], {_MATRIX}, {_MATRIX}, int64[::1], {_MATRIX}, "
    "float32, float32, int64, int64)",
)
squares = _compile(
    _squares,
    f"void({_MATRIX}, float32[::1], float32[::1], {_MATRIX}, float32, float32, {_MATRIX}, "
    "int64, int64)",
)
