"""ONNX Runtime passes the suite of engines, with numbers read from the graph by its own reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from paredown.artifact.checkpoint import Checkpoint
from paredown.artifact.compressed_tensors import read_packed, read_schemes
from paredown.ops.grids import dequantize
from paredown.runtimes.session import Session
from paredown.testing.runtimes import EngineConformance

pytest.importorskip("onnxruntime_genai")
onnx = pytest.importorskip("onnx")

WIDTHS = {"q_proj": (0, 64), "k_proj": (64, 96), "v_proj": (96, 128)}
"""Rows of q, k and v of the tiny Llama in their one product."""


def products(folder: Path) -> dict[str, Tensor]:
    """Weights of every product and of the embedding, float32, by their name in the graph."""
    from onnx import numpy_helper

    model = onnx.load(folder / "model.onnx")
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        if node.op_type not in {"MatMulNBits", "GatherBlockQuantized"}:
            continue
        names = [name for name in node.input if name in constants]
        said = {a.name: a.i for a in node.attribute}
        bits, block = said["bits"], said["block_size"]

        values = unpacked(constants[names[0]], bits)
        scale = torch.from_numpy(constants[names[1]].copy()).flatten(1)
        zero = torch.full_like(scale, 2 ** (bits - 1))
        if len(names) > 2:
            # Those of a gather have a byte each.
            wide = bits if node.op_type == "MatMulNBits" else 8
            zero = unpacked(constants[names[2]], wide)[:, : scale.shape[1]]
        zero, scale = (t.repeat_interleave(block, 1) for t in (zero, scale))
        found[node.name] = (values - zero) * scale
    return found


def unpacked(packed: Any, bits: int) -> Tensor:
    """(rows, n) float32 codes of (rows, ..., bytes)."""
    raw = torch.from_numpy(packed.copy()).flatten(1)
    codes = [(raw >> shift) & (2**bits - 1) for shift in range(0, 8, bits)]
    return torch.stack(codes, -1).flatten(1).float()


class TestOnnxRuntime(EngineConformance):
    """All bits and both kinds of grids, embedding and head, q/k/v unlike, one layer dense."""

    runtime_name = "onnxruntime"
    strategy: ClassVar[str] = (
        'rtn(bits=4, group_size=32, symmetric=false, embedding_bits=8, plan={"*.down_proj": 6, '
        '"*.q_proj": 2, "*.o_proj": 16, "*.0.mlp.gate_proj": 3})'
    )
    refused = "smoothquant"
    kl_bound = 0.02

    def dense_weight(self, session: Session, name: str) -> Tensor:
        from paredown.runtimes.onnxruntime.session import OnnxSession

        assert isinstance(session, OnnxSession)
        found = products(session.folder)
        *_, leaf = name.split(".")
        if leaf == "embed_tokens":
            return found["/model/embed_tokens/GatherBlockQuantized"]
        if leaf == "lm_head":
            return found["/lm_head/MatMulNBits"]
        block, place = name.split(".")[2], "mlp" if ".mlp." in name else "attn"
        stem = f"/model/layers.{block}/{place}"
        joined = found.get(f"{stem}/qkv_proj/MatMulNBits")
        if leaf in WIDTHS and joined is not None:
            return joined[slice(*WIDTHS[leaf])]
        return found[f"{stem}/{leaf}/MatMulNBits"]

    def test_not_one_number_differs(self, artifact: Path, session: Session) -> None:
        checkpoint = Checkpoint(artifact)
        for name, scheme in read_schemes(checkpoint).items():
            expected = dequantize(*read_packed(checkpoint, name, scheme), torch.float32)
            assert torch.equal(self.dense_weight(session, name), expected), name
