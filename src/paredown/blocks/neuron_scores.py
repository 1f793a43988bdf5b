"""What scores of neurons are made of, measured once per model and text, and cached."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from paredown.artifact.checkpoint import Checkpoint
from paredown.blocks.gradient_scores import neuron_products, trimmed_products
from paredown.blocks.gradients import Loss
from paredown.blocks.hessians import tensor_hash
from paredown.blocks.rewrite import probe_walk
from paredown.blocks.walk import submodule
from paredown.spec.progress import Progress
from paredown.store.cache import Cache
from paredown.store.content import code

Variant = Literal["own", "reference"]
_KIND = "neuron-scores"
_CODE = 3
"""Of the scores: goes up when the same model and text give others."""


@dataclass(frozen=True)
class Activations:
    """Moments of an MLP's activations h over all tokens of a text."""

    mean: Tensor
    """E h, (width,) float32."""
    second: Tensor
    """E h^2, (width,) float32."""


class NeuronScores:
    """Statistics of all MLPs of a model on calibration windows.

    They depend on the model and the windows alone, so that a second trial with another ratio, or
    another method built on the same loss, reads them from the cache.
    """

    def __init__(
        self,
        source: Checkpoint,
        *,
        source_hash: str,
        tokens: Tensor,
        cache: Cache,
        device: str,
        scratch: Path,
        trust_remote_code: bool,
        progress: Progress,
    ) -> None:
        """`source_hash` stands for the content of `source`; `tokens` is (samples, length)."""
        self.source, self.tokens, self.cache, self.device = source, tokens, cache, device
        self.scratch, self.trust_remote_code, self.progress = scratch, trust_remote_code, progress
        self._key = {
            **code(_CODE), "model": source_hash, "tokens": tensor_hash(tokens), "device": device,
        }  # fmt: skip

    def gradients(self, losses: Sequence[Loss], variant: Variant) -> dict[Loss, list[Tensor]]:
        """First-order importance under each loss: (width,) per MLP, in the order of the structure.

        With c(s, i) of `neuron_products`, `ce` gives the mean over windows of c^2, the others that
        of |c|. The `reference` variant gives the sum over windows of `trimmed_products`, squared
        for `ce`.

        Raises:
            MethodError: a gradient is not finite, or the family cannot be walked through.
        """
        found = {loss: self._find({"loss": loss, "variant": variant}) for loss in losses}
        missing = [loss for loss in losses if found[loss] is None]
        if missing:
            # All that is missing in one walk, because losses share the forward passes.
            for loss, scores in self._measure_gradients(missing, variant).items():
                found[loss] = self._store({"loss": loss, "variant": variant}, scores)
        stored = {loss: load_file(path) for loss, path in found.items() if path is not None}
        return {loss: [stored[loss][n] for n in self._names] for loss in losses}

    def _measure_gradients(
        self, losses: Sequence[Loss], variant: Variant
    ) -> dict[Loss, dict[str, Tensor]]:
        measure = neuron_products if variant == "own" else trimmed_products
        found = measure(
            self.source,
            self.tokens,
            losses,
            device=self.device,
            scratch=self.scratch,
            trust_remote_code=self.trust_remote_code,
            progress=self.progress,
        )
        return {
            loss: {name: importance(rows, loss, variant) for name, rows in by_name.items()}
            for loss, by_name in found.items()
        }

    def activations(self) -> list[Activations]:
        """Moments of every MLP's activations, in the order of the structure."""
        what = {"of": "activations"}
        path = self._find(what) or self._store(what, self._measure_activations())
        stored = load_file(path)
        return [Activations(stored[f"{n}.mean"], stored[f"{n}.second"]) for n in self._names]

    def _measure_activations(self) -> dict[str, Tensor]:
        walk = probe_walk(
            self.source,
            device=self.device,
            trust_remote_code=self.trust_remote_code,
            tokens=self.tokens,
        )
        mlps = {mlp.block: mlp for mlp in self.source.spec.structure.mlps}
        sums: dict[str, Tensor] = {}
        for done, (block, module) in enumerate(walk):
            mlp = mlps[block.index]
            mean, second = torch.zeros(2, mlp.width, device=self.device)
            layer = submodule(module, block, mlp.output)
            handle = layer.register_forward_pre_hook(_accumulate(mean, second))
            try:
                walk.advance(block, module)
            finally:
                handle.remove()
            for key, total in (("mean", mean), ("second", second)):
                # Every token passes every MLP: models with experts are refused.
                sums[f"{mlp.output}.{key}"] = (total / self.tokens.numel()).cpu()
            share = (done + 1) / len(walk.blocks)
            self.progress(share, f"activations, block {done + 1} of {len(walk.blocks)}")
        return sums

    @property
    def _names(self) -> list[str]:
        return [mlp.output for mlp in self.source.spec.structure.mlps]

    def _find(self, what: dict[str, str]) -> Path | None:
        return self.cache.get(_KIND, {**self._key, **what}, ".safetensors")

    def _store(self, what: dict[str, str], tensors: dict[str, Tensor]) -> Path:
        return self.cache.put(
            _KIND, {**self._key, **what}, ".safetensors", lambda path: save_file(tensors, path)
        )


def importance(products: Tensor, loss: Loss, variant: Variant = "own") -> Tensor:
    """(width,): the mean over windows of c^2 for `ce`, that of |c| for other losses.

    Args:
        products: c, (windows, width); of the `reference` variant (width,), summed already.
    """
    if variant == "reference":
        return products.square() if loss == "ce" else products
    return products.square().mean(0) if loss == "ce" else products.abs().mean(0)


def kept_importance(
    cache: Cache,
    key: dict[str, Any],
    measure: Callable[[], Mapping[Loss, Mapping[str, Tensor]]],
    losses: Sequence[Loss],
) -> dict[Loss, dict[str, Tensor]]:
    """`importance` of what `measure` finds (products by loss and MLP), under `key` in the cache.

    For what a model makes of images, where there is nothing to share between losses; on text,
    `NeuronScores` keeps each loss by itself.
    """

    def write(path: Path) -> None:
        rows = {
            f"{loss}:{name}": importance(products, loss)
            for loss, by_name in measure().items()
            for name, products in by_name.items()
        }
        save_file(rows, path)

    stored = load_file(cache.get_or_put(_KIND, {**code(_CODE), **key}, ".safetensors", write))
    found: dict[Loss, dict[str, Tensor]] = {loss: {} for loss in losses}
    for loss in losses:
        start = f"{loss}:"
        found[loss] = {k.removeprefix(start): v for k, v in stored.items() if k.startswith(start)}
    return found


def _accumulate(mean: Tensor, second: Tensor) -> Callable[[nn.Module, Any], None]:
    def hook(_: nn.Module, args: Any) -> None:
        rows = args[0].reshape(-1, len(mean)).float()
        mean.add_(rows.sum(0))
        second.add_(rows.square().sum(0))

    return hook
