"""Layer Hessians of the uncompressed model, computed once and cached."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from paredown.artifact.checkpoint import Checkpoint
from paredown.blocks.rewrite import probe_walk
from paredown.blocks.walk import BlockWalk, submodule
from paredown.spec.structure import Block, input_name
from paredown.store.cache import Cache
from paredown.store.content import code

_CODE = 3
"""Of the moments: goes up when the same model and tokens give others."""
MIN_TOKENS = 32
"""An expert that fewer calibration tokens are routed to gets the identity for its Hessian, which
means rounding to nearest: what so few tokens say of it would be chance."""
_TOKENS = "tokens:"
"""Before the name of an input: how many tokens its Hessian is the mean of."""


class HessianBank:
    """Mean x x^T over calibration tokens for every distinct input of a block's linears.

    x is what the layer sees in the *uncompressed* model. So the bank depends on the model and the
    calibration text alone, and every trial with the same two reads it from the cache. An expert's
    Hessian is the mean over the tokens routed to it.
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
            **code(_CODE),
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

    def rare(self) -> list[str]:
        """Layers of experts that too few calibration tokens reached, once all blocks were done."""
        found: list[str] = []
        for block in self.walk.blocks:
            with safe_open(self._cached(block), "pt") as file:
                found += [
                    name
                    for name in block.linears
                    if self._is_rare(int(file.get_tensor(_TOKENS + _input_of(block, name))))
                ]
        return found

    def _is_rare(self, tokens: int) -> bool:
        return tokens < min(MIN_TOKENS, self.n_tokens)

    def _measure(self, block: Block, module: nn.Module) -> dict[str, Tensor]:
        sums: dict[str, Tensor] = {}
        counts: dict[str, Tensor] = {}
        handles = []
        for names in self.sharing(block, list(block.linears)):
            layer, key = submodule(module, block, names[0]), _input_of(block, names[0])
            width = layer.in_features
            sums[key] = torch.zeros(width, width, device=self.walk.device)
            counts[key] = torch.zeros((), dtype=torch.int64)
            handles.append(layer.register_forward_pre_hook(_accumulate(sums[key], counts[key])))
        try:
            self.walk.advance(block, module)
        finally:
            for handle in handles:
                handle.remove()
        means = {key: self._mean(sums.pop(key), int(counts[key])) for key in list(sums)}
        return means | {_TOKENS + key: count for key, count in counts.items()}

    def _mean(self, total: Tensor, tokens: int) -> Tensor:
        if self._is_rare(tokens):
            return torch.eye(len(total), device=total.device)
        return total / tokens


def _accumulate(total: Tensor, count: Tensor) -> Callable[[nn.Module, Any], None]:
    def hook(module: nn.Module, args: Any) -> None:
        rows = args[0].reshape(-1, total.shape[0]).float()
        total.addmm_(rows.T, rows)
        count.add_(len(rows))

    return hook


def _input_of(block: Block, name: str) -> str:
    """Name within the block of the input that a layer reads."""
    return input_name(name).removeprefix(block.prefix + ".")


def _blocks(source: Checkpoint) -> tuple[Block, ...]:

    return source.spec.structure.blocks


def tensor_hash(tensor: Tensor) -> str:
    """SHA-256 of a tensor's bytes, shape and dtype; 32 hex digits."""
    import hashlib

    digest = hashlib.sha256(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]
