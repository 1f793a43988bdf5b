"""The largest magnitude of every input feature of a model's linears, on calibration text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from paredown.artifact.checkpoint import Checkpoint
from paredown.blocks.hessians import tensor_hash
from paredown.blocks.rewrite import probe_walk
from paredown.blocks.walk import submodule
from paredown.store.cache import Cache
from paredown.store.content import code


def input_ranges(
    source: Checkpoint,
    *,
    source_hash: str,
    tokens: Tensor,
    cache: Cache,
    device: str,
    trust_remote_code: bool,
    progress: Callable[[float, str], None],
) -> dict[str, Tensor]:
    """max |x_j| over all calibration tokens, (inp,) float32 on `device`, by layer name.

    x is what the layer sees in the uncompressed model. Cached by model and text.
    """
    key = {
        **code(2), "model": source_hash, "tokens": tensor_hash(tokens), "device": device,
    }  # fmt: skip

    def measure(path: Path) -> None:
        walk = probe_walk(source, device=device, trust_remote_code=trust_remote_code, tokens=tokens)
        found: dict[str, Tensor] = {}
        for done, (block, module) in enumerate(walk):
            handles = []
            for name in block.linears:
                layer = submodule(module, block, name)
                found[name] = torch.zeros(layer.in_features, device=device)
                handles.append(layer.register_forward_pre_hook(_keep_largest(found[name])))
            walk.advance(block, module)
            for handle in handles:
                handle.remove()
            progress((done + 1) / len(walk.blocks), f"ranges of block {done + 1}")
        save_file(found, path)

    return load_file(cache.get_or_put("ranges", key, ".safetensors", measure), device=device)


def _keep_largest(largest: Tensor) -> Callable[[nn.Module, Any], None]:
    def hook(module: nn.Module, args: Any) -> None:
        seen = args[0].reshape(-1, len(largest)).abs().amax(0)
        torch.maximum(largest, seen.float(), out=largest)

    return hook
