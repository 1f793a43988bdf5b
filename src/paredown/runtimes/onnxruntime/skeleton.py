"""A model folder whose matrices are stubs, from which the builder of GenAI draws a graph.

The builder reads packed weights in Olive's format and passes codes, scales and zero-points through.
What it is given here is that format with one row a matrix: the graph depends on shapes of the
config alone, and the real codes are put in afterwards, layer by layer, so that neither a copy of
the model nor its memory is needed. Norms and biases are the model's own.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from paredown.artifact.checkpoint import Checkpoint
from paredown.errors import ConfigError
from paredown.runtimes.onnxruntime.runtime import FAMILIES
from paredown.spec.embeddings import find_embedding

HEAD = "lm_head"
_BITS = 2
SPLITS = {
    "self_attn.qkv_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj"),
}
"""Matrices of Phi-3 -> those of which they consist, row after row."""
_WINDOWS = ("gemma2", "gemma3_text")
_ROPES = {"llama": ("default", "llama3")}
"""Kinds of rotary positions that were seen to be computed as in torch; else the default alone."""


def write_skeleton(checkpoint: Checkpoint, config: Any, out: Path) -> None:
    """Write it into the new folder `out`.

    Args:
        config: of the model, as transformers reads it.

    Raises:
        ConfigError: something that the builder draws otherwise than the model computes.
    """
    _check_positions(config)
    _check_window(config)
    out.mkdir()
    found: dict[str, Tensor] = {}
    embedding = find_embedding(checkpoint.spec)
    for tensor in checkpoint.names:
        name, _, leaf = tensor.rpartition(".")
        shape = checkpoint.spec.by_name[tensor].shape
        if name == embedding:
            found[f"{name}.weight"] = torch.zeros(1, config.hidden_size)
        elif len(shape) == 1 and not leaf.startswith("weight_"):
            found[tensor] = checkpoint.read(tensor)
        elif leaf in {"weight", "weight_packed"} and name != HEAD:
            for part in _parts(name):
                found |= _stub(part, stored_shape(checkpoint, name)[1])
    found |= _stub(HEAD, config.hidden_size)
    save_file(found, out / "model.safetensors")
    _write_config(checkpoint, out)


def _check_positions(config: Any) -> None:
    family, told = config.model_type, getattr(config, "rope_parameters", None) or {}
    kinds = told.values() if "full_attention" in told else (told,)
    for kind in kinds:
        name = kind.get("rope_type", "default")
        if name not in _ROPES.get(family, ("default",)):
            raise ConfigError(
                f"onnxruntime: rotary positions of the kind {name!r} are not known to be computed "
                f"as the model does it in graphs of the family {family}; use --runtime torch"
            )


def _check_window(config: Any) -> None:
    """The builder gives windows to the families alone whose layers have kinds."""
    room = config.max_position_embeddings
    window = getattr(config, "sliding_window", None) or room
    is_used = getattr(config, "use_sliding_window", True)
    if window < room and is_used and config.model_type not in _WINDOWS:
        raise ConfigError(
            f"onnxruntime: attention in windows of {window} tokens is not drawn for the family "
            f"{config.model_type}; use --runtime torch"
        )
    if getattr(config, "original_max_position_embeddings", room) != room:
        raise ConfigError(
            f"onnxruntime: positions beyond the {config.original_max_position_embeddings} that the "
            "model was made for are not known to be computed alike; use --runtime torch"
        )


def _parts(name: str) -> list[str]:
    for whole, parts in SPLITS.items():
        if name.endswith(whole):
            return [name.removesuffix(whole) + part for part in parts]
    return [name]


def stored_layers(checkpoint: Checkpoint) -> set[str]:
    """Names of everything that has a weight, packed or not."""
    leaves = (".weight", ".weight_packed")
    return {name.rpartition(".")[0] for name in checkpoint.names if name.endswith(leaves)}


def stored_shape(checkpoint: Checkpoint, name: str) -> tuple[int, int]:
    """(rows, inputs) of a layer of an artifact, packed or not."""
    packed = f"{name}.weight_shape"
    if packed in checkpoint.spec.by_name:
        rows, width = (int(n) for n in checkpoint.read(packed))
    else:
        rows, width = checkpoint.spec.by_name[f"{name}.weight"].shape
    return rows, width


def _stub(name: str, width: int) -> dict[str, Tensor]:
    """One row of zeros, in one group."""
    return {
        f"{name}.qweight": torch.zeros(1, width * _BITS // 8, dtype=torch.uint8),
        f"{name}.scales": torch.zeros(1, 1),
        f"{name}.qzeros": torch.zeros(1, 1, dtype=torch.uint8),
    }


def _write_config(checkpoint: Checkpoint, out: Path) -> None:
    for file in checkpoint.folder.glob("*.json"):
        if not file.name.startswith(("paredown", "model.safetensors", "config.json")):
            shutil.copyfile(file, out / file.name)
    for pattern in ("*.jinja", "*.model"):
        for file in checkpoint.folder.glob(pattern):
            shutil.copyfile(file, out / file.name)
    told = {key: v for key, v in checkpoint.config.items() if key != "quantization_config"}
    told["architectures"] = [FAMILIES[checkpoint.spec.model_type]]
    told["quantization_config"] = {
        "quant_method": "olive", "bits": _BITS, "group_size": -1, "symmetric": True,
        "overrides": {},
    }  # fmt: skip
    (out / "config.json").write_text(json.dumps(told))
