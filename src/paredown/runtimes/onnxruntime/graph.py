"""The builder's graph with a model's own numbers in it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from paredown.artifact.checkpoint import Checkpoint
from paredown.runtimes.onnxruntime.matrices import Array, Matrix, pieces_of
from paredown.runtimes.onnxruntime.runtime import DATA, FILE
from paredown.runtimes.onnxruntime.skeleton import HEAD, stored_layers
from paredown.spec.embeddings import find_embedding, find_head
from paredown.spec.scheme import Scheme

CONTRIB = "com.microsoft"
_PRODUCT = re.compile(r"/(?:model/layers\.(\d+)/(attn|mlp)/)?(\w+)/MatMulNBits$")
_LEAST_BYTES = 64
_GATHER = "/model/embed_tokens/Gather"
_PACKED_GATHER = f"{_GATHER}BlockQuantized"


class Graph:
    """A drawn graph whose products are stubs."""

    def __init__(
        self, file: Path, checkpoint: Checkpoint, schemes: dict[str, Scheme], accuracy: int
    ) -> None:
        self._model = ir.load(file)
        self._graph = self._model.graph
        self._checkpoint, self._schemes, self._accuracy = checkpoint, schemes, accuracy
        self._stored = stored_layers(checkpoint)
        embedding = find_embedding(checkpoint.spec)
        if embedding is None:
            raise AssertionError("a family that is held has an embedding")
        self._embedding = embedding

    def fill(self) -> dict[str, Matrix]:
        """Put the model's numbers in; the matrix of every packed node by name."""
        packed = {}
        for node in list(self._graph):
            found = _PRODUCT.search(node.name or "")
            if found is None:
                continue
            matrix = self._matrix(_layer(*found.groups()))
            if matrix.layout is None:
                self._make_dense(node, matrix)
            else:
                self._make_packed(node, matrix)
                packed[str(node.name)] = matrix
        packed |= self._fill_embedding()
        return packed

    def save(self, out: Path) -> None:
        """Write graph and weights, one matrix at a time."""
        self._drop_unused()
        ir.save(
            self._model,
            out / FILE,
            external_data=DATA,
            # Shapes stay in the graph, where they are looked at when it is loaded.
            size_threshold_bytes=_LEAST_BYTES,
            max_workers=1,
        )

    def _matrix(self, layer: str) -> Matrix:
        if layer == HEAD and self._is_tied:
            layer = self._embedding
        pieces = pieces_of(self._checkpoint, self._stored, layer)
        return Matrix(self._checkpoint, self._schemes, pieces)

    @property
    def _is_tied(self) -> bool:
        return self._checkpoint.spec.tied_embeddings or find_head(self._checkpoint.spec) is None

    # --- Products -------------------------------------------------------------------------------

    def _make_packed(self, node: ir.Node, matrix: Matrix) -> None:
        layout, (rows, width) = matrix.layout, matrix.shape
        if layout is None:
            raise AssertionError("a packed matrix has a layout")
        names = [value.name for value in node.inputs if value is not None]
        stem = str(names[1]).removesuffix(".qweight")
        inputs = [
            node.inputs[0],
            self._value(f"{stem}.codes", (rows, matrix.blocks, layout.block * layout.bits // 8),
                        ir.DataType.UINT8, matrix.codes),
            self._value(f"{stem}.scale", (rows, matrix.blocks), ir.DataType.FLOAT, matrix.scales),
        ]  # fmt: skip
        if not layout.symmetric:
            # Without them it takes the middle of the range, which is the zero of a symmetric grid.
            shape = (rows, -(-matrix.blocks * layout.bits // 8))
            inputs.append(
                self._value(f"{stem}.zero", shape, ir.DataType.UINT8, matrix.packed_zeros)
            )
        _set_inputs(node, inputs)
        numbers = {
            "bits": layout.bits, "block_size": layout.block, "K": width, "N": rows,
            "accuracy_level": self._accuracy,
        }  # fmt: skip
        _set_attributes(node, numbers)
        _set_width(node, rows)

    def _make_dense(self, node: ir.Node, matrix: Matrix) -> None:
        rows, width = matrix.shape
        if node.name == f"/{HEAD}/MatMulNBits" and self._is_tied:
            # The embedding itself, read the other way: it is in the file once.
            weight = self._value(
                f"{self._embedding}.weight", (rows, width), ir.DataType.FLOAT, matrix.dense
            )
            node.op_type, numbers = "FusedMatMul", {"transB": 1}
        else:
            stem = str(node.inputs[1].name if node.inputs[1] else "").removesuffix(".qweight")
            weight = self._value(
                f"{stem}.weight", (width, rows), ir.DataType.FLOAT, lambda: matrix.dense().T
            )
            node.op_type, node.domain, numbers = "MatMul", "", {}
        _set_inputs(node, [node.inputs[0], weight])
        _set_attributes(node, numbers)
        _set_width(node, rows)

    # --- The embedding --------------------------------------------------------------------------

    def _fill_embedding(self) -> dict[str, Matrix]:
        node = next(node for node in self._graph if node.name == _GATHER)
        matrix = Matrix(
            self._checkpoint,
            self._schemes,
            pieces_of(self._checkpoint, self._stored, self._embedding),
        )
        if matrix.layout is None:
            weight = self._value(
                f"{self._embedding}.weight", matrix.shape, ir.DataType.FLOAT, matrix.dense
            )
            node.replace_input_with(0, weight)
            return {}
        self._gather_packed(node, matrix)
        return {_PACKED_GATHER: matrix}

    def _gather_packed(self, node: ir.Node, matrix: Matrix) -> None:
        """Rows taken out of codes: those of the head, where it is the same matrix."""
        layout, (rows, width) = matrix.layout, matrix.shape
        if layout is None:
            raise AssertionError("a packed matrix has a layout")
        stem = f"{HEAD}.MatMulNBits" if self._is_tied else self._embedding
        codes = self._value(
            f"{stem}.codes", (rows, matrix.blocks, layout.block * layout.bits // 8),
            ir.DataType.UINT8, matrix.codes,
        )  # fmt: skip
        # Seen as one block in each of many short rows, so that the head can read the same codes.
        shape = (rows, matrix.blocks, 1)
        name = f"{self._embedding}.scale"
        scale = self._value(name, shape, ir.DataType.FLOAT, lambda: matrix.scales()[..., None])
        inputs = [codes, node.inputs[1], scale]
        if not layout.symmetric:
            inputs.append(
                self._value(
                    f"{self._embedding}.zero",
                    shape,
                    ir.DataType.UINT8,
                    lambda: matrix.zeros()[..., None],
                )
            )
        blocks = ir.node(
            "GatherBlockQuantized",
            inputs,
            {
                "bits": layout.bits, "block_size": layout.block, "gather_axis": 0,
                "quantize_axis": 2,
            },
            domain=CONTRIB,
            name=_PACKED_GATHER,
        )  # fmt: skip
        whole = self._value(
            f"{self._embedding}.shape", (3,), ir.DataType.INT64,
            lambda: np.array([0, 0, width], dtype=np.int64),
        )  # fmt: skip
        self._graph.insert_before(node, blocks)
        node.op_type, node.domain = "Reshape", ""
        _set_inputs(node, [blocks.outputs[0], whole])
        _set_attributes(node, {})
        blocks.outputs[0].dtype = ir.DataType.FLOAT

    # --- Values ---------------------------------------------------------------------------------

    def _value(
        self, name: str, shape: tuple[int, ...], dtype: ir.DataType, read: Callable[[], Array]
    ) -> ir.Value:
        """A constant of the graph, read when it is written; the same for the same name."""
        known = self._graph.initializers
        if name in known and known[name].shape == ir.Shape(shape):
            return known[name]

        def tensor() -> Any:
            return ir.tensor(np.ascontiguousarray(read()))

        value = ir.Value(
            name=name,
            shape=ir.Shape(shape),
            type=ir.TensorType(dtype),
            const_value=ir.LazyTensor(tensor, dtype=dtype, shape=ir.Shape(shape), name=name),
        )
        known.pop(name, None)
        self._graph.register_initializer(value)
        return value

    def _drop_unused(self) -> None:
        used = {value for node in self._graph for value in node.inputs if value is not None}
        for name, value in list(self._graph.initializers.items()):
            if value not in used:
                del self._graph.initializers[name]


def _layer(block: str | None, place: str | None, leaf: str) -> str:
    """What a product of the graph is called in the model."""
    if block is None:
        return leaf
    return f"model.layers.{block}.{'self_attn' if place == 'attn' else 'mlp'}.{leaf}"


def _set_inputs(node: ir.Node, values: list[ir.Value | None]) -> None:
    node.resize_inputs(len(values))
    for i, value in enumerate(values):
        node.replace_input_with(i, value)


def _set_attributes(node: ir.Node, numbers: dict[str, int]) -> None:
    node.attributes.clear()
    for name, number in numbers.items():
        node.attributes[name] = ir.AttrInt64(name, number)


def _set_width(node: ir.Node, rows: int) -> None:
    """The last dimension of the result, which the stub had wrong."""
    shape = node.outputs[0].shape
    if shape is not None:
        node.outputs[0].shape = ir.Shape([*shape.dims[:-1], rows])
