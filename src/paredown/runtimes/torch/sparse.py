"""Loading a sparsely stored model; see `artifact.sparse`."""

from __future__ import annotations

from typing import Any

import torch

from paredown.artifact.checkpoint import TORCH_DTYPES, Checkpoint
from paredown.artifact.sparse import read_sparse
from paredown.blocks.skeleton import empty_model, fill, read_config, require_filled, set_tensor


@torch.no_grad()
def load_sparse(
    checkpoint: Checkpoint, device: str, dtype: torch.dtype | None, trust_remote_code: bool
) -> Any:
    """A sparsely stored model, dense in memory."""
    config = read_config(checkpoint.folder, trust_remote_code=trust_remote_code)
    dtype = dtype or TORCH_DTYPES[checkpoint.spec.dtype]
    model: Any = empty_model(config, dtype, trust_remote_code=trust_remote_code)
    masks = [n for n in checkpoint.names if n.endswith(".weight_bitmask")]
    layers = [n.removesuffix(".weight_bitmask") for n in masks]
    for name in layers:
        set_tensor(model, f"{name}.weight", read_sparse(checkpoint, name).to(dtype))
    stored = {f"{n}.weight{part}" for n in layers for part in ("", "_bitmask", "_shape")}
    fill(model, checkpoint, (n for n in checkpoint.names if n not in stored), dtype=dtype)
    model.tie_weights()
    require_filled(model, checkpoint.folder)
    return model.to(device)
