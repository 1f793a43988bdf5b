"""Folding factors changes norms and weights, and no output."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from paredown.artifact.checkpoint import Checkpoint
from paredown.blocks.probe import probe_tokens
from paredown.blocks.smoothing import Folding, smooth_block
from paredown.runtimes.torch.load import load_dense
from paredown.runtimes.torch.proof import probe
from paredown.spec.folds import GAIN_OFFSET, Fold, find_folds
from paredown.testing.tiny import VOCABULARY, tiny_model
from paredown.testing.zoo import FAMILIES

TINY = {"gemma3": "gemma3_text"}
"""Family -> its `model_type`, where they differ."""


def uneven_model(folder: Path, family: str, dtype: torch.dtype = torch.bfloat16) -> Checkpoint:
    """A tiny model whose norms and biases are not all ones and zeros."""
    tiny_model(folder, TINY.get(family, family), dtype=dtype, tokenizer=False)
    file = folder / "model.safetensors"
    tensors = load_file(file)
    generator = torch.Generator().manual_seed(5)
    for name, value in tensors.items():
        if value.ndim == 1:
            noise = torch.randn(value.shape, generator=generator)
            tensors[name] = (value.float() + 0.3 * noise).to(value.dtype)
    save_file(tensors, file, metadata={"format": "pt"})
    return Checkpoint(folder)


def random_factors(folding: Folding, readers: list[Tensor]) -> Tensor:
    """Factors between 1/8 and 8."""
    generator = torch.Generator().manual_seed(3)
    asked = torch.rand(readers[0].shape[1], generator=generator).mul(6).sub(3).exp2()
    return folding.realize(folding.tie(asked, "mean"))


def fold_all(source: Checkpoint, model: Any) -> set[str]:
    """Fold every block of a loaded model in place; the names of what changed besides linears."""
    changed: set[str] = set()
    for block in source.spec.structure.blocks:
        module = model.get_submodule(block.prefix)
        layers = {n: model.get_submodule(n) for n in block.linears}
        weights = {n: layer.weight.detach().float() for n, layer in layers.items()}
        folds = find_folds(source.spec, block, block.linears)
        assert len(folds) == 4
        changed |= smooth_block(source, block, module, folds, weights, random_factors).keys()
        for name, layer in layers.items():
            layer.weight.data = weights[name]
    return changed


@pytest.mark.parametrize("family", sorted(GAIN_OFFSET.keys() & set(FAMILIES)))
def test_no_output_changes(tmp_path: Path, family: str) -> None:
    source = uneven_model(tmp_path, family)
    model = load_dense(tmp_path, dtype=torch.float32)
    tokens = probe_tokens(VOCABULARY)
    before, weights = probe(model, tokens), model.get_submodule("model.layers.0.mlp.down_proj")
    old = weights.weight.clone()
    changed = fold_all(source, model)
    assert not torch.allclose(weights.weight, old, rtol=0.1)
    # The biases of q, k and v are stored in 16 bits, and so rounded anew.
    limit = 0.02 if any(name.endswith("bias") for name in changed) else 1e-4
    assert (probe(model, tokens) - before).abs().max() <= limit * before.abs().max()


def test_a_wrong_gain_offset_would_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = uneven_model(tmp_path, "gemma2")
    model = load_dense(tmp_path, dtype=torch.float32)
    before = probe(model, probe_tokens(VOCABULARY))
    monkeypatch.setitem(GAIN_OFFSET, "gemma2", 0.0)
    fold_all(source, model)
    assert (probe(model, probe_tokens(VOCABULARY)) - before).abs().max() > 0.1


def test_heads_that_share_values_share_their_factors() -> None:
    """Two value heads of 2 features; each is read by 2 heads of the output layer."""
    fold = Fold("v", ("o",), None, head_dim=2, repeat=2)
    assert fold.rows(8) == [0, 1, 0, 1, 2, 3, 2, 3]
    folding = Folding(fold, None, torch.tensor(fold.rows(8)))
    values = torch.tensor([1.0, 2.0, 3.0, 8.0, 5.0, 6.0, 7.0, 4.0])
    assert folding.tie(values, "mean").tolist() == [2.0, 5.0, 2.0, 5.0, 6.0, 5.0, 6.0, 5.0]
    assert folding.tie(values, "amax").tolist() == [3.0, 8.0, 3.0, 8.0, 7.0, 6.0, 7.0, 6.0]


def test_layers_that_must_not_change_are_left_out(tmp_path: Path) -> None:
    spec = uneven_model(tmp_path, "llama").spec
    block = spec.structure.blocks[0]

    def readers(*skipped: str) -> set[str]:
        chosen = [n for n in block.linears if not n.endswith(skipped)]
        return {fold.readers[0].rpartition(".")[2] for fold in find_folds(spec, block, chosen)}

    assert readers() == {"q_proj", "gate_proj", "down_proj", "o_proj"}
    assert readers("k_proj") == {"gate_proj", "down_proj", "o_proj"}
    assert readers("v_proj") == {"gate_proj", "down_proj"}
    assert readers("up_proj") == {"q_proj", "o_proj"}
    assert readers("down_proj") == {"q_proj", "gate_proj", "o_proj"}


def test_unknown_families_have_none(tmp_path: Path) -> None:
    spec = Checkpoint(tiny_model(tmp_path, "opt", tokenizer=False)).spec
    block = spec.structure.blocks[0]
    assert find_folds(spec, block, block.linears) == ()
