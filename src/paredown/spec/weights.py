"""Bytes of a model's weights by what they are for: as stored, or at a precision. No torch.

Parts behave differently. Blocks are spread over devices; of experts a token reads a few; an
embedding gives one row per token, unless it is the output head as well; a vision tower is read once
per picture. A sum over all of them could tell none of that.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from paredown.errors import ConfigError
from paredown.spec.embeddings import copy_of_tied, find_embedding, find_head
from paredown.spec.facts import EXPERT
from paredown.spec.infer import is_buffer
from paredown.spec.layers import Format, LayerOption
from paredown.spec.model import ModelSpec
from paredown.spec.packed import linear_shapes
from paredown.spec.structure import fused_experts, is_vision, matrix_shape

Precision = Literal["fp32", "fp16", "fp8", "int8", "int4"]
DEFAULT_GROUP_SIZE = 64
Part = Literal["blocks", "experts", "embedding", "head", "vision"]

_CODE_BITS = {"fp8": 8, "int8": 8, "int4": 4}
_SCALE_BYTES = 2  # bf16
_DENSE_DTYPES = {"F64", "F32", "F16", "BF16"}


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Weights of one part that are stored alike.

    Attributes:
        part: what they are for; `blocks` holds everything that is in no other part.
        numel: weights.
        nbytes: that are stored, scales included.
        bits: of one code; None where weights are floating point, one number each.
        activations: bits to which inputs are rounded while computing; None: taken as they are.
        is_float: whether codes are floating point themselves (FP8).
        is_nested: whether scales have scales (llama.cpp's K-types).
    """

    part: Part
    numel: int
    nbytes: int
    bits: int | None = None
    activations: int | None = None
    is_float: bool = False
    is_nested: bool = False


def stored_pieces(spec: ModelSpec) -> tuple[Piece, ...]:
    """The weights as they are stored, or as a method predicts them; bytes are exact."""
    return _summed(_stored(spec))


def pieces_at(
    spec: ModelSpec, precision: Precision, group_size: int = DEFAULT_GROUP_SIZE
) -> tuple[Piece, ...]:
    """The weights at a precision.

    fp32 and fp16: 4 and 2 bytes each. int8 and int4: symmetric codes for the linears of the blocks,
    experts included, `rows * ceil(width * bits / 8)`, with a 16-bit scale per group,
    `rows * ceil(width / group_size) * 2`. fp8: E4M3 with one scale per row, inputs rounded as well.
    Everything else (embeddings, head, norms, vision tower) stays at 2 bytes per parameter.

    Raises:
        ConfigError: integers or fp8 of a model that is quantized already.
    """
    if precision in _CODE_BITS and spec.quantization is not None:
        raise ConfigError(
            f"{spec.name} is quantized already ({spec.quantization}); start from the unquantized "
            "model"
        )
    dense_bytes = 4 if precision == "fp32" else 2
    if precision not in _CODE_BITS:
        return _summed(_dense(spec, dense_bytes, without=frozenset()))
    bits = _CODE_BITS[precision]
    is_float = precision == "fp8"
    coded = _coded_shapes(spec)
    found = list(_dense(spec, dense_bytes, without=frozenset(coded)))
    for name, (rows, width) in coded.items():
        groups = 1 if group_size == -1 or is_float else -(-width // group_size)
        found.append(
            Piece(
                part=_part(spec, name),
                numel=rows * width,
                nbytes=rows * (-(-width * bits // 8) + groups * _SCALE_BYTES),
                bits=bits,
                activations=8 if is_float else None,
                is_float=is_float,
            )
        )
    return _summed(found)


def _coded_shapes(spec: ModelSpec) -> dict[str, tuple[int, int]]:
    """(rows, width) of the tensors that integers are stored of, by tensor name."""
    shapes = {f"{name}.weight": matrix_shape(spec, name) for name in spec.structure.linears}
    for name in fused_experts(spec):
        experts, rows, width = spec.by_name[name].shape
        shapes[name] = (experts * rows, width)
    return shapes


def _dense(spec: ModelSpec, number_bytes: int, *, without: frozenset[str]) -> Iterator[Piece]:
    """Every weight in floating point, each number once; buffers and copies are none."""
    copy = copy_of_tied(spec)
    packed = {name: math.prod(shape) for name, shape in spec.packed_shapes.items()}
    for name, numel in packed.items():
        yield Piece(part=_part(spec, name), numel=numel, nbytes=number_bytes * numel)
    for tensor in spec.tensors:
        module = tensor.name.rpartition(".")[0]
        # A stored copy of a tied embedding is one weight; what a packed layer stores is counted.
        is_counted = tensor.name in without or module == copy or _is_in(module, packed)
        if not is_counted and not is_buffer(tensor):
            n = tensor.numel
            yield Piece(part=_part(spec, tensor.name), numel=n, nbytes=number_bytes * n)


def _is_in(module: str, packed: Iterable[str]) -> bool:
    """Whether a module is a packed layer, or lies within one as bitsandbytes' states do."""
    return module in packed or module.removesuffix(".weight") in packed


def _stored(spec: ModelSpec) -> Iterator[Piece]:
    shapes = {**linear_shapes(spec), **spec.packed_shapes}
    for tensor in (*spec.tensors, *spec.adapter):
        module, _, leaf = tensor.name.rpartition(".")
        layer = module if module in spec.options else module.removesuffix(".weight")
        option, part = spec.options.get(layer), _part(spec, tensor.name)
        if option is None or option.format is Format.DENSE:
            numel = tensor.numel if tensor.dtype in _DENSE_DTYPES else 0
            yield Piece(part=part, numel=numel, nbytes=tensor.nbytes)
            continue
        # The codes stand for all weights of their layer; scales come on top of them.
        is_codes = leaf in {"weight", "weight_packed"} and module == layer
        numel = math.prod(shapes.get(layer, tensor.shape)) if is_codes else 0
        yield _coded(option, part, numel=numel, nbytes=tensor.nbytes)


def _coded(option: LayerOption, part: Part, *, numel: int, nbytes: int) -> Piece:
    return Piece(
        part=part, numel=numel, nbytes=nbytes, bits=option.bits,
        activations=option.activation_bits, is_float=option.format is Format.FP8,
        is_nested=option.format is Format.SUPERBLOCK,
    )  # fmt: skip


def _part(spec: ModelSpec, name: str) -> Part:
    """What a tensor or module is for."""
    if is_vision(name):
        return "vision"
    if EXPERT.search(name):
        return "experts"
    embedding, head = find_embedding(spec), find_head(spec)
    if embedding is not None and (name == embedding or name.startswith(f"{embedding}.")):
        return "embedding"
    if head is not None and (name == head or name.startswith(f"{head}.")):
        return "embedding" if spec.tied_embeddings else "head"
    return "blocks"


def _summed(pieces: Iterable[Piece]) -> tuple[Piece, ...]:
    """Pieces that are stored alike put together."""
    sums: dict[tuple[object, ...], list[int]] = {}
    kinds: dict[tuple[object, ...], Piece] = {}
    for piece in pieces:
        key = (piece.part, piece.bits, piece.activations, piece.is_float, piece.is_nested)
        kinds.setdefault(key, piece)
        total = sums.setdefault(key, [0, 0])
        total[0] += piece.numel
        total[1] += piece.nbytes
    return tuple(
        replace(kind, numel=sums[key][0], nbytes=sums[key][1]) for key, kind in kinds.items()
    )
