"""AutoRound keeps the contract, its results arrive code by code, and it leaves nothing behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, cast

import pytest
import torch
from torch import nn

from paredown.artifact.checkpoint import Checkpoint
from paredown.errors import ConfigError, MethodError, MissingExtraError
from paredown.methods import registry
from paredown.ops.affine import dequantize
from paredown.spec.infer import infer_spec
from paredown.spec.model import ModelSpec
from paredown.spec.scheme import Scheme
from paredown.spec.strategy import parse_strategy
from paredown.spec.target import Target
from paredown.testing.conformance import MethodConformance
from paredown.testing.tiny import VOCABULARY, tiny_model
from paredown.train.autoround import take_layer, tune

FEW: dict[str, Any] = {"group_size": 32, "iters": 2, "nsamples": 4, "batch_size": 2}


class TestAutoround(MethodConformance):
    method_name = "autoround"
    params: ClassVar[dict[str, Any]] = {**FEW, "bits": 4}


@pytest.mark.slow
class TestAutoroundAsymmetric(MethodConformance):
    method_name = "autoround"
    params: ClassVar[dict[str, Any]] = {**FEW, "bits": 3, "symmetric": False}
    family = "qwen2"


@pytest.mark.slow
class TestAutoroundMixed(MethodConformance):
    method_name = "autoround"
    params: ClassVar[dict[str, Any]] = {
        **FEW, "bits": 2, "plan": {"*.down_proj": 8, "*.0.*.q_proj": 16}, "embedding_bits": 8,
    }  # fmt: skip
    family = "opt"


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    return infer_spec(tiny_model(tmp_path_factory.mktemp("llama"), tokenizer=False))


def check(strategy: str, spec: ModelSpec) -> ModelSpec:
    return registry.check(parse_strategy(strategy), spec, Target())


@pytest.mark.parametrize("where", ["bits=8", 'plan={"*.down_proj": 8}'])
def test_eight_bits_with_a_zero_point_are_refused(llama: ModelSpec, where: str) -> None:
    with pytest.raises(ConfigError, match=r"8 bits and a zero-point.*use symmetric=true"):
        check(f"autoround(group_size=32, symmetric=false, {where})", llama)
    check(f"autoround(group_size=32, {where})", llama)


def test_a_missing_library_is_named_with_the_mend(
    llama: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paredown.methods.registry.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'paredown\[autoround\]'"):
        check("autoround(group_size=32)", llama)


def layer(scale: torch.Tensor, zp: Any, steps: list[list[float]]) -> nn.Linear:
    """A layer as the library leaves it: `steps` times the scale of their group of 2."""
    made: Any = nn.Linear(4, len(steps), bias=False)
    made.weight.data = torch.tensor(steps) * scale.repeat_interleave(2, dim=1)
    made.scale, made.zp = scale, zp
    return cast(nn.Linear, made)


def test_codes_are_taken_from_symmetric_layers() -> None:
    """Scales may be negative: the code range is one longer below zero."""
    scale = torch.tensor([[0.5, -0.25]])
    codes, grid = take_layer("x", layer(scale, 4, [[-4, 3, -4, 0]]), Scheme(3, 2, True))
    assert codes.tolist() == [[-4, 3, -4, 0]]
    assert grid.zero is None
    assert dequantize(codes, grid).tolist() == [[-2.0, 1.5, 1.0, 0.0]]


def test_codes_are_taken_from_asymmetric_layers() -> None:
    scale, zp = torch.tensor([[0.5, 0.25]]), torch.tensor([[1.0, 7.0]])
    codes, grid = take_layer("x", layer(scale, zp, [[-1, 6, -7, 0]]), Scheme(3, 2, False))
    assert grid.zero is not None
    assert grid.zero.tolist() == [[-3, 3]]
    assert codes.tolist() == [[-4, 3, -4, 3]]
    assert dequantize(codes, grid).tolist() == [[-0.5, 3.0, -1.75, 0.0]]


@pytest.mark.parametrize("steps", [[[0.5, 0, 0, 0]], [[4, 0, 0, 0]], [[-5, 0, 0, 0]]])
def test_weights_off_the_grid_are_refused(steps: list[list[float]]) -> None:
    with pytest.raises(MethodError, match="x is not on its grid"):
        take_layer("x", layer(torch.ones(1, 2), 4, steps), Scheme(3, 2, True))


def test_an_untouched_layer_is_refused() -> None:
    with pytest.raises(MethodError, match="left x unquantized"):
        take_layer("x", nn.Linear(4, 1), Scheme(3, 2, True))


def test_nothing_is_printed_and_nothing_left_in_the_working_folder(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative model folder is read from where the user stands; messages become progress."""
    monkeypatch.chdir(tmp_path)
    source = Checkpoint(tiny_model(Path("model"), tokenizer=False))
    (tmp_path / "scratch").mkdir()
    capfd.readouterr()
    seen: list[float] = []
    tuned = tune(
        source,
        dict.fromkeys(source.spec.structure.linears, Scheme(4, 32, True)),
        tokens=torch.randint(0, VOCABULARY, (2, 32), generator=torch.Generator().manual_seed(0)),
        iterations=2,
        batch_size=8,
        seed=0,
        device="cpu",
        scratch=tmp_path / "scratch",
        trust_remote_code=False,
        progress=lambda share, message: seen.append(share),
    )
    assert set(tuned) == set(source.spec.structure.linears)
    assert seen == [0.5, 1.0]
    assert "quantiz" not in "".join(capfd.readouterr()).lower()
    assert {p.name for p in tmp_path.iterdir()} == {"model", "scratch"}
