"""What a pass over a model leaves behind: how many bytes, and whether the cache takes them.

No torch here: disk is reckoned with before anything is loaded.
"""

from __future__ import annotations

from paredown.spec.model import ModelSpec
from paredown.spec.structure import input_name, matrix_shape
from paredown.store.cache import Cache

PASS_SHARE = 0.5
"""Of the cache, for the moments of one pass over a model, and for its codes. A larger pass would
push out its own beginning, which its end and the next trial count on."""
_FLOAT_BYTES = 4


def moments_bytes(spec: ModelSpec) -> int:
    """Bytes of the second moments of all distinct inputs of a model's linears, as they are kept.

    An input of width n has n (n + 1) / 2 different moments in float32, so a model of 7 billion
    weights, whose widest input has 18944 features in each of 28 blocks, has 22 GB of them.
    """
    widths: dict[str, int] = {}
    for block in spec.structure.blocks:
        for name in block.linears:
            widths[input_name(name)] = matrix_shape(spec, name)[1]
    return sum(_FLOAT_BYTES * width * (width + 1) // 2 for width in widths.values())


def codes_bytes(spec: ModelSpec) -> int:
    """Bytes of the codes of all linears of a model's blocks under one scheme, one byte each.

    Their scales come on top, a few percent of it.
    """
    shapes = (matrix_shape(spec, n) for block in spec.structure.blocks for n in block.linears)
    return sum(rows * width for rows, width in shapes)


def is_kept(nbytes: int, cache: Cache) -> bool:
    """Whether the results of a pass are kept for other trials, or computed, used and dropped."""
    return nbytes <= PASS_SHARE * cache.limit_bytes
