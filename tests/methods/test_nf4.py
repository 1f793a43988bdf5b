"""NF4 keeps the contract, to the byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from paredown.artifact.checkpoint import Checkpoint
from paredown.errors import ConfigError
from paredown.methods import registry
from paredown.methods.shared.bitsandbytes import STATE_BYTES
from paredown.runtimes.torch.load import load_dense
from paredown.spec.infer import infer_spec
from paredown.spec.strategy import parse_strategy
from paredown.spec.target import Target
from paredown.testing.conformance import MethodConformance
from paredown.testing.tiny import tiny_model

_LEVELS = [
    -1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0.0,
    0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0,
]  # fmt: skip
"""The sixteen values of NF4, from appendix E of arXiv:2305.14314."""


EVEN: dict[str, int] = {"intermediate_size": 192}
"""Sizes that bitsandbytes' NF4 kernels take on every processor: tiny models are 160 wide."""


class TestNf4(MethodConformance):
    method_name = "nf4"
    sizes = EVEN


@pytest.mark.slow
class TestNf4Single(MethodConformance):
    method_name = "nf4"
    params: ClassVar[dict[str, Any]] = {"double_quant": False}
    sizes = EVEN


class TestNf4Opt(MethodConformance):
    """Biases everywhere; tensors stored without the base model's prefix."""

    method_name = "nf4"
    family = "opt"
    sizes: ClassVar[dict[str, int]] = {"ffn_dim": 192}


@pytest.mark.slow
class TestNf4Gpt2(MethodConformance):
    """Conv1D: stored transposed."""

    method_name = "nf4"
    family = "gpt2"
    dtype = torch.float32


def compress(folder: Path, out: Path, strategy: str) -> Checkpoint:
    ((method, params),) = registry.resolve(parse_strategy(strategy))
    out.mkdir()
    context = MethodConformance().context(out.parent)
    method.apply(Checkpoint(folder), out, params, context)
    return Checkpoint(out)


def test_every_weight_is_a_level_times_the_largest_of_its_block(tmp_path: Path) -> None:
    source = Checkpoint(tiny_model(tmp_path / "model", dtype=torch.float32, tokenizer=False))
    out = compress(source.folder, tmp_path / "out", "nf4(double_quant=False)")
    model = load_dense(out.folder, dtype=torch.float32)
    name = "model.layers.1.mlp.up_proj"
    layer = model.get_submodule(name)
    found = layer(torch.eye(64)).T.reshape(-1, 64)
    weight = source.read(f"{name}.weight").reshape(-1, 64)
    largest = weight.abs().amax(1, keepdim=True)
    levels = torch.tensor(_LEVELS)
    nearest = levels[((weight / largest)[..., None] - levels).abs().argmin(-1)] * largest
    torch.testing.assert_close(found, nearest, rtol=1e-5, atol=1e-6)


def test_the_length_of_a_description_does_not_depend_on_the_weights(tmp_path: Path) -> None:
    out = compress(tiny_model(tmp_path / "model", tokenizer=False), tmp_path / "out", "nf4")
    states = [out.read(n) for n in out.names if "quant_state" in n]
    assert {len(s) for s in states} == {STATE_BYTES}
    texts = [bytes(s.tolist()).decode() for s in states]
    assert len({len(t.rstrip()) for t in texts}) > 1  # without filling they differ
    assert all(json.loads(t)["quant_type"] == "nf4" for t in texts)


def test_shapes_are_told_from_the_files(tmp_path: Path) -> None:
    spec = infer_spec(tiny_model(tmp_path / "model", tokenizer=False))
    out = compress(tmp_path / "model", tmp_path / "out", 'nf4(skip=["down_proj"])')
    predicted = registry.check(parse_strategy('nf4(skip=["down_proj"])'), spec, Target())
    assert out.spec.packed_shapes == predicted.packed_shapes
    assert out.spec.packed_shapes["model.layers.0.mlp.up_proj"] == (160, 64)
    assert "model.layers.0.mlp.down_proj" not in out.spec.packed_shapes


def test_skipping_everything_is_refused(tmp_path: Path) -> None:
    spec = infer_spec(tiny_model(tmp_path / "model", tokenizer=False))
    with pytest.raises(ConfigError, match="no layer to quantize"):
        registry.check(parse_strategy('nf4(skip=["*"])'), spec, Target())


def test_experts_are_refused(tmp_path: Path) -> None:
    spec = infer_spec(tiny_model(tmp_path / "model", tokenizer=False))
    mixture = spec.model_copy(update={"experts": 4})
    with pytest.raises(ConfigError, match="nf4 does not handle experts"):
        registry.check(parse_strategy("nf4"), mixture, Target())
