"""Neurons of both parts of a LLaVA model: the contract, scores, repair, images of a user."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from PIL import Image
from torch import Tensor

from paredown.artifact.checkpoint import Checkpoint
from paredown.blocks.tower import Tower
from paredown.errors import ConfigError, DataError
from paredown.methods import registry
from paredown.runtimes.torch.load import load, load_dense
from paredown.runtimes.torch.proof import compare
from paredown.spec.infer import infer_spec
from paredown.spec.model import ModelSpec
from paredown.spec.strategy import parse_strategy
from paredown.spec.target import Target
from paredown.testing.conformance import MethodConformance
from paredown.testing.tiny import VOCABULARY, tiny_model

IMAGE = VOCABULARY - 1
TEXT = torch.tensor([[1, *[IMAGE] * 4, 5, 6, 60, 70]])  # 4 patches of the image, in text


class TestStructuredAfrLlava(MethodConformance):
    """Without images: text alone, and noise for the tower."""

    method_name = "structured_afr_llava"
    params: ClassVar[dict[str, Any]] = {"ratio": 0.3, "vision_ratio": 0.4}
    family = "llava"


class TestTowerLeftAsItIs(MethodConformance):
    method_name = "structured_afr_llava"
    params: ClassVar[dict[str, Any]] = {"ratio": 0.3, "vision_ratio": 0, "repair": False}
    family = "llava"


def photographs(folder: Path, count: int = 3) -> Path:
    """Images of uneven sizes with questions and answers."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(5)
    lines = []
    for i in range(count):
        values = torch.randint(0, 256, (20 + i, 40, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(values.numpy()).save(folder / f"{i}.png")
        row = {"image": f"{i}.png", "answer": f"a thing of sort {i}" + "!" * i}
        lines.append(json.dumps(row | ({"question": f"Q: <image> what?{i} A:"} if i else {})))
    (folder / "texts.jsonl").write_text("\n".join(lines))
    return folder


def image() -> Tensor:
    return torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def apply(strategy: str, folder: Path, out: Path, **changes: Any) -> Path:
    ((method, params),) = registry.resolve(parse_strategy(strategy))
    out.mkdir()
    context = MethodConformance().context(out.parent / f"{out.name}-work", **changes)
    method.apply(Checkpoint(folder), out, params, context)
    return out


def check(strategy: str, spec: ModelSpec) -> ModelSpec:
    return registry.check(parse_strategy(strategy), spec, Target())


@torch.no_grad()
def seen(model: Any) -> Tensor:
    logits: Tensor = model(TEXT, pixel_values=image()).logits[0]
    return logits


def test_both_parts_are_stored_smaller_and_load_with_images(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model", "llava", dtype=torch.float32)
    strategy = "structured_afr_llava(ratio=0.3, vision_ratio=0.4)"
    predicted = check(strategy, infer_spec(folder))
    out = apply(strategy, folder, tmp_path / "out")
    made, before = infer_spec(out), infer_spec(folder)
    assert {mlp.width for mlp in made.structure.mlps} == {128}
    assert {mlp.width for mlp in made.structure.vision_mlps} == {64}
    assert made.vision == predicted.vision
    assert made.vision is not None
    assert before.vision is not None
    assert made.vision.parameters < before.vision.parameters
    assert made.parameters == predicted.parameters
    plain = load_dense(out)
    assert plain.config.vision_config.intermediate_size == 64
    assert plain.config.text_config.intermediate_size == 128
    compare(seen(plain), seen(load(out)), "paredown")
    kept = [n for n in Checkpoint(out).names if "projector" in n or "vision_tower.embed" in n]
    assert kept
    assert all(torch.equal(Checkpoint(out).read(n), Checkpoint(folder).read(n)) for n in kept)


def test_without_repair_it_is_the_model_with_those_neurons_silent(tmp_path: Path) -> None:
    """Neurons are found again by their rows; silencing the others gives the same logits."""
    folder = tiny_model(tmp_path / "model", "llava", dtype=torch.float32)
    out = apply("structured_afr_llava(ratio=0.3, vision_ratio=0.4, repair=false)",
                folder, tmp_path / "out")  # fmt: skip
    source, made = Checkpoint(folder), Checkpoint(out)
    whole = load_dense(folder)
    layers = {
        **{f"language_model.model.layers.{i}.mlp": ("up_proj", "down_proj") for i in range(2)},
        **{f"vision_tower.encoder.layers.{i}.mlp": ("fc1", "fc2") for i in range(2)},
    }
    modules = dict(whole.named_modules())
    for name, (first, last) in layers.items():
        before = source.read(f"{name}.{first}.weight").tolist()
        kept = [before.index(row) for row in made.read(f"{name}.{first}.weight").tolist()]
        assert kept == sorted(kept)
        removed = [i for i in range(len(before)) if i not in kept]
        inner = name.replace("language_model.model", "language_model")
        modules[f"model.{inner}.{last}"].weight.data[:, removed] = 0
    torch.testing.assert_close(seen(load(out)), seen(whole), rtol=1e-4, atol=1e-5)


def test_the_towers_scores_are_those_of_its_weights_gradients(tmp_path: Path) -> None:
    """sum_j W_d G_d of the norms of all MLP outputs, by plain autograd in the whole model."""
    folder = tiny_model(tmp_path / "model", "llava", dtype=torch.float32)
    source = Checkpoint(folder)
    images = torch.cat([image(), 0.5 * image().flip(-1)])
    found = Tower(source, device="cpu").products(images, lambda share, message: None)
    assert set(found) == {mlp.output for mlp in source.spec.structure.vision_mlps}
    for i in range(len(images)):
        model = load_dense(folder)
        model.requires_grad_(True)
        outputs: list[Tensor] = []
        for name, module in model.model.vision_tower.named_modules():
            if name.endswith(("fc1", "fc2")):
                module.register_forward_hook(lambda m, a, y, seen=outputs: seen.append(y))
        model.model.vision_tower(images[i : i + 1])
        torch.stack([(y.square().sum() / y.numel()).sqrt() for y in outputs]).sum().backward()
        weights = dict(model.named_parameters())
        for name, rows in found.items():
            weight = weights[f"model.{name}.weight"]
            assert weight.grad is not None
            expected = (weight * weight.grad).sum(0).detach()
            torch.testing.assert_close(rows[i], expected, rtol=1e-3, atol=1e-6)


def test_repair_of_the_tower_brings_its_features_closer(tmp_path: Path) -> None:
    """On what it was fitted to; features come from before the last block (CLIP in LLaVA)."""
    folder = tiny_model(tmp_path / "model", "llava", dtype=torch.float32)
    user = photographs(tmp_path / "photos", 12)
    whole = Tower(Checkpoint(folder), device="cpu")
    from paredown.text.pictures import Preparation

    pixels = [Preparation.of(whole_source, 16).read(user / f"{i}.png")
              for whole_source in [Checkpoint(folder)] for i in range(12)]  # fmt: skip
    errors = []
    for repair in ("true", "false"):
        strategy = (
            f'structured_afr_llava(ratio=0.3, vision_ratio=0.4, repair={repair}, images="{user}")'
        )
        out = apply(strategy, folder, tmp_path / repair)
        smaller = Tower(Checkpoint(out), device="cpu")
        differences = [smaller.features(p) - whole.features(p) for p in pixels]
        errors.append(float(torch.cat(differences).square().mean()))
    assert errors[0] < 0.7 * errors[1]


def test_the_tower_is_scored_on_the_images_given(tmp_path: Path) -> None:
    """With images, other neurons may go than with noise; the same twice is the same."""
    folder = tiny_model(tmp_path / "model", "llava")
    user = photographs(tmp_path / "photos")
    strategy = f'structured_afr_llava(ratio=0.3, images="{user}")'
    unread: Any = None  # calibration text would be called
    one = Checkpoint(apply(strategy, folder, tmp_path / "one", calibration=unread))
    two = Checkpoint(apply(strategy, folder, tmp_path / "two", calibration=unread))
    noise = Checkpoint(apply("structured_afr_llava(ratio=0.3)", folder, tmp_path / "noise"))
    assert all(torch.equal(one.read(n), two.read(n)) for n in one.names)
    changed = {n for n in one.names if not torch.equal(one.read(n), noise.read(n))}
    assert any("vision_tower" in n for n in changed)
    assert any("language_model" in n for n in changed)


def test_data_is_read_only_without_images() -> None:
    for text, expected in (
        ("structured_afr_llava", True),
        ('structured_afr_llava(images="x")', False),
    ):
        method, params = registry.resolve(parse_strategy(text))[0]
        assert method.reads_data(params) is expected


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    return infer_spec(tiny_model(tmp_path_factory.mktemp("m"), "llava", tokenizer=False))


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_a_model_without_eyes_is_refused(family: str, tmp_path: Path) -> None:
    spec = infer_spec(tiny_model(tmp_path, family, tokenizer=False))
    with pytest.raises(ConfigError, match=r"no vision tower; use structured_afr$"):
        check("structured_afr_llava(ratio=0.3)", spec)


def test_what_leaves_too_little_is_refused_by_name(llava: ModelSpec) -> None:
    with pytest.raises(ConfigError, match=r"vision_ratio = 0\.6.*vision_ratio <= 0\.50"):
        check("structured_afr_llava(ratio=0.3, vision_ratio=0.6)", llava)
    with pytest.raises(ConfigError, match=r"vision_ratio = 0\.05.*removes nothing of width 128"):
        check("structured_afr_llava(ratio=0.3, vision_ratio=0.05)", llava)
    with pytest.raises(ConfigError, match=r"^ratio = 0\.8 would leave"):
        check("structured_afr_llava(ratio=0.8)", llava)


def test_other_models_that_see_are_refused(llava: ModelSpec) -> None:
    other = llava.model_copy(update={"model_type": "llava_next", "architecture": "LlavaNext"})
    with pytest.raises(ConfigError, match=r"LlavaNext is not.*structured_afr prunes its language"):
        check("structured_afr_llava(ratio=0.3)", other)


def test_folders_of_images_are_checked_before_anything_runs(
    llava: ModelSpec, tmp_path: Path
) -> None:
    def asked(folder: Path) -> str:
        return f'structured_afr_llava(ratio=0.3, images="{folder}")'

    with pytest.raises(DataError, match="no folder of images"):
        check(asked(tmp_path / "nothing"), llava)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds no texts\.jsonl"):
        check(asked(tmp_path / "empty"), llava)
    (tmp_path / "coco_val").mkdir()
    with pytest.raises(DataError, match="test or validation split"):
        check(asked(tmp_path / "coco_val"), llava)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"texts\.jsonl, line 1: no JSON"),
        ('{"image": "0.png"}', r'line 1: needs strings "image" and "answer"'),
        ('{"image": "texts.jsonl", "answer": "x"}', "cannot be read as an image"),
        ('{"image": "none.png", "answer": "x"}', "cannot be read as an image"),
    ],
)
def test_what_cannot_be_read_is_named(line: str, message: str, tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model", "llava")
    user = photographs(tmp_path / "photos")
    (user / "texts.jsonl").write_text(line)
    with pytest.raises(DataError, match=message):
        apply(f'structured_afr_llava(ratio=0.3, images="{user}")', folder, tmp_path / "out")
