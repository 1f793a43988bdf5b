"""What every tensor of a GGUF file is made of: names, types, shapes, and the bytes, row by row.

Sources are read a few rows at a time, so that a file of any size is written in bounded memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from paredown.artifact.checkpoint import Checkpoint
from paredown.artifact.compressed_tensors import PackedReader, read_schemes
from paredown.errors import ConfigError
from paredown.ops.affine import Grid, dequantize
from paredown.runtimes.llama_cpp.architectures import Architecture
from paredown.runtimes.llama_cpp.blocks import (
    Bytes,
    dense,
    encode_grid,
    has_exact_minima,
    integers,
    is_exact,
)
from paredown.runtimes.llama_cpp.tensor_types import (
    MINIMUM_TYPES,
    BlockType,
    block_type,
    dense_type,
    tensor_bytes,
)
from paredown.spec.infer import is_buffer
from paredown.spec.scheme import GridKind, Scheme
from paredown.spec.structure import stored_transposed

_EXPERT = re.compile(r"experts\.\d+\.")
_AT_ONCE = 1 << 23
"""Weights that are read at once: some 100 MB while they are taken apart and put together."""


class Source(Protocol):
    """The numbers of one tensor."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows first."""
        ...

    def parts(self) -> Iterator[Bytes]:
        """Their bytes in the file, in order."""
        ...


@dataclass(frozen=True, kw_only=True)
class FileTensor:
    """One tensor of the file."""

    name: str
    kind: BlockType | str
    """A type of blocks, or the name of a floating-point one."""
    source: Source

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape

    @property
    def nbytes(self) -> int:
        return tensor_bytes(self.kind, self.shape)


def file_tensors(
    checkpoint: Checkpoint, config: Any, architecture: Architecture, names: Any
) -> list[FileTensor]:
    """All tensors of a model, blocks in order.

    Args:
        config: of the text model, for its heads.
        names: gguf's map from transformers' names.

    Raises:
        ConfigError: a tensor that the file has no place for.
    """
    schemes = read_schemes(checkpoint)
    found: dict[str, list[FileTensor]] = {}
    for name, leaf in _stored(checkpoint, schemes, architecture):
        target = names.get_name(_EXPERT.sub("experts.", name))
        if target is None:
            raise ConfigError(f"llama.cpp has no place for the tensor {name}.{leaf}")
        heads = _heads(name, config) if architecture.interleaves else None
        if name in schemes and leaf == "weight":
            made = _packed(checkpoint, name, schemes[name], f"{target}.{leaf}", heads)
        else:
            made = _dense(checkpoint, f"{name}.{leaf}", f"{target}.{leaf}", heads, architecture)
        found.setdefault(made.name, []).append(made)
    return [_stacked(parts) for parts in found.values()]


def _stored(
    checkpoint: Checkpoint, schemes: dict[str, Scheme], architecture: Architecture
) -> list[tuple[str, str]]:
    """(module, leaf) of everything that is written; a packed layer's tensors are one weight."""
    found: dict[tuple[str, str], None] = {}
    tied = checkpoint.spec.tied_embeddings or architecture.ties
    for tensor in checkpoint.names:
        name, _, leaf = tensor.rpartition(".")
        if leaf.startswith("weight_") and name in schemes:
            leaf = "weight"
        elif is_buffer(checkpoint.spec.by_name[tensor]):
            continue
        elif leaf not in {"weight", "bias"}:
            raise ConfigError(f"llama.cpp has no place for the tensor {tensor}")
        # The head of a tied model is the embedding, which llama.cpp takes of itself.
        if not (tied and name == "lm_head"):
            found[name, leaf] = None
    return list(found)


def _stacked(parts: list[FileTensor]) -> FileTensor:
    """A tensor alone, or the experts of a block one behind the other."""
    first = parts[0]
    if ".ffn_" not in first.name or not first.name.endswith("_exps.weight"):
        return first
    if any(part.kind != first.kind for part in parts):
        raise ConfigError(f"llama.cpp holds all experts of {first.name} in one type")
    return FileTensor(
        name=first.name, kind=first.kind, source=_Stack([part.source for part in parts])
    )


class _Stack:
    """Matrices of one shape, one behind the other."""

    def __init__(self, sources: list[Source]) -> None:
        self._sources = sources
        self.shape = (len(sources), *sources[0].shape)

    def parts(self) -> Iterator[Bytes]:
        for source in self._sources:
            yield from source.parts()


def _heads(name: str, config: Any) -> int | None:
    """Heads of a matrix whose rows change places: those of q and k."""
    kinds = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    return kinds.get(name.rpartition(".")[2])


def interleaved(rows: int, heads: int) -> Tensor:
    """Which row of transformers each row of llama.cpp is, (rows,) int64.

    transformers rotates a head's feature i with i + half, llama.cpp neighbours.
    """
    order = torch.arange(rows).reshape(heads, 2, rows // heads // 2)
    return order.transpose(1, 2).reshape(-1)


# --- Packed matrices ------------------------------------------------------------------------------


def _packed(
    checkpoint: Checkpoint, name: str, scheme: Scheme, target: str, heads: int | None
) -> FileTensor:
    kind = block_type(scheme.option("BF16"))
    if kind is None:
        raise ConfigError(f"llama.cpp: no type of blocks holds {name} ({scheme.option('BF16')})")
    if scheme.kind is GridKind.SUPERBLOCK:
        return FileTensor(name=target, kind=kind, source=_SuperblockSource(checkpoint, name, heads))
    reader = PackedReader(checkpoint, name, scheme)
    source = _PackedSource(reader, kind, heads)
    if not source.is_exact():
        # Rare: groups of tiny weights whose scale is below half precision's normal numbers.
        return FileTensor(name=target, kind="F32", source=_PackedSource(reader, None, heads))
    return FileTensor(name=target, kind=kind, source=source)


def _spans(shape: tuple[int, int], heads: int | None) -> list[tuple[int, int]]:
    """Rows that are read at once."""
    rows, width = shape
    # Rows of a head change places with each other: it is read as a whole.
    unit = 1 if heads is None else rows // heads
    step = max(1, _AT_ONCE // width // unit) * unit
    return [(start, min(start + step, rows)) for start in range(0, rows, step)]


class _SuperblockSource:
    """A matrix on two-level grids, which the artifact stores in the very bytes of the file."""

    def __init__(self, checkpoint: Checkpoint, name: str, heads: int | None) -> None:
        self._checkpoint, self._tensor, self._heads = checkpoint, f"{name}.weight_packed", heads
        rows, width = (int(n) for n in checkpoint.read(f"{name}.weight_shape"))
        self.shape = rows, width

    def parts(self) -> Iterator[Bytes]:
        for span in _spans(self.shape, self._heads):
            raw = self._checkpoint.read_rows(self._tensor, *span).numpy()
            yield np.ascontiguousarray(_in_order(raw, self._heads, self.shape[0]))


class _PackedSource:
    """A packed matrix as blocks, or (`kind` None) as the numbers that it stands for."""

    def __init__(self, reader: PackedReader, kind: BlockType | None, heads: int | None) -> None:
        self._reader, self._kind, self._heads = reader, kind, heads
        self.shape = reader.shape

    def is_exact(self) -> bool:
        if self._kind in MINIMUM_TYPES.values():
            return all(has_exact_minima(grid) for _, grid in self._read())
        if bool((self._reader.scale.half().double() == self._reader.scale.double()).all()):
            return True  # without a look at the codes
        return all(is_exact(integers(codes, grid.zero), grid) for codes, grid in self._read())

    def _read(self) -> Iterator[tuple[Tensor, Grid]]:
        return (self._reader.rows(*span) for span in _spans(self.shape, self._heads))

    def parts(self) -> Iterator[Bytes]:
        for codes, grid in self._read():
            if self._kind is None:
                found = dense(dequantize(codes, grid, torch.float32), "F32")
            else:
                found = encode_grid(codes, grid, self._kind)
            yield _in_order(found, self._heads, self.shape[0])


def _in_order(found: Any, heads: int | None, rows: int) -> Any:
    """Rows of whole heads, each head's rows in llama.cpp's order."""
    if heads is None:
        return found
    order = interleaved(len(found), len(found) * heads // rows)
    return found[order.numpy()]


# --- Floating point -------------------------------------------------------------------------------


def _dense(
    checkpoint: Checkpoint, tensor: str, target: str, heads: int | None, architecture: Architecture
) -> FileTensor:
    info = checkpoint.spec.by_name[tensor]
    name = tensor.rpartition(".")[0]
    shift = architecture.norm_shift if name.endswith("norm") else 0.0
    kind = dense_type(tensor, info.dtype, info.shape)
    source = _DenseSource(
        checkpoint,
        tensor,
        kind,
        heads=heads,
        shift=shift,
        is_transposed=tensor.endswith(".weight") and stored_transposed(checkpoint.spec, name),
    )
    return FileTensor(name=target, kind=kind, source=source)


class _DenseSource:
    """A tensor of floating-point numbers."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        tensor: str,
        kind: str,
        *,
        heads: int | None,
        shift: float,
        is_transposed: bool,
    ) -> None:
        self._checkpoint, self._tensor, self._kind = checkpoint, tensor, kind
        self._heads, self._shift, self._is_transposed = heads, shift, is_transposed
        shape = checkpoint.spec.by_name[tensor].shape
        self.shape = shape[::-1] if is_transposed else shape
        if len(shape) == 2 and shape[0] == 1:  # the gate of a shared expert is a vector there
            self.shape = shape[1:]

    def parts(self) -> Iterator[Bytes]:
        if self._is_transposed or len(self.shape) == 1:
            yield self._bytes(self._checkpoint.read(self._tensor))
            return
        rows, width = self.shape[0], int(np.prod(self.shape[1:]))
        unit = 1 if self._heads is None else rows // self._heads
        step = max(1, _AT_ONCE // width // unit) * unit
        for start in range(0, rows, step):
            yield self._bytes(self._checkpoint.read_rows(self._tensor, start, start + step))

    def _bytes(self, values: Tensor) -> Any:
        values = values.T.contiguous() if self._is_transposed else values
        values = values.reshape(self.shape) if len(self.shape) == 1 else values
        if self._shift:
            values = values.float() + self._shift  # as transformers adds it, in float32
        if values.ndim == 1 and self._heads is not None:  # a bias: its rows are single numbers
            values = values[interleaved(len(values), self._heads)]
            return dense(values, self._kind)
        return _in_order(dense(values, self._kind), self._heads, self.shape[0])


@dataclass(frozen=True)
class Factors:
    """Float32 numbers that no tensor of the model has: divisors of frequencies."""

    values: Sequence[float]

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.values),)

    def parts(self) -> Iterator[Bytes]:
        yield dense(torch.tensor(self.values, dtype=torch.float32), "F32")
