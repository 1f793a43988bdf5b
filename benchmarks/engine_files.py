"""The weights in the files of engines, read by code that did not write them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any


def count_differing(artifact: Path, runtime: str, package: Path) -> tuple[int, int]:
    """(weights that differ, weights compared) of all packed layers, float32 against float32."""
    import torch

    from paredown.artifact.checkpoint import Checkpoint
    from paredown.artifact.compressed_tensors import read_packed, read_schemes
    from paredown.ops.grids import dequantize

    checkpoint = Checkpoint(artifact)
    written = WRITTEN[runtime](checkpoint, package)
    differing = compared = 0
    for name, scheme in read_schemes(checkpoint).items():
        expected = dequantize(*read_packed(checkpoint, name, scheme), torch.float32)
        differing += int((written(name) != expected).sum())
        compared += expected.numel()
    return differing, compared


def _in_gguf(checkpoint: Any, package: Path) -> Callable[[str], Any]:
    """Weights by layer as gguf's own code reads them, in the order of rows of transformers."""
    import numpy as np
    import torch
    from gguf import GGUFReader
    from gguf.quants import dequantize as read_blocks

    from paredown.blocks.skeleton import read_config
    from paredown.runtimes.llama_cpp.architectures import ARCHITECTURES
    from paredown.runtimes.llama_cpp.export import tensor_names

    config = read_config(checkpoint.folder).get_text_config()
    architecture = ARCHITECTURES[checkpoint.spec.model_type]
    names = tensor_names(architecture, config)
    tensors = {tensor.name: tensor for tensor in GGUFReader(package / "model.gguf").tensors}
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}

    def read(name: str) -> Any:
        tensor = tensors[f"{names.get_name(name)}.weight"]
        found = torch.from_numpy(np.array(read_blocks(tensor.data, tensor.tensor_type)))
        leaf = name.rpartition(".")[2]
        if not architecture.interleaves or leaf not in heads:
            return found
        rows = found.reshape(heads[leaf], -1, 2, found.shape[1])
        return torch.cat((rows[:, :, 0], rows[:, :, 1]), 1).reshape(found.shape)

    return read


def _in_onnx(checkpoint: Any, package: Path) -> Callable[[str], Any]:
    """Weights by layer from the constants of the graph; q, k and v may be one product."""
    import onnx_ir
    import torch

    from paredown.runtimes.onnxruntime.proof import dequantized
    from paredown.runtimes.onnxruntime.skeleton import stored_shape

    nodes = {node.name: node for node in onnx_ir.load(package / "model.onnx").graph}

    def read(name: str) -> Any:
        if name == "model.embed_tokens":
            return rows("/model/embed_tokens/GatherBlockQuantized", 0, name)
        if name == "lm_head":
            return rows("/lm_head/MatMulNBits", 0, name)
        stem = "/" + name.replace(".self_attn.", ".attn.").replace(".", "/")
        stem = stem.replace("/layers/", "/layers.")
        block, _, leaf = stem.rpartition("/")
        joined, kinds = f"{block}/qkv_proj/MatMulNBits", ("q_proj", "k_proj", "v_proj")
        if leaf not in kinds or joined not in nodes:
            return rows(f"{stem}/MatMulNBits", 0, name)
        before = kinds[: kinds.index(leaf)]
        parent = name.rpartition(".")[0]
        return rows(joined, sum(stored_shape(checkpoint, f"{parent}.{k}")[0] for k in before), name)

    def rows(node: str, start: int, name: str) -> Any:
        count = stored_shape(checkpoint, name)[0]
        return torch.from_numpy(dequantized(nodes[node], start, start + count))

    return read


def _in_openvino(checkpoint: Any, package: Path) -> Callable[[str], Any]:
    """Weights by layer as the engine itself computes them from the file."""
    import openvino
    import torch

    model = openvino.Core().read_model(package / "openvino_model.xml")
    nodes = {node.get_friendly_name(): node for node in model.get_ordered_ops()}

    def read(name: str) -> Any:
        node = nodes[name]
        place = node.input_value(1 if node.get_type_name() == "MatMul" else 0)
        part = openvino.Model([openvino.opset13.result(place)], [])
        exact = {"INFERENCE_PRECISION_HINT": "f32"}
        (found,) = openvino.Core().compile_model(part, "CPU", exact)([]).values()
        return torch.from_numpy(found.copy())

    return read


WRITTEN: dict[str, Callable[[Any, Path], Callable[[str], Any]]] = {
    "llama.cpp": _in_gguf, "onnxruntime": _in_onnx, "openvino": _in_openvino,
}  # fmt: skip
