"""How much of a model its compression has reached: the share of the blocks' weights.

A method that finds only some of a family's layers makes a sound artifact that is hardly compressed;
this number says so.
"""

from __future__ import annotations

import math

from paredown.spec.infer import is_buffer
from paredown.spec.layers import Format
from paredown.spec.model import ModelSpec
from paredown.spec.packed import linear_shapes
from paredown.spec.structure import in_block, is_vision


def coverage(spec: ModelSpec) -> float | None:
    """Share of the weights in the language model's blocks that are stored as codes or with a mask.

    Counted are tensors of two dimensions and more: norms and biases are nobody's to compress. None
    where nothing is stored otherwise than in floating point.
    """
    packed = {
        name: spec.packed_shapes.get(name)
        for name, option in spec.options.items()
        if option.format is not Format.DENSE and in_block(f"{name}.weight")
    }
    if not packed:
        return None
    shapes = linear_shapes(spec)
    reached = sum(math.prod(shape or shapes[name]) for name, shape in packed.items())
    inside = tuple(f"{name}." for name in packed)
    left = sum(
        tensor.numel
        for tensor in spec.tensors
        if len(tensor.shape) > 1
        and in_block(tensor.name)
        and not (is_vision(tensor.name) or is_buffer(tensor) or tensor.name.startswith(inside))
    )
    return reached / (reached + left)
