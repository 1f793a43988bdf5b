"""Units and options: what of a model can be stored differently, and as what. No torch.

A *unit* is the layers that must share one option, because a runtime joins them into one matrix; an
*option* is what a unit may become. Methods say which option every layer of their result has
(`ModelSpec.options`), runtimes say which ones they hold, and a search chooses among those.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from paredown.spec.superblocks import SUPER_LAYOUTS, SUPERBLOCK, superblock_bytes


class Format(StrEnum):
    """How the numbers of a layer are stored."""

    DENSE = "dense"
    """Floating point, one number per weight."""
    GRID = "grid"
    """Codes on an affine grid per group of inputs, packed without gaps in 32-bit words."""
    SUPERBLOCK = "superblock"
    """Codes on two-level grids, as llama.cpp's K-types lay them out."""
    INT8 = "int8"
    """One signed byte per weight, one scale per row."""
    FP8 = "fp8"
    """E4M3, one scale per row."""
    LLM_INT8 = "llm_int8"
    """bitsandbytes: a byte per weight; columns of large inputs are computed in 16 bits."""
    NF4 = "nf4"
    """bitsandbytes: NormalFloat codes in blocks of 64 weights."""
    SPARSE = "sparse"
    """One bit per weight, and the values that are not zero."""
    DROPPED = "dropped"
    """Nothing is stored: the layer's block is gone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerOption:
    """What a layer is stored as."""

    format: Format
    bits: int
    """Of one stored weight, without scales; 0 where the layer is dropped."""
    group_size: int = -1
    """Inputs that share one scale; -1: the whole row."""
    symmetric: bool = True
    """Whether the zero-point is fixed at 0."""
    scale_dtype: str | None = None
    """Of the scales, as safetensors names it; None without scales."""
    scale_bits: int | None = None
    """Significant bits of a scale, at most; None: as many as its dtype has."""
    activation_bits: int | None = None
    """Bits to which inputs are rounded while computing; None: they are taken as they are."""
    width: int | None = None
    """Neurons, of the layers of an MLP; None: as many as the model has."""

    def __str__(self) -> str:
        if self.format is Format.DROPPED:
            return "dropped"
        words = [f"{self.bits} bits"]
        match self.format:
            case Format.GRID:
                words.append("symmetric" if self.symmetric else "asymmetric")
                rows = self.group_size < 0
                words.append("a group per row" if rows else f"groups of {self.group_size}")
                if self.scale_bits is not None:
                    words.append(f"scales of {self.scale_bits} bits")
            case Format.SUPERBLOCK:
                words.append(f"two-level scales in super-blocks of {SUPERBLOCK}")
            case Format.DENSE:
                words.append("floating point")
            case _:
                words.append(self.format.value)
        if self.activation_bits is not None:
            words.append(f"inputs in {self.activation_bits} bits")
        if self.width is not None:
            words.append(f"{self.width} neurons")
        return ", ".join(words)


@dataclass(frozen=True, slots=True)
class LayerUnit:
    """Layers that must share one option; most often one that stands alone."""

    layers: tuple[str, ...]
    """Module names, at least one."""

    @property
    def name(self) -> str:
        """One word for them: `model.layers.0.self_attn.q_proj+k_proj+v_proj`."""
        first, *others = self.layers
        parent, _, _ = first.rpartition(".")
        if others and all(other.rpartition(".")[0] == parent for other in others):
            return "+".join([first, *(other.rpartition(".")[2] for other in others)])
        return f"{first} and {len(others)} more" if others else first


def grid_option(
    bits: int,
    group_size: int,
    *,
    symmetric: bool,
    scale_dtype: str,
    scale_bits: int | None = None,
) -> LayerOption:
    """Codes of `bits` bits, one scale (and zero-point) per `group_size` inputs."""
    return LayerOption(
        format=Format.GRID,
        bits=bits,
        group_size=group_size,
        symmetric=symmetric,
        scale_dtype=scale_dtype,
        scale_bits=scale_bits,
    )


def superblock_option(bits: int) -> LayerOption:
    """Codes of `bits` bits on the two-level grid of that width."""
    return LayerOption(
        format=Format.SUPERBLOCK,
        bits=bits,
        group_size=SUPERBLOCK,
        symmetric=not SUPER_LAYOUTS[bits].has_minima,
        scale_dtype="F16",
    )


_DENSE_BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16}


def dense_option(dtype: str) -> LayerOption:
    """As it is, in a floating-point dtype that safetensors names."""
    return LayerOption(format=Format.DENSE, bits=_DENSE_BITS.get(dtype, 16))


@lru_cache(maxsize=20_000)
def grid_shapes(
    shape: tuple[int, int], bits: int, group_size: int, *, symmetric: bool
) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of one packed matrix, by the end of their names.

    Args:
        shape: (rows, inputs) of the matrix.
        group_size: -1 for whole rows; must divide the inputs.
    """
    rows, width = shape
    groups = 1 if group_size < 0 else width // group_size
    found = {
        "weight_packed": (rows, math.ceil(width * bits / 32)),  # int32 words, row by row
        "weight_scale": (rows, groups),
        "weight_shape": (2,),  # int64
    }
    if not symmetric:
        # Zero-points are packed down the rows: neighbours in a word belong to one group.
        found["weight_zero_point"] = (math.ceil(rows * bits / 32), groups)
    return found


def superblock_shapes(shape: tuple[int, int], bits: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of one matrix on two-level grids, by the end of their names."""
    rows, width = shape
    blocks = width // SUPERBLOCK
    return {
        "weight_packed": (rows, blocks * SUPER_LAYOUTS[bits].nbytes),  # uint8, row by row
        "weight_shape": (2,),  # int64
    }


_SCALE_BYTES = {"F32": 4, "F16": 2, "BF16": 2}


def option_bytes(option: LayerOption, shape: tuple[int, int]) -> int:
    """Bytes that a (rows, inputs) matrix takes as `option`, scales and shapes included.

    Exact for dense matrices, packed grids of one and two levels, INT8 and FP8, which is what a
    search chooses among.

    Raises:
        ValueError: a format whose size depends on more than the shape.
    """
    numel = shape[0] * shape[1]
    match option.format:
        case Format.DROPPED:
            return 0
        case Format.DENSE:
            return numel * option.bits // 8
        case Format.INT8 | Format.FP8:
            return numel + shape[0] * _SCALE_BYTES[option.scale_dtype or "BF16"]
        case Format.GRID:
            shapes = grid_shapes(shape, option.bits, option.group_size, symmetric=option.symmetric)
            scales = math.prod(shapes["weight_scale"]) * _SCALE_BYTES[option.scale_dtype or "BF16"]
            words = math.prod(shapes["weight_packed"])
            words += math.prod(shapes.get("weight_zero_point", (0,)))
            return 4 * words + scales + 8 * 2
        case Format.SUPERBLOCK:
            return superblock_bytes(option.bits, shape) + 8 * 2
        case _:
            raise ValueError(f"the bytes of {option.format} do not follow from the shape alone")
