"""Quantization that other libraries do while transformers loads a model."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import nn

from paredown.artifact.checkpoint import TORCH_DTYPES, Checkpoint
from paredown.blocks.names import module_name
from paredown.blocks.skeleton import auto_class, empty_model, read_config


def quantize_on_load(
    source: Checkpoint, quantization_config: Any, *, device: str, trust_remote_code: bool
) -> Any:
    """The model of `source`, quantized by transformers as `quantization_config` says."""
    config = read_config(source.folder, trust_remote_code=trust_remote_code)
    return (
        auto_class(config)
        .from_pretrained(
            source.folder,
            dtype=TORCH_DTYPES[source.spec.dtype],
            quantization_config=quantization_config,
            device_map=device,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
        )
        .eval()
    )


def other_linears(
    source: Checkpoint, chosen: Collection[str], *, trust_remote_code: bool
) -> list[str]:
    """The model's own names of all linears but the `chosen`: head and vision tower included."""
    config = read_config(source.folder, trust_remote_code=trust_remote_code)
    model = empty_model(config, torch.float32, trust_remote_code=trust_remote_code)
    inside = {module_name(model, name) for name in chosen}
    linears = (name for name, m in model.named_modules() if isinstance(m, nn.Linear))
    return [name for name in linears if name not in inside]
