"""MLPs of unequal width, which a Hugging Face config cannot say.

The widest stands in the config's own field; the list of all widths stands beside it. Plain
transformers builds every MLP as wide as the widest and refuses the narrower tensors; `narrow` gives
each MLP its own width before tensors are filled in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from paredown.errors import ModelError
from paredown.spec.families import KEYS, TEXT_CONFIGS, VISION_CONFIGS
from paredown.spec.model import ModelSpec, TensorInfo
from paredown.spec.structure import Mlp
from paredown.spec.widths import FIELD, WIDTH_FACTORS, WIDTH_FIELDS


def set_widths(config: dict[str, Any], widths: Sequence[int]) -> None:
    """Write the widths of all MLPs into a config: one field, or the widest and the list."""
    # The list of an earlier step, if there was one.
    config.pop(FIELD, None)
    _set_width(config, max(widths))
    if len(set(widths)) > 1:
        config[FIELD] = list(widths)


def set_vision_width(config: dict[str, Any], width: int) -> None:
    """Write the width of a vision tower's MLPs, all alike, into the config of a model that sees."""
    inner = next(name for name in VISION_CONFIGS if isinstance(config.get(name), dict))
    config[inner] = {**config[inner], "intermediate_size": width}


def _set_width(config: dict[str, Any], width: int) -> None:
    """Under the config's own name, in the language model's part."""
    inner = next((name for name in TEXT_CONFIGS if isinstance(config.get(name), dict)), None)
    part = config if inner is None else dict(config[inner])
    part[_width_field(part)] = width * WIDTH_FACTORS.get(str(part.get("model_type")), 1)
    if "block_auto_adjust_ff_dim" in part:  # LFM2 makes another width of what the config says
        part |= {"block_auto_adjust_ff_dim": False, "block_ff_dim": width}
    if inner is not None:
        config[inner] = part


def _width_field(config: dict[str, object]) -> str:
    model_type = str(config.get("model_type"))
    named = (f for f in KEYS["intermediate_size"] if f in config)
    return WIDTH_FIELDS.get(model_type) or next(named, "intermediate_size")


def narrow(model: nn.Module, widths: Sequence[int]) -> None:
    """Give each MLP of a model without weights its own width.

    Args:
        model: every matrix an `nn.Linear` on the meta device, all MLPs as wide as the widest.
        widths: in block order.

    Raises:
        ModelError: the list does not fit the model.
    """
    mlps = _mlps(model)
    if len(widths) != len(mlps) or any(w > mlp.width for w, mlp in zip(widths, mlps, strict=True)):
        raise ModelError(
            f"config.json: {FIELD} names {len(widths)} widths, the widest {max(widths)}; the model "
            f"has {len(mlps)} MLPs of at most {max((m.width for m in mlps), default=0)}"
        )
    for width, mlp in zip(widths, mlps, strict=True):
        for name in mlp.inputs:
            _resize(model, name, rows=width * mlp.parts)
        _resize(model, mlp.output, columns=width)


def _mlps(model: nn.Module) -> tuple[Mlp, ...]:
    """The MLPs by the rules that hold for files, from the names and shapes in memory."""
    tensors = tuple(
        TensorInfo(name=name, dtype="F32", shape=tuple(p.shape))
        for name, p in model.named_parameters()
    )
    known: dict[str, Any] = {"tensors": tensors, "model_type": "", "layers": None}
    # Not validated: names and shapes are all that the structure is read from.
    return ModelSpec.model_construct(**known).structure.mlps


def _resize(
    model: nn.Module, name: str, *, rows: int | None = None, columns: int | None = None
) -> None:
    old = model.get_submodule(name)
    if not isinstance(old, nn.Linear):
        raise ModelError(f"{name} is a {type(old).__name__}, not a Linear")
    new = nn.Linear(
        columns or old.in_features,
        rows or old.out_features,
        bias=old.bias is not None,
        dtype=old.weight.dtype,
        device="meta",
    )
    model.set_submodule(name, new)
