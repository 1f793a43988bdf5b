"""Layer Hessians of the uncompressed model, computed once and cached."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from paredown.models.checkpoint import Checkpoint
from paredown.models.rewrite import probe_walk
from paredown.models.walk import BlockWalk, submodule
from paredown.spec.structure import Block
from paredown.store.cache import Cache

_SHARED_INPUT = ({"q_proj", "k_proj", "v_proj"}, {"gate_proj", "up_proj"})


class HessianBank:
    """Mean x x^T over calibration tokens for every distinct input of a block's linears.

    x is what the layer sees in the *uncompressed* model. So the bank depends on the model and the
    calibration text alone, and every trial with the same two reads it from the cache.
    """

    def __init__(
        self,
        source: Checkpoint,
        *,
        source_hash: str,
        tokens: Tensor,
        cache: Cache,
        device: str,
        trust_remote_code: bool = False,
    ) -> None:
        """`source_hash` stands for the content of `source`; `tokens` is (samples, length)."""
        self.cache, self.source = cache, source
        self.key: dict[str, Any] = {
            "version": 1,
            "model": source_hash,
            "tokens": tensor_hash(tokens),
            "device": device,
        }
        blocks = _blocks(source)
        missing = any(self._cached(block) is None for block in blocks)
        self.n_tokens = tokens.numel()
        self.walk: BlockWalk = probe_walk(
            source,
            device=device,
            trust_remote_code=trust_remote_code,
            tokens=tokens if missing else None,
        )

    def _key(self, block: Block) -> dict[str, Any]:
        return {**self.key, "block": block.index}

    def _cached(self, block: Block) -> Any:
        return self.cache.get("hessian", self._key(block), ".safetensors")

    def sharing(self, block: Block, names: list[str]) -> list[list[str]]:
        """`names` in groups that read the same input."""
        groups: dict[str, list[str]] = {}
        for name in names:
            groups.setdefault(_input_of(block, name), []).append(name)
        return list(groups.values())

    def of_block(self, block: Block, module: nn.Module) -> dict[str, Tensor]:
        """Hessian (width, width) float32 of every linear of the block, by layer name.

        Advances the walk's calibration states through the (unchanged) block if it has any.
        """
        found = self._cached(block)
        if self.walk.hidden:
            computed = self._measure(block, module)
            if found is None:
                found = self.cache.put(
                    "hessian",
                    self._key(block),
                    ".safetensors",
                    lambda path: save_file(computed, path),
                )
            hessians = computed
        else:
            hessians = load_file(found, device=self.walk.device)
        return {name: hessians[_input_of(block, name)] for name in block.linears}

    def _measure(self, block: Block, module: nn.Module) -> dict[str, Tensor]:
        sums: dict[str, Tensor] = {}
        handles = []
        for names in self.sharing(block, list(block.linears)):
            layer = submodule(module, block, names[0])
            total = sums[_input_of(block, names[0])] = torch.zeros(
                layer.in_features, layer.in_features, device=self.walk.device
            )
            handles.append(layer.register_forward_pre_hook(_accumulate(total)))
        try:
            self.walk.advance(block, module)
        finally:
            for handle in handles:
                handle.remove()
        return {name: total / self.n_tokens for name, total in sums.items()}


def _accumulate(total: Tensor) -> Callable[[nn.Module, Any], None]:
    def hook(module: nn.Module, args: Any) -> None:
        rows = args[0].reshape(-1, total.shape[0]).float()
        total.addmm_(rows.T, rows)

    return hook


def _input_of(block: Block, name: str) -> str:
    """Name of the input a layer reads; siblings such as q, k and v share one."""
    parent, _, leaf = name.rpartition(".")
    shared = next((s for s in _SHARED_INPUT if leaf in s), None)
    key = f"{parent}.{'+'.join(sorted(shared))}" if shared else name
    return key.removeprefix(block.prefix + ".")


def _blocks(source: Checkpoint) -> tuple[Block, ...]:

    return source.spec.structure.blocks


def tensor_hash(tensor: Tensor) -> str:
    """SHA-256 of a tensor's bytes, shape and dtype; 32 hex digits."""
    import hashlib

    digest = hashlib.sha256(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]
