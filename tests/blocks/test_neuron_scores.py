"""Statistics of neurons against those of the whole model's own activations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from paredown.artifact.checkpoint import Checkpoint
from paredown.blocks.gradient_scores import neuron_products, trimmed_products
from paredown.blocks.gradients import Loss
from paredown.blocks.neuron_scores import NeuronScores
from paredown.runtimes.torch.load import load_dense
from paredown.store.cache import Cache
from paredown.testing.tiny import VOCABULARY, tiny_model


def windows() -> Tensor:
    return torch.randint(0, VOCABULARY, (3, 24), generator=torch.Generator().manual_seed(3))


def scores(folder: Path, tmp_path: Path) -> NeuronScores:
    return NeuronScores(
        Checkpoint(folder),
        source_hash="tiny",
        tokens=windows(),
        cache=Cache(tmp_path / "cache"),
        device="cpu",
        scratch=tmp_path / "scratch",
        trust_remote_code=False,
        progress=lambda share, message: None,
    )


@pytest.mark.parametrize("family", ["llama", "opt", "gpt2"])
def test_activations_are_those_of_the_model(family: str, tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model", family, dtype=torch.float32, tokenizer=False)
    model = load_dense(folder)
    seen: list[Tensor] = []

    def note(module: Any, args: Any) -> None:
        seen.append(args[0].reshape(-1, args[0].shape[-1]))

    found = scores(folder, tmp_path)
    mlps = found.source.spec.structure.mlps
    for mlp in mlps:
        model.get_submodule(_in_memory(family, mlp.output)).register_forward_pre_hook(note)
    with torch.no_grad():
        model(windows())
    for activity, rows in zip(found.activations(), seen, strict=True):
        torch.testing.assert_close(activity.mean, rows.mean(0), rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(activity.second, rows.square().mean(0), rtol=1e-3, atol=1e-5)


def _in_memory(family: str, name: str) -> str:
    return name if family != "gpt2" or name.startswith("transformer.") else f"transformer.{name}"


def test_importance_of_products(tmp_path: Path) -> None:
    """Squares for the cross-entropy, absolute values for the others, means over windows."""
    folder = tiny_model(tmp_path / "model", dtype=torch.float32, tokenizer=False)
    losses: tuple[Loss, ...] = ("ce", "frobenius", "nuclear")
    found = scores(folder, tmp_path)
    own = found.gradients(losses, "own")
    options: dict[str, Any] = {"device": "cpu", "scratch": tmp_path}
    products = neuron_products(found.source, windows(), losses, **options)
    for i, mlp in enumerate(found.source.spec.structure.mlps):
        for loss in losses:
            rows = products[loss][mlp.output]
            expected = rows.square() if loss == "ce" else rows.abs()
            torch.testing.assert_close(own[loss][i], expected.mean(0))


def test_the_reference_variant_is_kept_apart(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model", dtype=torch.float32, tokenizer=False)
    found = scores(folder, tmp_path)
    found.gradients(("ce",), "own")
    reference = found.gradients(("ce", "frobenius"), "reference")
    options: dict[str, Any] = {"device": "cpu", "scratch": tmp_path}
    sums = trimmed_products(found.source, windows(), ("ce", "frobenius"), **options)
    for i, mlp in enumerate(found.source.spec.structure.mlps):
        torch.testing.assert_close(reference["ce"][i], sums["ce"][mlp.output].square())
        torch.testing.assert_close(reference["frobenius"][i], sums["frobenius"][mlp.output])
