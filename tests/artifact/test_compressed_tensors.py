"""Packed artifacts: codes and grids read back, and plain transformers sees the same weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from paredown.artifact.checkpoint import Checkpoint, CheckpointWriter
from paredown.artifact.compressed_tensors import (
    packed_tensors,
    quantization_config,
    read_packed,
    read_schemes,
)
from paredown.blocks.probe import probe_tokens
from paredown.errors import ModelError
from paredown.ops.affine import Grid, dequantize, fit_grid, quantize
from paredown.runtimes.torch.load import load_dense
from paredown.runtimes.torch.proof import probe
from paredown.spec.scheme import Scheme
from paredown.spec.structure import find_structure
from paredown.testing.tiny import VOCABULARY, tiny_model

SCHEMES = [
    Scheme(4, 32, True),
    Scheme(4, 32, False),
    Scheme(3, 16, True),
    Scheme(3, 16, False),
    Scheme(8, -1, True),
    Scheme(8, -1, False),
    Scheme(2, 32, True),
    Scheme(5, -1, False),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("source"))


def write(folder: Path, out: Path, choose: dict[str, Scheme]) -> dict[str, tuple[Any, Grid]]:
    """A packed copy of a model; returns the codes and grids that were meant."""
    source = Checkpoint(folder)
    meant = {}
    out.mkdir()
    with CheckpointWriter(out, source) as writer:
        for name, scheme in choose.items():
            weight = source.read(f"{name}.weight")
            grid = fit_grid(
                weight,
                bits=scheme.bits,
                group_size=scheme.group_size if scheme.group_size > 0 else weight.shape[1],
                symmetric=scheme.symmetric,
                scale_dtype=torch.bfloat16,
            )
            meant[name] = quantize(weight, grid), grid
            for key, value in packed_tensors(name, *meant[name]).items():
                writer.add(key, value)
        writer.copy_rest(without={f"{n}.weight" for n in choose})
        rest = [n for n in find_structure(source.spec).linears if n not in choose]
        writer.config["quantization_config"] = quantization_config(choose, [*rest, "lm_head"])
    return meant


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_round_trip_and_plain_transformers(folder: Path, tmp_path: Path, scheme: Scheme) -> None:
    names = find_structure(Checkpoint(folder).spec).linears
    meant = write(folder, tmp_path / "out", dict.fromkeys(names, scheme))
    artifact = Checkpoint(tmp_path / "out")
    assert read_schemes(artifact) == dict.fromkeys(names, scheme)
    model = load_dense(tmp_path / "out")
    probe(model, probe_tokens(VOCABULARY))  # the first call unpacks
    for name, (codes, grid) in meant.items():
        found, other = read_packed(artifact, name, scheme)
        assert isinstance(other, Grid)
        assert torch.equal(found, codes)
        assert torch.equal(other.scale, grid.scale)
        assert (other.bits, other.group_size) == (grid.bits, grid.group_size)
        if grid.zero is None:
            assert other.zero is None
        else:
            assert other.zero is not None
            assert torch.equal(other.zero, grid.zero)
        theirs = model.get_submodule(name).weight.float()
        torch.testing.assert_close(theirs, dequantize(codes, grid), rtol=2**-7, atol=1e-6)


def test_layers_of_different_schemes(folder: Path, tmp_path: Path) -> None:
    names = find_structure(Checkpoint(folder).spec).linears
    choose = {n: Scheme(4, 32, True) for n in names if "self_attn" in n}
    choose |= {n: Scheme(8, 32, False) for n in names if "down_proj" in n}
    write(folder, tmp_path / "out", choose)
    assert read_schemes(Checkpoint(tmp_path / "out")) == choose
    load_dense(tmp_path / "out")


def test_schemes_that_differ_in_symmetry_alone_make_two_groups() -> None:
    config = quantization_config({"a": Scheme(4, 32, True), "b": Scheme(4, 32, False)}, [])
    targets = [group["targets"] for group in config["config_groups"].values()]
    assert sorted(targets) == [["a"], ["b"]]


@pytest.fixture
def edited(folder: Path, tmp_path: Path) -> Any:
    """Change the stored quantization config, then open the artifact."""
    names = find_structure(Checkpoint(folder).spec).linears
    write(folder, tmp_path / "out", dict.fromkeys(names, Scheme(4, 32, True)))

    def edit(**weights: Any) -> Checkpoint:
        path = tmp_path / "out" / "config.json"
        config = json.loads(path.read_text())
        groups = config["quantization_config"]["config_groups"]
        targets = weights.pop("targets", None)
        groups["group_0"]["weights"] |= weights
        if targets is not None:
            groups["group_0"]["targets"] = targets
        path.write_text(json.dumps(config))
        return Checkpoint(tmp_path / "out")

    return edit


@pytest.mark.parametrize("change", [{"type": "float"}, {"strategy": "block"}])
def test_other_types_and_strategies_are_refused(edited: Any, change: dict[str, str]) -> None:
    with pytest.raises(ModelError, match="is not read here"):
        read_schemes(edited(**change))


def test_layers_without_a_group_are_refused(edited: Any) -> None:
    with pytest.raises(ModelError, match="0 quantization groups apply"):
        read_schemes(edited(targets=["re:.*mlp.*"]))


def test_targets_by_regular_expression(edited: Any) -> None:
    assert len(read_schemes(edited(targets=["re:.*self_attn.*", "re:.*mlp.*"]))) == 14
