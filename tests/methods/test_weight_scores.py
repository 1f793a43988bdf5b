"""First-order masks on single weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from paredown.artifact.checkpoint import Checkpoint
from paredown.blocks.weight_scores import WeightScores
from paredown.errors import NumericsError
from paredown.methods import registry
from paredown.runtimes.torch.load import load
from paredown.testing.conformance import MethodConformance
from paredown.testing.tiny import tiny_model


class TestAfr(MethodConformance):
    method_name = "afr"
    params: ClassVar[dict[str, Any]] = {"ratio": 0.4}


class TestSnipSparse(MethodConformance):
    method_name = "snip"
    params: ClassVar[dict[str, Any]] = {"pattern": "2:4", "storage": "sparse", "nsamples": 2}
    family = "qwen2"


class TestReferSvdGlobal(MethodConformance):
    method_name = "refer_svd"
    params: ClassVar[dict[str, Any]] = {"ratio": 0.3, "scope": "global"}


@pytest.fixture
def source(tmp_path: Path) -> Checkpoint:
    return Checkpoint(tiny_model(tmp_path / "model", tokenizer=False, dtype=torch.float32))


@pytest.fixture
def tokens(tmp_path: Path) -> torch.Tensor:
    return MethodConformance().context(tmp_path).calibration()


def measure(source: Checkpoint, tokens: torch.Tensor, losses: Any, scratch: Path) -> WeightScores:
    return WeightScores(
        source,
        source.spec.structure.linears,
        tokens,
        losses,
        device="cpu",
        scratch=scratch,
        progress=lambda share, message: None,
    )


def exact(source: Checkpoint, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    """|w dL/dw| by autograd through the whole model, averaged over windows."""
    model = load(source.folder)
    weights = {n: model.get_submodule(n).weight for n in source.spec.structure.linears}
    totals = {name: torch.zeros_like(w) for name, w in weights.items()}
    for window in tokens:
        loss = model(window[None], labels=window[None], use_cache=False).loss
        for name, g in zip(weights, torch.autograd.grad(loss, [*weights.values()]), strict=True):
            totals[name] += (weights[name] * g).abs().detach() / len(tokens)
    return totals


def test_snip_removes_what_autograd_says(
    source: Checkpoint, tokens: torch.Tensor, tmp_path: Path
) -> None:
    method = registry.load("snip")
    out = tmp_path / "out"
    out.mkdir()
    context = MethodConformance().context(tmp_path)
    params = method.params_type.model_validate({"ratio": 0.3, "scope": "global"})
    method.apply(source, out, params, context)
    result, scores = Checkpoint(out), exact(source, tokens)
    zeros = {name: result.read(f"{name}.weight") == 0 for name in scores}
    removed = torch.cat([scores[n][zero] for n, zero in zeros.items()])
    kept = torch.cat([scores[n][~zero] for n, zero in zeros.items()])
    assert len(removed) == round(0.3 * (len(removed) + len(kept)))
    assert removed.max() <= kept.min() * 1.001


def test_scores_are_sums_of_z_scores_up_to_a_shift(
    source: Checkpoint, tokens: torch.Tensor, tmp_path: Path
) -> None:
    both = measure(source, tokens, ("frobenius", "ce"), tmp_path / "both")
    names = source.spec.structure.linears
    z = torch.zeros(())
    for loss in ("frobenius", "ce"):
        alone = measure(source, tokens, (loss,), tmp_path / loss)
        raw = torch.cat([alone.of(n).flatten() for n in names]).double()
        z = z + (raw - raw.mean()) / raw.std(correction=0)
    found = torch.cat([both.of(n).flatten() for n in names]).double()
    shift = found - z
    torch.testing.assert_close(shift, shift.mean().expand_as(shift), rtol=1e-4, atol=1e-4)
    assert found.min() >= 0


def test_gradients_that_are_all_zero_are_refused(tokens: torch.Tensor, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tiny_model(tmp_path / "model", tokenizer=False)
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] *= 0
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(NumericsError, match="ce loss do not tell weights apart"):
        measure(Checkpoint(folder), tokens, ("ce",), tmp_path / "scratch")
