"""Packed layers of a checkpoint, put in the places of a model's linears."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from paredown.artifact.checkpoint import Checkpoint
from paredown.artifact.compressed_tensors import read_packed, read_schemes
from paredown.artifact.eight_bit import EightBit, eight_bit_parts, read_eight_bit
from paredown.blocks.memory import release
from paredown.blocks.names import module_name
from paredown.blocks.skeleton import set_tensor
from paredown.errors import ModelError
from paredown.ops.affine import Grid
from paredown.ops.grids import dequantize
from paredown.runtimes.torch.eight_bit import eight_bit_linears
from paredown.runtimes.torch.embeddings import attach_embeddings
from paredown.runtimes.torch.packed import pack_linears
from paredown.spec.embeddings import packable_embeddings
from paredown.spec.scheme import GridKind, Scheme
from paredown.spec.structure import by_input

T = TypeVar("T")


@dataclass(frozen=True)
class PackedParts:
    """What of a checkpoint is stored packed, by the module's name.

    Attributes:
        embeddings: embedding and head.
        grids: layers on a grid of integers.
        eight_bit: layers that are multiplied as eight-bit numbers (W8A8).
        superblocks: matrices on two-level grids, embedding and head among them. These are made for
            llama.cpp: there are no kernels for them here, and they are unpacked.
    """

    embeddings: dict[str, Scheme]
    grids: dict[str, Scheme]
    eight_bit: dict[str, EightBit]
    superblocks: dict[str, Scheme]

    @staticmethod
    def of(checkpoint: Checkpoint) -> PackedParts:
        """All of them."""
        grids = read_schemes(checkpoint)
        nested = {n: grids.pop(n) for n in list(grids) if grids[n].kind is GridKind.SUPERBLOCK}
        embeddings = {n: grids.pop(n) for n in packable_embeddings(checkpoint.spec) if n in grids}
        return PackedParts(embeddings, grids, read_eight_bit(checkpoint), nested)

    @property
    def schemes(self) -> dict[str, Scheme]:
        """Everything that lies on a grid."""
        return {**self.grids, **self.embeddings, **self.superblocks}

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the packed layers."""
        return (*self.grids, *self.eight_bit)

    def within(self, prefix: str) -> PackedParts:
        """The layers below a module."""
        return PackedParts(
            {},
            _below(prefix, self.grids),
            _below(prefix, self.eight_bit),
            _below(prefix, self.superblocks),
        )

    def outside(self, prefixes: tuple[str, ...]) -> PackedParts:
        """Those below none of these modules."""
        nested = {n: how for n, how in self.superblocks.items() if not n.startswith(prefixes)}
        return PackedParts(self.embeddings, {}, {}, nested)

    def dense(self, names: list[str]) -> list[str]:
        """Of these stored tensors those that belong to nothing packed."""
        inside = tuple(f"{name}." for name in (*self.embeddings, *self.layers))
        inside += tuple(f"{name}.weight_" for name in self.superblocks)  # their biases are dense
        return [name for name in names if not name.startswith(inside)]


def _below(prefix: str, some: dict[str, T]) -> dict[str, T]:
    return {name: how for name, how in some.items() if name.startswith(prefix)}


def _read(checkpoint: Checkpoint, name: str, how: Scheme) -> tuple[Tensor, Grid]:
    codes, grid = read_packed(checkpoint, name, how)
    if not isinstance(grid, Grid):
        raise AssertionError("two-level grids are set apart")
    return codes, grid


def place_embeddings(
    model: Any, checkpoint: Checkpoint, parts: PackedParts, *, dtype: torch.dtype, device: str
) -> None:
    """Put packed embedding and head in their places; a tied head stays tied.

    Raises:
        MethodError: the family's embedding does more than to look up rows.
    """
    read = {name: _read(checkpoint, name, how) for name, how in parts.embeddings.items()}
    attach_embeddings(model, read, checkpoint, dtype=dtype, device=device)


def place_unpacked(
    model: Any, checkpoint: Checkpoint, parts: PackedParts, *, dtype: torch.dtype
) -> None:
    """Put matrices on two-level grids in their places, as dense ones in `dtype`."""
    for name, how in parts.superblocks.items():
        weight = dequantize(*read_packed(checkpoint, name, how), dtype)
        set_tensor(model, f"{name}.weight", weight)


@torch.no_grad()
def place_layers(
    model: Any, checkpoint: Checkpoint, parts: PackedParts, *, dtype: torch.dtype, device: str
) -> Counter[str]:
    """Put packed layers in their places; how many each kernel computes.

    Raises:
        ModelError: the model has another part in such a place.
    """
    kernels: Counter[str] = Counter()
    # Layers that read one input become one product.
    for names in by_input(parts.grids):
        read = []
        for name in names:
            linear = model.get_submodule(module_name(model, name))
            if not isinstance(linear, nn.Linear):
                raise ModelError(f"{name} is a {type(linear).__name__}, not a Linear")
            bias = f"{name}.bias"
            has_bias = bias in checkpoint.spec.by_name
            read.append(
                (
                    *_read(checkpoint, name, parts.grids[name]),
                    checkpoint.read(bias).to(device) if has_bias else None,
                )
            )
        for name, packed in zip(names, pack_linears(read, dtype=dtype, device=device), strict=True):
            model.set_submodule(module_name(model, name), packed)
            kernels[packed.kernel] += 1
        del read
        release()
    for names in by_input(parts.eight_bit):
        found = eight_bit_linears(
            eight_bit_parts(checkpoint, names),
            parts.eight_bit[names[0]],
            dtype=dtype,
            device=device,
        )
        for name, linear in zip(names, found, strict=True):
            model.set_submodule(module_name(model, name), linear)
            kernels[linear.kernel] += 1
    return kernels
