"""Eight-bit weights and activations (W8A8) in compressed-tensors' own two formats, as files.

`int-quantized` stores int8, `float-quantized` FP8 (E4M3): per layer `weight` and one `weight_scale`
per row. Activations are quantized while computing, with one scale per token. Plain transformers
computes the same numbers in floating point; vLLM has kernels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from paredown.artifact.checkpoint import TORCH_DTYPES, Checkpoint
from paredown.errors import ModelError
from paredown.ops.eight_bit import FP8, INT8, Number

_FORMATS = {"int-quantized": INT8, "float-quantized": FP8}


@dataclass(frozen=True)
class EightBit:
    """How a layer computes: its numbers, and whether activations are quantized too."""

    number: Number
    activations: bool


def eight_bit_config(how: EightBit, ignored: list[str]) -> dict[str, Any]:
    """The quantization config of a checkpoint whose layers compute as `how` says."""
    layout = next(name for name, number in _FORMATS.items() if number is how.number)
    common = {"num_bits": 8, "type": how.number.kind, "symmetric": True}
    weights = {**common, "strategy": "channel", "dynamic": False, "observer": "minmax"}
    inputs = {**common, "strategy": "token", "dynamic": True, "observer": None}
    group = {
        "targets": ["Linear"],
        "weights": weights,
        "input_activations": inputs if how.activations else None,
        "output_activations": None,
        "format": layout,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": layout,
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": ignored,
        "kv_cache_scheme": None,
    }


def read_eight_bit(checkpoint: Checkpoint) -> dict[str, EightBit]:
    """How each layer stored in one of the two formats computes; none for other checkpoints.

    Raises:
        ModelError: a part of the formats that is not understood here.
    """
    config = checkpoint.config.get("quantization_config") or {}
    number = _FORMATS.get(str(config.get("format")))
    if number is None:
        return {}
    groups = list((config.get("config_groups") or {}).values())
    if len(groups) != 1:
        raise ModelError(f"{config['format']} with {len(groups)} quantization groups is not read")
    weights, inputs = groups[0]["weights"], groups[0].get("input_activations")
    plain = weights["strategy"] == "channel" and weights["symmetric"] is True
    per_token = inputs is None or (inputs["strategy"] == "token" and inputs["dynamic"] is True)
    if not (plain and per_token):
        raise ModelError(
            f"{config['format']} is read with one weight scale per row and dynamic activation "
            "scales per token only"
        )
    dtypes = {t.name: TORCH_DTYPES[t.dtype] for t in checkpoint.spec.tensors}
    names = [n.removesuffix("_scale") for n in dtypes if n.endswith(".weight_scale")]
    return {
        name.removesuffix(".weight"): EightBit(number, inputs is not None)
        for name in names
        if dtypes.get(name) == number.dtype  # a scale alone does not make codes
    }


def eight_bit_parts(
    checkpoint: Checkpoint, names: list[str]
) -> list[tuple[Tensor, Tensor, Tensor | None]]:
    """Codes, scale and bias of some layers, for `eight_bit_linears`."""
    stored = checkpoint.spec.by_name
    return [
        (
            checkpoint.read(f"{name}.weight"),
            checkpoint.read(f"{name}.weight_scale"),
            checkpoint.read(f"{name}.bias") if f"{name}.bias" in stored else None,
        )
        for name in names
    ]
