"""Sparse storage: of a masked layer only the values that are kept, and a bitmask of their places.

Per layer (out, inp): `weight` (kept,) the values row by row, `weight_bitmask` (out, ceil(inp / 8))
uint8 with the first input feature in the lowest bit, `weight_shape` (2,) int64. Only
`paredown.load` reads it. Other loaders find a `weight` of a wrong shape and refuse; were it
missing, transformers would fill it with random numbers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from paredown.artifact.checkpoint import Checkpoint
from paredown.artifact.compressed_tensors import OWN
from paredown.errors import ModelError

FORMAT = "sparse-bitmask"
STATEMENT = "paredown_masks"
"""Key of the config under which a masked model says so."""


def sparse_tensors(name: str, weight: Tensor, removed: Tensor) -> dict[str, Tensor]:
    """The stored tensors of one masked layer, by full name.

    Args:
        weight: (out, inp), any dtype.
        removed: (out, inp) bool.
    """
    kept = ~removed
    return {
        f"{name}.weight": weight[kept],
        f"{name}.weight_bitmask": _pack_bits(kept),
        f"{name}.weight_shape": torch.tensor(weight.shape, dtype=torch.int64),
    }


def read_sparse(checkpoint: Checkpoint, name: str) -> Tensor:
    """The dense weight (out, inp) of one layer: the reverse of `sparse_tensors`.

    Raises:
        ModelError: mask and values do not belong together.
    """
    rows, width = (int(n) for n in checkpoint.read(f"{name}.weight_shape"))
    kept = _unpack_bits(checkpoint.read(f"{name}.weight_bitmask"), width)
    values = checkpoint.read(f"{name}.weight")
    if kept.shape != (rows, width) or int(kept.sum()) != len(values):
        raise ModelError(
            f"{checkpoint.folder}: {name} stores {len(values)} values for {int(kept.sum())} places "
            f"of a matrix {tuple(kept.shape)}"
        )
    weight = torch.zeros(rows, width, dtype=values.dtype)
    weight[kept] = values
    return weight


def _pack_bits(mask: Tensor) -> Tensor:
    rows, width = mask.shape
    bits = torch.zeros(rows, -(-width // 8) * 8, dtype=torch.uint8, device=mask.device)
    bits[:, :width] = mask
    places = 2 ** torch.arange(8, device=mask.device, dtype=torch.uint8)
    return (bits.reshape(rows, -1, 8) * places).sum(-1, dtype=torch.uint8)


def _unpack_bits(packed: Tensor, width: int) -> Tensor:
    bits = packed[..., None] >> torch.arange(8, dtype=torch.uint8)
    return (bits & 1).reshape(len(packed), -1)[:, :width].bool()


def is_sparse(checkpoint: Checkpoint) -> bool:
    """Whether masked layers are stored as bitmask and values."""
    config = checkpoint.config.get("quantization_config") or {}
    return bool(config.get("quant_method") == OWN and config.get("format") == FORMAT)


def state(config: dict[str, Any], *, sparse: bool, layers: dict[str, int], weights: int) -> None:
    """Let a config say what masks its model has.

    Args:
        config: changed in place.
        sparse: whether the layers are stored as bitmask and values.
        layers: zeros by layer name.
        weights: weights of these layers together.
    """
    # Once it has fewer zeros than this, a later step has filled the masks: see `mask_notes`.
    witness = max(layers, key=layers.__getitem__)
    config[STATEMENT] = {
        "layers": len(layers),
        "share": sum(layers.values()) / weights,
        "witness": [witness, layers[witness]],
    }
    if sparse:
        config["quantization_config"] = {"quant_method": OWN, "format": FORMAT}


def mask_notes(checkpoint: Checkpoint) -> tuple[str, ...]:
    """What a user of a masked model should know; nothing if a later step has undone the masks."""
    said = checkpoint.config.get(STATEMENT)
    if said is None:
        return ()
    where = f"{said['share']:.0%} of the weights of {said['layers']} layers are zero"
    if is_sparse(checkpoint):
        return (f"{where}: smaller files, but dense in memory, so no less memory and not faster",)
    name, zeros = said["witness"]
    stored = checkpoint.spec.by_name.get(f"{name}.weight")
    if stored is None or int((checkpoint.read(stored.name) == 0).sum()) < zeros:
        return ()
    return (
        f'{where}, stored like the others: neither smaller nor faster; storage="sparse" makes the '
        "files smaller",
    )
