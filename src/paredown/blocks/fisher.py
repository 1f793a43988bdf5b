"""How much a model's predictions depend on each output of each layer: the diagonal of Fisher.

For a small change d of a layer's outputs, the mean KL from the base is 1/2 d^T F d, F the mean of
g g^T over tokens, g the gradient of the loss for the outputs when labels are drawn from the base's
own predictions. Its diagonal, E[g_j^2], is what a price of rounding needs: with a change dW of the
matrix and second moments H of its inputs, G = 1/2 sum_j E[g_j^2] (dW H dW^T)_jj.

Source: Martens & Grosse 2015 (arXiv:1503.05671), sections 2 and 3: sampled labels make it Fisher,
true labels do not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from paredown.artifact.checkpoint import Checkpoint
from paredown.blocks.gradients import GradientWalk, Seen
from paredown.blocks.hessians import tensor_hash
from paredown.blocks.walk import BATCH_TOKENS, submodule
from paredown.errors import NumericsError
from paredown.spec.progress import Progress
from paredown.spec.structure import Block
from paredown.store.cache import Cache
from paredown.store.content import code

_CODE = 1
"""Goes up when the same model, tokens and seed give other numbers."""
_HEAD_TOKENS = 256
"""Positions whose logits are held at once."""


def output_moments(
    source: Checkpoint,
    tokens: Tensor,
    *,
    source_hash: str,
    seed: int,
    cache: Cache,
    device: str,
    scratch: Path,
    trust_remote_code: bool = False,
    progress: Progress | None = None,
) -> dict[str, Tensor]:
    """E[g_j^2] of every block linear, over all tokens.

    Some windows at a time, each batch kept in the cache: what a kill interrupts is one batch.

    Args:
        source: the model, not packed.
        tokens: (samples, length) int64 windows.
        source_hash: stands for the content of `source`.
        seed: of the labels drawn.
        scratch: folder for hidden states that do not fit into memory.

    Returns:
        By layer name (out,) float32 on the CPU, in nats squared per unit of output squared. An
        expert's is the sum over the tokens that it saw, over the number of all tokens.

    Raises:
        NumericsError: a gradient is NaN or infinite.
        MethodError: the family's blocks cannot be walked through.
    """
    batches = tokens.split(max(1, BATCH_TOKENS // tokens.shape[1]))
    totals: dict[str, Tensor] = {}
    for i, batch in enumerate(batches):
        key = {
            **code(_CODE),
            "model": source_hash,
            "tokens": tensor_hash(batch),
            "seed": seed,
            "batch": i,
            "device": device,
        }

        def share(done: float, message: str, i: int = i) -> None:
            if progress is not None:
                progress((i + done) / len(batches), message)

        def write(path: Path, batch: Tensor = batch, i: int = i, share: Progress = share) -> None:
            walk = _SampledWalk(source, batch, device, scratch, trust_remote_code, seed, i)
            save_file(walk.squares(share), path)

        path = cache.get_or_put("fisher", key, ".safetensors", write)
        for name, squares in load_file(path).items():
            totals[name] = totals[name] + squares if name in totals else squares
    return {name: total / tokens.numel() for name, total in totals.items()}


class _SampledWalk(GradientWalk):
    """A walk whose loss is the sum, over all positions of a window, of -log p of a drawn label."""

    def __init__(
        self,
        source: Checkpoint,
        batch: Tensor,
        device: str,
        scratch: Path,
        trust_remote_code: bool,
        seed: int,
        number: int,
    ) -> None:
        super().__init__(source, [batch], ["ce"], device, scratch, trust_remote_code)
        # A stream for each batch: a batch that is read from the cache has drawn nothing.
        stream = int(hashlib.sha256(f"{seed}:{number}".encode()).hexdigest()[:15], 16)
        self._labels = torch.Generator(device=device).manual_seed(stream)

    def squares(self, progress: Progress) -> dict[str, Tensor]:
        """Sum over tokens of the squared gradient for each output, by layer name."""
        found: dict[str, Tensor] = {}
        for block, module in self.back(progress):
            outputs: dict[str, Tensor] = {}
            handles = [_note(block, module, name, outputs) for name in block.linears]
            try:
                wanted = partial(_values, outputs)
                for _, gradients in self.pull(block, module, wanted):
                    for name, gradient in zip(outputs, gradients["ce"], strict=True):
                        rows = gradient.float().reshape(-1, gradient.shape[-1])
                        found[name] = rows.square().sum(0).cpu()
            finally:
                for handle in handles:
                    handle.remove()
            for name in block.linears:
                if name not in found:  # an expert that no token was routed to
                    width = submodule(module, block, name).out_features
                    found[name] = torch.zeros(width)
                if not torch.isfinite(found[name]).all():
                    raise NumericsError(
                        f"{name}: its gradient is not finite; the model's weights or activations "
                        "hold a NaN or overflow"
                    )
        return found

    def _head_gradient(self, state: Tensor, ids: Tensor, judged: int) -> Tensor:
        """As `state`: of the summed loss of labels drawn from the model's predictions."""
        found = torch.zeros_like(state)
        for start in range(0, len(ids), _HEAD_TOKENS):
            part = slice(start, start + _HEAD_TOKENS)
            with torch.enable_grad():
                hidden = state[..., part, :].detach().requires_grad_()
                logits = self.head_logits(hidden, ids[part]).float()
                drawn = torch.multinomial(
                    logits.detach().softmax(-1), 1, generator=self._labels
                ).squeeze(1)
                loss = nn.functional.cross_entropy(logits, drawn, reduction="sum")
                (found[..., part, :],) = torch.autograd.grad(loss, hidden)
        return found


def _values(outputs: dict[str, Tensor], seen: Seen) -> list[Tensor]:
    return list(outputs.values())


def _note(block: Block, module: nn.Module, name: str, outputs: dict[str, Tensor]) -> Any:
    """A hook that leaves what a layer gives in `outputs`."""

    def hook(layer: nn.Module, args: Any, output: Tensor) -> None:
        outputs[name] = output

    noted: Callable[..., None] = hook
    return submodule(module, block, name).register_forward_hook(noted)
