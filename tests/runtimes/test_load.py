"""Loading: dense folders, packed artifacts, and what is missing or not understood."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from paredown.artifact.checkpoint import Checkpoint
from paredown.blocks.names import module_name
from paredown.blocks.probe import probe_tokens
from paredown.blocks.skeleton import set_tensor
from paredown.errors import ModelError
from paredown.methods import registry
from paredown.methods.base import Context
from paredown.runtimes.torch.load import is_packed, load, load_dense
from paredown.runtimes.torch.packed import PackedLinear
from paredown.runtimes.torch.proof import probe
from paredown.spec.strategy import parse_strategy
from paredown.store.cache import Cache
from paredown.testing.tiny import VOCABULARY, tiny_model


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("dense"))


@pytest.fixture(scope="module")
def packed_once(dense: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("packed")
    strategy = parse_strategy("rtn(bits=4, group_size=32)")
    ((method, params),) = registry.resolve(strategy)
    context = Context(
        device="cpu",
        seed=0,
        source_hash="tiny",
        scratch=out,
        cache=Cache(out / "cache"),
        calibration=lambda: torch.zeros(1, 1),
        progress=lambda share, message: None,
    )
    method.apply(Checkpoint(dense), out, params, context)
    return out


@pytest.fixture
def packed(packed_once: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(packed_once, tmp_path / "packed"))


def without(folder: Path, name: str, **added: torch.Tensor) -> Path:
    """Take one tensor out of a folder's only weights file, and add others."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors.pop(name, None)
    save_file(tensors | added, file, metadata={"format": "pt"})
    return folder


def test_a_dense_folder_is_the_plain_model(dense: Path) -> None:
    model = load(dense)
    assert not is_packed(model)
    assert model.paredown.packed == {}
    assert not model.training
    assert model.dtype == torch.bfloat16
    tokens = probe_tokens(VOCABULARY)
    assert torch.equal(probe(model, tokens), probe(load_dense(dense), tokens))
    assert load(dense, dtype=torch.float32).dtype == torch.float32


def test_a_packed_folder_stays_packed_and_generates(packed: Path) -> None:
    model = load(packed)
    layers = [m for m in model.modules() if isinstance(m, PackedLinear)]
    assert len(layers) == 14
    assert sum(model.paredown.packed.values()) == 14
    assert is_packed(model)
    assert not model.training
    out = model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=4, do_sample=False)
    assert out.shape == (1, 7)


def test_siblings_are_one_product(packed: Path) -> None:
    attention = load(packed).model.layers[0].self_attn
    assert attention.q_proj.weights is attention.k_proj.weights is attention.v_proj.weights
    assert attention.o_proj.weights is not attention.q_proj.weights


def test_unpacked_layers_are_noted(packed: Path) -> None:
    info = load(packed, dtype=torch.float32).paredown
    assert info.packed == {"unpack": 14}
    assert any("14 of 14 layers (4 bit) have no packed kernel on cpu" in n for n in info.notes)


@pytest.mark.parametrize("name", ["model.norm.weight", "model.embed_tokens.weight"])
def test_a_missing_weight_is_named(packed: Path, name: str) -> None:
    with pytest.raises(ModelError, match=f"1 weights are missing, the first is '{name}'"):
        load(without(packed, name))


@pytest.mark.parametrize("leaf", ["weight_scale", "weight_shape"])
def test_a_missing_part_of_a_packed_layer_is_named(packed: Path, leaf: str) -> None:
    name = f"model.layers.1.mlp.up_proj.{leaf}"
    with pytest.raises(ModelError, match=name):
        load(without(packed, name))


def test_a_missing_packed_weight_is_named(packed: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight_packed"
    with pytest.raises(ModelError, match=r"model\.layers\.1\.mlp\.up_proj"):
        load(without(packed, name))


def test_a_stored_activation_order_is_refused(packed: Path) -> None:
    extra = {"model.layers.0.mlp.up_proj.weight_g_idx": torch.zeros(64, dtype=torch.int32)}
    with pytest.raises(ModelError, match="stored activation order"):
        load(without(packed, "", **extra))


def test_a_weight_without_a_place_is_named(packed: Path) -> None:
    """Files hold heads of another use, too; one in the place of a weight leaves that missing."""
    loaded = load(without(packed, "", **{"model.extra.weight": torch.zeros(2)}))
    assert any("'model.extra.weight'" in note for note in loaded.paredown.notes)


def test_a_config_that_transformers_cannot_read(dense: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(dense, tmp_path / "copy"))
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"model_type": "no_such_family"}))
    with pytest.raises(ModelError, match="cannot read the config"):
        load(copy)


def test_parts_are_found_with_and_without_the_base_prefix(dense: Path) -> None:
    model = load(dense)
    assert module_name(model, "layers.0.mlp.up_proj") == "model.layers.0.mlp.up_proj"
    assert module_name(model, "model.norm.weight") == "model.norm.weight"
    with pytest.raises(ModelError, match=r"\(2,\), the config asks for \(64,\)"):
        set_tensor(model, "norm.weight", torch.zeros(2))
