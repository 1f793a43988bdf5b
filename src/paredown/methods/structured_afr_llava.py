"""AFR by neuron for models that see: MLPs of the language model and of the vision tower."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Required, TypedDict, final

from pydantic import Field

from paredown.errors import ConfigError
from paredown.methods.base import Context
from paredown.methods.shared.afr import AfrParams, combined, scores_on_text
from paredown.methods.shared.neurons import (
    NeuronMethod,
    SampledNeuronParams,
    calibration_windows,
    check_width,
    part,
    remove_neurons,
    resize_mlps,
)
from paredown.spec.domain import Choice
from paredown.spec.model import ModelSpec
from paredown.spec.structure import kept_width
from paredown.spec.target import Target

if TYPE_CHECKING:
    from torch import Tensor

    from paredown.artifact.checkpoint import Checkpoint
    from paredown.blocks.neurons import Cut
    from paredown.blocks.tower import Tower
    from paredown.blocks.walk import BlockWalk
    from paredown.text.pictures import Sample

NOISE_IMAGES = 32
"""Noise images that the tower is scored on where there are no others; more would add nothing."""


class VisionParams(SampledNeuronParams):
    """What the vision tower adds; `ratio` and `scope` are those of the language MLPs."""

    vision_ratio: Annotated[float, Field(ge=0, lt=1), Choice(0.2, 0.1, 0.0)] = 0.2
    """Share of the vision tower's MLP neurons that is removed, the same in each block; 0 leaves
    the tower as it is."""
    images: str | None = None
    """Folder with images and `texts.jsonl`, a line {"image": "a.jpg", "question": "...", "answer":
    "..."} for each: training data of the model's task. Without one, the language model is scored
    on the run's calibration text alone, and the tower on noise with the spectrum of photographs."""

    def content(self, data_dir: Path | None) -> dict[str, str]:
        if self.images is None:
            return {}
        from paredown.store.content import folder_hash
        from paredown.text.texts import check_images

        check_images(self.images)
        return {"images": folder_hash(Path(self.images).expanduser())}


class StructuredAfrLlavaParams(AfrParams, VisionParams):
    """Parameters of `structured_afr_llava`: those of `structured_afr`, with a tower."""


@final
class StructuredAfrLlava(NeuronMethod[StructuredAfrLlavaParams]):
    """Keep the language neurons with the largest z(FO) + beta z(SNIP), the tower's with most FO.

    The cross-entropy of SNIP is that of the answers' tokens, behind question and image. A tower has
    no loss of its own: FO alone, |sum_t h dF/dh| with F the norms of its MLPs' outputs, averaged
    over images. The two are never compared with each other; the projector is left alone.
    """

    name = "structured_afr_llava"
    summary = "remove MLP neurons of a LLaVA model, in its language model and its vision tower"
    params_type = StructuredAfrLlavaParams

    def reads_data(self, params: StructuredAfrLlavaParams) -> bool:
        return params.images is None

    def check(self, spec: ModelSpec, params: StructuredAfrLlavaParams, target: Target) -> None:
        if spec.vision is None:
            raise ConfigError(
                f"{self.name}: {spec.architecture} has no vision tower; use structured_afr"
            )
        tower = spec.structure.vision_mlps
        if spec.model_type != "llava" or not tower:
            raise ConfigError(
                f"{self.name}: {spec.architecture} is not of the type it knows (LLaVA with one "
                "tile per image, fc1/fc2 in the tower); structured_afr prunes its language model"
            )
        if params.vision_ratio:
            widest = max(mlp.width for mlp in tower)
            names = {"name": "vision_ratio", "what": "the vision tower's MLPs"}
            check_width(spec, widest, params.vision_ratio, **names)
        if params.images is not None:
            from paredown.text.texts import check_images

            check_images(params.images)
        super().check(spec, params, target)

    def predict(self, spec: ModelSpec, params: StructuredAfrLlavaParams) -> ModelSpec:
        found = super().predict(spec, params)
        if not params.vision_ratio or spec.vision is None:
            return found
        tower = spec.structure.vision_mlps
        widths = [kept_width(mlp.width, params.vision_ratio) for mlp in tower]
        smaller = resize_mlps(found, tower, widths)
        vision = spec.vision.model_copy(
            update={
                "intermediate_size": max(widths),
                "parameters": spec.vision.parameters - found.parameters + smaller.parameters,
            }
        )
        return smaller.model_copy(update={"vision": vision})

    def apply(
        self, source: Checkpoint, out: Path, params: StructuredAfrLlavaParams, context: Context
    ) -> Tensor:
        from paredown.blocks.neurons import smaller_mlps
        from paredown.blocks.tower import Tower

        tower = Tower(source, device=context.device, trust_remote_code=context.trust_remote_code)
        samples = _samples(source, tower, params, context)
        images = _images(source, tower, samples, params)
        cut = _tower_cut(tower, images, params, context)
        pruned = [mlp for mlp in tower.mlps if mlp.output in cut.kept]
        activities = tower.activities(images) if params.repair else ((m, None) for m in pruned)
        language = replace(context, progress=part(context.progress, 0.2, 1.0))
        evidence = (
            _on_images(source, tower, samples, params, language)
            if samples
            else _on_text(source, params, language)
        )
        return remove_neurons(
            source,
            out,
            params,
            language,
            **evidence,
            besides=smaller_mlps(source, activities, cut) if pruned else (),
            vision_width=max((len(k) for k in cut.kept.values()), default=None),
        )


class _Evidence(TypedDict, total=False):
    """What the language model's neurons are worth, and on what that was found."""

    scores: Required[list[Tensor]]
    tokens: Tensor
    walk: BlockWalk


def _samples(
    source: Checkpoint, tower: Tower, params: StructuredAfrLlavaParams, context: Context
) -> list[Sample]:
    """The user's images with their texts, if there are any."""
    import torch

    from paredown.text.pictures import Preparation, read_samples

    if params.images is None:
        return []
    blank = torch.zeros(3, tower.side, tower.side)
    return read_samples(
        Path(params.images).expanduser(),
        source,
        Preparation.of(source, tower.side),
        image_token=tower.image_token,
        patches=len(tower.features(blank)),
        count=params.nsamples,
        seed=params.seed,
        trust_remote_code=context.trust_remote_code,
    )


def _images(
    source: Checkpoint, tower: Tower, samples: list[Sample], params: StructuredAfrLlavaParams
) -> Tensor:
    """(images, 3, side, side) for the tower's scores: the user's, or noise."""
    import torch

    from paredown.text.pictures import Preparation, noise_images

    if samples:
        return torch.stack([sample.pixels for sample in samples])
    count = min(params.nsamples, NOISE_IMAGES)
    noise = noise_images(count, tower.side, params.seed)
    return Preparation.of(source, tower.side).normalised(noise)


def _tower_cut(
    tower: Tower, images: Tensor, params: StructuredAfrLlavaParams, context: Context
) -> Cut:
    """The neurons of the tower with the largest FO; none chosen where nothing is removed."""
    from paredown.blocks.neurons import Cut
    from paredown.blocks.tower import tower_importance
    from paredown.ops.saliency import strongest

    if not params.vision_ratio:
        return Cut(kept={})
    scores = tower_importance(
        tower,
        images,
        source_hash=context.source_hash,
        cache=context.cache,
        progress=part(context.progress, 0.0, 0.2),
    )
    kept = {
        mlp.output: strongest(score, kept_width(mlp.width, params.vision_ratio))
        for mlp, score in zip(tower.mlps, scores, strict=True)
    }
    return Cut(kept=kept, repair=params.repair)


def _on_images(
    source: Checkpoint,
    tower: Tower,
    samples: list[Sample],
    params: StructuredAfrLlavaParams,
    context: Context,
) -> _Evidence:
    """By the answers' tokens, behind question and image."""
    from paredown.blocks.rewrite import probe_walk
    from paredown.blocks.tower import pictured_importance

    features = [tower.features(sample.pixels) for sample in samples]
    found = pictured_importance(
        source,
        samples,
        features,
        source_hash=context.source_hash,
        cache=context.cache,
        device=context.device,
        scratch=context.scratch,
        trust_remote_code=context.trust_remote_code,
        progress=part(context.progress, 0.0, 0.5),
    )
    walk = probe_walk(source, device=context.device, trust_remote_code=context.trust_remote_code)
    if params.repair:
        pairs = zip(samples, features, strict=True)
        walk.hidden = [walk.embed_pictured(sample.ids, seen) for sample, seen in pairs]
    return {"scores": combined(found, params), "walk": walk}


def _on_text(source: Checkpoint, params: StructuredAfrLlavaParams, context: Context) -> _Evidence:
    """By calibration text without an image."""
    tokens = calibration_windows(params, context)
    return {"scores": scores_on_text(source, tokens, params, context), "tokens": tokens}
