"""A checkpoint's numbers as constants of a graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino as ov
import openvino.opset13 as op
import torch
from torch import Tensor

from paredown.artifact.checkpoint import Checkpoint
from paredown.artifact.compressed_tensors import PackedReader
from paredown.errors import ConfigError
from paredown.runtimes.openvino.formats import code_bits, group_size
from paredown.runtimes.openvino.model import HEAD, Weights
from paredown.spec.embeddings import find_embedding, find_head
from paredown.spec.scheme import Scheme

Array = np.ndarray[Any, Any]


class Constants:
    """Reads a checkpoint for a graph; the same constant for the same layer."""

    def __init__(self, checkpoint: Checkpoint, schemes: dict[str, Scheme]) -> None:
        self._checkpoint, self._schemes = checkpoint, schemes
        self._made: dict[str, Any] = {}
        # Constants look into these arrays and do not keep them.
        self._alive: list[Array] = []
        embedding = find_embedding(checkpoint.spec)
        if embedding is None:
            raise AssertionError("a family that is held has an embedding")
        self._embedding = embedding
        self._is_tied = checkpoint.spec.tied_embeddings or find_head(checkpoint.spec) is None

    def weights(self) -> Weights:
        """The three ways in which a graph gets at them."""
        return Weights(self.linear, self._embed, self._vector)

    def linear(self, x: Any, name: str) -> Any:
        """The product with a layer, named after it, and its bias."""
        stored = self._embedding if name == HEAD and self._is_tied else name
        product = op.matmul(x, self.matrix(stored), False, True)
        product.set_friendly_name(name)
        bias = f"{name}.bias"
        return op.add(product, self._vector(bias)) if bias in self._located else product

    def matrix(self, name: str) -> Any:
        """(rows, inputs) of a layer in float32, as a part of the graph."""
        if name not in self._made:
            make = self._packed if name in self._schemes else self._dense
            self._made[name] = make(name)
        return self._made[name]

    @property
    def _located(self) -> Any:
        return self._checkpoint.spec.by_name

    def _embed(self, ids: Any) -> Any:
        found = op.gather(self.matrix(self._embedding), op.convert(ids, "i32"), op.constant(0))
        found.set_friendly_name(self._embedding)
        return found

    def _vector(self, name: str) -> Any:
        return op.constant(self._checkpoint.read(name).float().numpy())

    def _dense(self, name: str) -> Any:
        values = self._checkpoint.read(f"{name}.weight")
        if values.dtype is torch.float32:
            return op.constant(values.numpy())
        kind = ov.Type.bf16 if values.dtype is torch.bfloat16 else ov.Type.f16
        raw = values.view(torch.uint8).numpy()
        constant = self._constant(raw, list(values.shape), kind)
        return op.convert(constant, "f32")

    def _packed(self, name: str) -> Any:
        scheme = self._schemes[name]
        reader = PackedReader(self._checkpoint, name, scheme)
        codes, grid = reader.rows(0, reader.shape[0])
        rows, width = reader.shape
        size = group_size(scheme.option("F32"), width)
        if size is None:
            raise ConfigError(f"openvino: groups of {scheme.group_size} do not fit {name}")
        bits, groups = code_bits(scheme.bits), width // size
        repeat = groups // grid.scale.shape[1]
        shape = [rows, groups, size]
        constant = self._codes(_unsigned(codes, bits), shape, bits)
        if grid.zero is None:
            middle = torch.full((1, 1, 1), 2 ** (bits - 1), dtype=torch.uint8)
            zero = self._codes(middle, [1, 1, 1], bits)
        else:
            spread = _unsigned(grid.zero, bits).repeat_interleave(repeat, 1)
            zero = self._codes(spread, [rows, groups, 1], bits)
        scale = grid.scale.repeat_interleave(repeat, 1)[..., None]
        return decompressed(constant, zero, _scale(scale), [rows, width])

    def _codes(self, codes: Tensor, shape: list[int], bits: int) -> Any:
        """A constant; of 4 bits, two share a byte, the first in its lower half."""
        flat = codes.flatten()
        if bits == 4:
            flat = torch.nn.functional.pad(flat, (0, len(flat) % 2))
            flat = flat[::2] | (flat[1::2] << 4)
        kind = ov.Type.u4 if bits == 4 else ov.Type.u8
        return self._constant(flat.contiguous().numpy(), shape, kind)

    def _constant(self, raw: Array, shape: list[int], kind: ov.Type) -> Any:
        self._alive.append(raw)
        return op.constant(ov.Tensor(raw, ov.Shape(shape), kind))


def decompressed(codes: Any, zero: Any, scale: Any, shape: list[int]) -> Any:
    """(codes - zero) * scale as the engine recognizes it, in float32."""
    kind = "f16" if scale.get_element_type() == ov.Type.f16 else "f32"
    whole = op.subtract(op.convert(codes, kind), op.convert(zero, kind))
    product = op.reshape(op.multiply(whole, scale), op.constant(np.array(shape)), False)
    return op.convert(product, "f32") if kind == "f16" else product


def _unsigned(codes: Tensor, bits: int) -> Tensor:
    shifted: Tensor = codes.to(torch.int16) + 2 ** (bits - 1)
    return shifted.to(torch.uint8)


def _scale(scale: Tensor) -> Any:
    """In half precision where that changes no number, else in float32."""
    half = scale.to(torch.float16)
    is_exact = bool((half.double() == scale.double()).all())
    return op.constant((half if is_exact else scale.float()).numpy())
