"""Sparse storage: the layout of the files, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from paredown.artifact.checkpoint import Checkpoint, CheckpointWriter
from paredown.artifact.sparse import is_sparse, read_sparse, sparse_tensors, state
from paredown.errors import ModelError
from paredown.runtimes.torch.load import load
from paredown.testing.tiny import tiny_model

NAME = "model.layers.0.self_attn.q_proj"


def test_hand_worked_layout() -> None:
    weight = torch.tensor([[1.0, 0, 3, 0, 5, 0, 0, 8, 9], [0, 2, 0, 0, 0, 0, 0, 0, 0]])
    tensors = sparse_tensors("a", weight, weight == 0)
    assert tensors["a.weight"].tolist() == [1, 3, 5, 8, 9, 2]
    assert tensors["a.weight_bitmask"].tolist() == [[1 + 4 + 16 + 128, 1], [2, 0]]
    assert tensors["a.weight_shape"].tolist() == [2, 9]


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    """A tiny model with one layer stored sparsely; some of its kept values are zero."""
    source = Checkpoint(tiny_model(tmp_path / "model", tokenizer=False))
    weight = source.read(f"{NAME}.weight")
    removed = torch.rand(weight.shape, generator=torch.Generator().manual_seed(0)) < 0.7
    weight[0] = 0
    out = tmp_path / "out"
    out.mkdir()
    with CheckpointWriter(out, source) as writer:
        for key, value in sparse_tensors(NAME, weight.masked_fill(removed, 0), removed).items():
            writer.add(key, value)
        writer.copy_rest(without=set())
        layers = {NAME: int(removed.sum())}
        state(writer.config, sparse=True, layers=layers, weights=removed.numel())
    save_file({"weight": weight.masked_fill(removed, 0)}, tmp_path / "expected.safetensors")
    return out


def test_what_is_stored_comes_back(artifact: Path) -> None:
    expected = load_file(artifact.parent / "expected.safetensors")["weight"]
    assert is_sparse(Checkpoint(artifact))
    assert torch.equal(read_sparse(Checkpoint(artifact), NAME), expected)
    assert torch.equal(load(artifact).get_submodule(NAME).weight, expected)


def test_mask_and_values_must_agree(artifact: Path) -> None:
    file = artifact / "model.safetensors"
    tensors = load_file(file)
    tensors[f"{NAME}.weight_bitmask"][0, 0] ^= 1
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"q_proj stores \d+ values for \d+ places"):
        load(artifact)


def test_missing_weights_are_named(artifact: Path) -> None:
    file = artifact / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(
        ModelError, match=r"block 1 has no mlp\.up_proj\.weight.*missing or misnamed"
    ):
        load(artifact)


def test_counted_like_the_dense_model(artifact: Path) -> None:
    spec, dense = Checkpoint(artifact).spec, Checkpoint(artifact.parent / "model").spec
    assert spec.parameters == dense.parameters
    assert spec.quantization == "paredown"
    assert not is_sparse(Checkpoint(artifact.parent / "model"))
