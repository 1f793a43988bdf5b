"""Images as models want them, noise, and gradients behind images against plain autograd."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from paredown.artifact.checkpoint import Checkpoint
from paredown.blocks.gradient_scores import walk_products
from paredown.blocks.gradients import Loss
from paredown.blocks.tower import PicturedWalk, Tower
from paredown.errors import DataError, MethodError
from paredown.runtimes.torch.load import load_dense
from paredown.testing.tiny import VOCABULARY, tiny_model
from paredown.text.pictures import Preparation, Sample, noise_images, read_samples

IMAGE = VOCABULARY - 1
PATCHES = [IMAGE] * 4


def llava(folder: Path) -> Checkpoint:
    return Checkpoint(tiny_model(folder / "model", "llava", dtype=torch.float32))


def samples() -> list[Sample]:
    """Two images, texts of unequal length, one with words in front of the image."""
    generator = torch.Generator().manual_seed(4)
    texts = [([*PATCHES, 10, 65, 66], [70, 71, 72]), ([1, 80, *PATCHES, 13], [90, 91, 92, 93, 94])]
    return [
        Sample(torch.randn(3, 16, 16, generator=generator), torch.tensor(q + a), len(q))
        for q, a in texts
    ]


def slow_loss(model: Any, sample: Sample, source: Checkpoint, loss: Loss) -> Tensor:
    """The loss from the transformers model as a user would run it, image and all."""
    outputs: list[Tensor] = []
    for name, module in model.model.language_model.named_modules():
        if name.endswith(("gate_proj", "up_proj", "down_proj")):
            module.register_forward_hook(lambda m, a, y: outputs.append(y))
    logits = model(sample.ids[None], pixel_values=sample.pixels[None]).logits[0]
    if loss == "ce":
        answer = sample.ids[sample.judged :]
        return torch.nn.functional.cross_entropy(logits[sample.judged - 1 : -1], answer)
    return torch.stack([(y.square().sum() / y.numel()).sqrt() for y in outputs]).sum()


def test_products_behind_images_are_those_of_the_whole_model(tmp_path: Path) -> None:
    source, both = llava(tmp_path), samples()
    tower = Tower(source, device="cpu")
    features = [tower.features(s.pixels) for s in both]
    losses: tuple[Loss, ...] = ("ce", "frobenius")
    walk = PicturedWalk(source, both, features, losses, "cpu", tmp_path / "scratch")
    fast = walk_products(walk)
    for i, sample in enumerate(both):
        for loss in losses:
            model = load_dense(source.folder)
            model.requires_grad_(True)
            slow_loss(model, sample, source, loss).backward()
            weights = dict(model.named_parameters())
            for mlp in source.spec.structure.mlps:
                inner = mlp.output.replace("language_model.model", "model.language_model")
                weight = weights[f"{inner}.weight"]
                assert weight.grad is not None
                expected = (weight * weight.grad).sum(0).detach()
                found = fast[loss][mlp.output][i]
                torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)


def test_features_are_those_that_transformers_puts_into_the_text(tmp_path: Path) -> None:
    source, sample = llava(tmp_path), samples()[0]
    model = load_dense(source.folder)
    seen: list[Tensor] = []
    first = model.model.language_model.layers[0]
    first.register_forward_pre_hook(lambda m, a: seen.append(a[0]))
    with torch.no_grad():
        model(sample.ids[None], pixel_values=sample.pixels[None])
    features = Tower(source, device="cpu").features(sample.pixels)
    torch.testing.assert_close(seen[0][0, :4], features, rtol=1e-4, atol=1e-5)


def test_image_tokens_and_patches_must_agree(tmp_path: Path) -> None:
    source, sample = llava(tmp_path), samples()[0]
    features = Tower(source, device="cpu").features(sample.pixels)[:3]
    with pytest.raises(MethodError, match="4 image tokens for an image of 3 patches"):
        walk_products(PicturedWalk(source, [sample], [features], ("ce",), "cpu", tmp_path))


def test_activities_in_several_passes_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tower = Tower(llava(tmp_path), device="cpu")
    images = torch.stack([s.pixels for s in samples()])
    together = list(tower.activities(images))
    monkeypatch.setattr("paredown.blocks.tower._MOMENT_BYTES", 1)
    for (mlp, one), (other, two) in zip(tower.activities(images), together, strict=True):
        assert mlp == other
        assert torch.equal(one.mean, two.mean)
        assert torch.equal(one.second, two.second)


def test_activities_are_the_mean_products(tmp_path: Path) -> None:
    source = llava(tmp_path)
    images = torch.stack([s.pixels for s in samples()])
    model = load_dense(source.folder)
    seen: list[Tensor] = []
    fc2 = model.model.vision_tower.encoder.layers[1].mlp.fc2
    fc2.register_forward_pre_hook(lambda m, a: seen.append(a[0].flatten(0, 1)))
    with torch.no_grad():
        model.model.vision_tower(images)
    ((_, _), (mlp, found)) = Tower(source, device="cpu").activities(images)
    assert mlp.output == "vision_tower.encoder.layers.1.mlp.fc2"
    torch.testing.assert_close(found.mean, seen[0].mean(0), rtol=1e-4, atol=1e-6)
    expected = seen[0].T @ seen[0] / len(seen[0])
    torch.testing.assert_close(found.second, expected, rtol=1e-4, atol=1e-6)


def test_noise_falls_off_as_in_photographs() -> None:
    noise = noise_images(8, 64, seed=3)
    assert noise.shape == (8, 3, 64, 64)
    assert noise.min() >= 0
    assert noise.max() <= 1
    assert torch.equal(noise, noise_images(8, 64, seed=3))
    assert not torch.equal(noise, noise_images(8, 64, seed=4))
    power = torch.fft.fft(noise - noise.mean((2, 3), keepdim=True)).abs().square().mean((0, 1, 2))
    # along one axis, over all waves of the other, 1/f^2 in two dimensions leaves 1/f
    assert power[4] / power[16] == pytest.approx(4, rel=0.5)


def test_images_are_scaled_cut_and_normalised(tmp_path: Path) -> None:
    """Left half black, right half white, twice as wide as high: the middle has both."""
    values = np.zeros((32, 64, 3), dtype=np.uint8)
    values[:, 32:] = 255
    Image.fromarray(values).save(tmp_path / "a.png")
    found = Preparation(16, (0.5, 0.5, 0.25), (0.5, 0.25, 1.0)).read(tmp_path / "a.png")
    assert found.shape == (3, 16, 16)
    assert found[:, 3, 1].tolist() == [-1.0, -2.0, -0.25]
    assert found[:, 3, -2].tolist() == [1.0, 2.0, 0.75]


def test_preparation_is_the_models_own(tmp_path: Path) -> None:
    source = llava(tmp_path)
    assert Preparation.of(source, 16).mean[0] == pytest.approx(0.48145466)  # CLIP's
    told = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.1, 0.2, 0.3]}
    (source.folder / "preprocessor_config.json").write_text(json.dumps(told))
    assert Preparation.of(source, 16).deviation == (0.1, 0.2, 0.3)


def test_preparation_agrees_with_transformers(tmp_path: Path) -> None:
    """Up to Pillow's rounding between its two filters."""
    from transformers import CLIPImageProcessorPil

    generator = torch.Generator().manual_seed(5)
    values = torch.randint(0, 256, (50, 33, 3), generator=generator, dtype=torch.uint8)
    Image.fromarray(values.numpy()).save(tmp_path / "a.png")
    processor: Any = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size=16)
    with Image.open(tmp_path / "a.png") as opened:
        expected = processor(opened.convert("RGB"), return_tensors="pt").pixel_values[0]
    found = Preparation(16).read(tmp_path / "a.png")
    torch.testing.assert_close(found, expected, rtol=0, atol=0.03)


def test_the_answer_begins_where_it_is_judged(tmp_path: Path) -> None:
    source = llava(tmp_path)
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.new("RGB", (16, 16)).save(folder / "a.png")
    rows = [
        {"image": "a.png", "question": "U <image> A", "answer": "xy"},
        {"image": "a.png", "answer": "z" * 900},
    ]
    (folder / "texts.jsonl").write_text("\n".join(json.dumps(row) for row in rows))

    def read(count: int) -> list[Sample]:
        how = Preparation(16)
        return read_samples(folder, source, how, image_token=IMAGE, patches=4, count=count, seed=0)

    with pytest.raises(DataError, match=r"'a\.png' and its text are 261 tokens.*takes 256"):
        read(2)
    (folder / "texts.jsonl").write_text(json.dumps(rows[0]))
    (one,) = read(2)
    assert one.ids.tolist() == [*map(ord, "U "), *PATCHES, *map(ord, " A"), *map(ord, "xy")]
    assert one.ids[one.judged :].tolist() == [*map(ord, "xy")]
