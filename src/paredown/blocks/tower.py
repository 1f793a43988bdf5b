"""Vision towers: what they make of images, and what each of their MLP neurons is worth.

A tower is small beside the language model behind it, so it is held whole, in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from paredown.artifact.checkpoint import Checkpoint
from paredown.blocks.gradient_scores import walk_products
from paredown.blocks.gradients import GradientWalk, Loss
from paredown.blocks.hessians import tensor_hash
from paredown.blocks.names import module_name
from paredown.blocks.neuron_scores import kept_importance
from paredown.blocks.neurons import Activity
from paredown.blocks.skeleton import empty_model, fill, read_config
from paredown.errors import NumericsError
from paredown.ops.losses import frobenius_loss
from paredown.spec.progress import Progress
from paredown.spec.structure import Mlp, is_vision
from paredown.store.cache import Cache
from paredown.text.pictures import Sample

_MOMENT_BYTES = 500_000_000
"""Second moments of as many MLPs as fit into this are measured in one pass."""


class Tower:
    """The vision tower and projector of a LLaVA model."""

    def __init__(self, source: Checkpoint, *, device: str, trust_remote_code: bool = False) -> None:
        config = read_config(source.folder, trust_remote_code=trust_remote_code)
        self.side: int = config.vision_config.image_size
        self.image_token: int = config.image_token_id
        self.device, self.mlps = device, source.spec.structure.vision_mlps
        model = empty_model(config, torch.float32, trust_remote_code=trust_remote_code)
        seeing = [name for name in source.names if is_vision(name)]
        fill(model, source, seeing, dtype=torch.float32, device=device)
        self._model: Any = model.model
        self._model.vision_tower.to(device)  # the buffers too
        self._layers = {
            name: model.get_submodule(module_name(model, name))
            for mlp in self.mlps
            for name in (*mlp.inputs, mlp.output)
        }

    @torch.no_grad()
    def features(self, pixels: Tensor) -> Tensor:
        """What stands in the text for an image (3, side, side): (patches, hidden) float32."""
        found = self._model.get_image_features(pixels[None].to(self.device), return_dict=True)
        features: Tensor = found.pooler_output[0]
        return features

    def products(self, images: Tensor, progress: Progress) -> dict[str, Tensor]:
        """c(s, i) = sum_t h_ti dF_s/dh_ti of every neuron i of the tower and image s.

        F_s is the sum of ||Y||_F / sqrt(numel Y) over the outputs Y of the tower's MLP matrices; a
        tower has no answer of its own, so there is no other loss.

        Args:
            images: (images, 3, side, side), normalised.

        Returns:
            By name of the MLP's output matrix: (images, width) float32 on the CPU.

        Raises:
            NumericsError: a product is NaN or infinite.
        """
        found: dict[str, list[Tensor]] = {mlp.output: [] for mlp in self.mlps}
        for done, pixels in enumerate(images):
            hidden: dict[str, Tensor] = {}
            losses: list[Tensor] = []
            with torch.enable_grad(), self._watch(hidden.__setitem__, losses.append):
                # The weights are frozen: without a leaf that asks for gradients there would be no
                # graph.
                start = pixels[None].to(self.device).requires_grad_()
                self._model.vision_tower(start)
                gradients = torch.autograd.grad(torch.stack(losses).sum(), list(hidden.values()))
            for (name, state), gradient in zip(hidden.items(), gradients, strict=True):
                product = (state.detach() * gradient).flatten(0, -2).sum(0).cpu()
                if not torch.isfinite(product).all():
                    raise NumericsError(f"{name}: the gradient of the outputs is not finite")
                found[name].append(product)
            progress((done + 1) / len(images), f"vision tower, image {done + 1} of {len(images)}")
        return {name: torch.stack(rows) for name, rows in found.items()}

    @contextmanager
    def _watch(
        self, note_hidden: Callable[[str, Tensor], None], note_loss: Callable[[Tensor], None]
    ) -> Iterator[None]:
        def before(name: str) -> Callable[[nn.Module, Any], None]:
            return lambda module, args: note_hidden(name, args[0])

        def behind(module: nn.Module, args: Any, output: Tensor) -> None:
            note_loss(frobenius_loss(output.reshape(1, -1)))

        handles = [layer.register_forward_hook(behind) for layer in self._layers.values()]
        handles += [
            self._layers[mlp.output].register_forward_pre_hook(before(mlp.output))
            for mlp in self.mlps
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def activities(self, images: Tensor) -> Iterator[tuple[Mlp, Activity]]:
        """Moments of every MLP's activations over all patches of the images."""
        each = max(1, _MOMENT_BYTES // (4 * max(mlp.width for mlp in self.mlps) ** 2))
        for first in range(0, len(self.mlps), each):
            mlps = self.mlps[first : first + each]
            for mlp, (count, total, squares) in zip(mlps, self._moments(mlps, images), strict=True):
                yield mlp, Activity(total / count, squares / count)

    @torch.no_grad()
    def _moments(self, mlps: Sequence[Mlp], images: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """(tokens, sum of h, sum of h h^T) of each MLP."""
        sums, handles = [], []

        def add(count: Tensor, total: Tensor, squares: Tensor) -> Callable[[nn.Module, Any], None]:
            def hook(module: nn.Module, args: Any) -> None:
                rows = args[0].reshape(-1, len(total))
                count.add_(len(rows))
                total.add_(rows.sum(0))
                squares.addmm_(rows.T, rows)

            return hook

        for mlp in mlps:
            sizes = ((), (mlp.width,), (mlp.width, mlp.width))
            count, total, squares = (torch.zeros(size, device=self.device) for size in sizes)
            sums.append((count, total, squares))
            layer = self._layers[mlp.output]
            handles.append(layer.register_forward_pre_hook(add(count, total, squares)))
        try:
            for pixels in images:
                self._model.vision_tower(pixels[None].to(self.device))
        finally:
            for handle in handles:
                handle.remove()
        return sums


class PicturedWalk(GradientWalk):
    """A walk, and back with gradients, in which each window is an image with its text.

    The loss judges the tokens of the answer alone.
    """

    def __init__(
        self,
        source: Checkpoint,
        samples: Sequence[Sample],
        features: Sequence[Tensor],
        losses: Sequence[Loss],
        device: str,
        scratch: Path,
        trust_remote_code: bool = False,
    ) -> None:
        """`features` (patches, hidden) of each sample, by `Tower.features`."""
        batches = [sample.ids[None] for sample in samples]
        super().__init__(source, batches, losses, device, scratch, trust_remote_code)
        self.samples, self.features = samples, features

    def start(self) -> list[Tensor]:
        return [
            self.embed_pictured(sample.ids, features)
            for sample, features in zip(self.samples, self.features, strict=True)
        ]

    def judged(self, batch: int) -> int:
        return self.samples[batch].judged


def tower_importance(
    tower: Tower, images: Tensor, *, source_hash: str, cache: Cache, progress: Progress
) -> list[Tensor]:
    """FO of the tower's neurons, the mean over images of |c|: (width,) per MLP; cached."""
    key = {"model": source_hash, "tower": tensor_hash(images), "device": tower.device}
    found = kept_importance(
        cache, key, lambda: {"frobenius": tower.products(images, progress)}, ("frobenius",)
    )
    return [found["frobenius"][mlp.output] for mlp in tower.mlps]


def pictured_importance(
    source: Checkpoint,
    samples: Sequence[Sample],
    features: Sequence[Tensor],
    *,
    source_hash: str,
    cache: Cache,
    device: str,
    scratch: Path,
    trust_remote_code: bool,
    progress: Progress,
) -> dict[Loss, list[Tensor]]:
    """SNIP (`ce`) and FO (`frobenius`) of the language model's neurons, behind images; cached.

    Returns:
        By loss, (width,) per MLP in the order of the structure.
    """
    losses: tuple[Loss, ...] = ("ce", "frobenius")
    content = [(tensor_hash(s.pixels), tensor_hash(s.ids), s.judged) for s in samples]
    key = {"model": source_hash, "samples": content, "device": device}

    def measure() -> dict[Loss, dict[str, Tensor]]:
        walk = PicturedWalk(source, samples, features, losses, device, scratch, trust_remote_code)
        return walk_products(walk, progress)

    found = kept_importance(cache, key, measure, losses)
    return {
        loss: [found[loss][mlp.output] for mlp in source.spec.structure.mlps] for loss in losses
    }
