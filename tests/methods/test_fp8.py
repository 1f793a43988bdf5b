"""FP8 keeps the contract; where there is no FP8 arithmetic it is refused at planning time."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from paredown.artifact.checkpoint import Checkpoint
from paredown.errors import ConfigError
from paredown.hardware.detect import Gpu, Machine
from paredown.methods import registry
from paredown.methods.base import AnyMethod, Params
from paredown.spec.infer import infer_spec
from paredown.spec.model import ModelSpec
from paredown.spec.strategy import parse_strategy
from paredown.spec.target import Device, Target
from paredown.testing.conformance import MethodConformance
from paredown.testing.tiny import tiny_model


def machine(*capabilities: str) -> Machine:
    gpus = tuple(
        Gpu(name="GPU", memory_bytes=1, free_bytes=1, compute_capability=c) for c in capabilities
    )
    return Machine(
        system="", cpu="", physical_cores=1, logical_cores=1, memory_bytes=1, available_bytes=1,
        flags=(), gpus=gpus,
    )  # fmt: skip


class TestFp8(MethodConformance):
    """The format, its numerics and its sizes; products in FP8 need a GPU."""

    method_name = "fp8"

    def test_check_accepts_the_model(
        self, method: AnyMethod, settings: Params, source: Checkpoint
    ) -> None:
        pytest.skip("CPUs are refused; see the tests below")


class TestFp8WeightsOnly(TestFp8):
    method_name = "fp8"
    params: ClassVar[dict[str, Any]] = {"activations": "none"}
    family = "opt"
    dtype = torch.float32


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    return infer_spec(tiny_model(tmp_path_factory.mktemp("llama"), tokenizer=False))


def check(strategy: str, spec: ModelSpec, device: Device) -> ModelSpec:
    return registry.check(parse_strategy(strategy), spec, Target(device=device))


def test_cpus_are_refused_with_the_mend(llama: ModelSpec) -> None:
    with pytest.raises(ConfigError, match=r"CPUs have no FP8.*smoothquant or rtn"):
        check("fp8", llama, "cpu")


@pytest.mark.parametrize(
    ("gpus", "message"),
    [((), "no GPU was found"), (("8.0", "7.5"), r"GPU \(compute capability 8\.0\).*begin at 8\.9")],
)
def test_older_gpus_are_refused_for_activations_only(
    llama: ModelSpec, monkeypatch: pytest.MonkeyPatch, gpus: tuple[str, ...], message: str
) -> None:
    monkeypatch.setattr("paredown.hardware.detect.detect", lambda: machine(*gpus))
    with pytest.raises(ConfigError, match=message):
        check("fp8", llama, "cuda")
    check('fp8(activations="none")', llama, "cuda")


@pytest.mark.parametrize("capability", ["8.9", "9.0", "10.0", "12.0"])
def test_newer_gpus_are_accepted(
    llama: ModelSpec, monkeypatch: pytest.MonkeyPatch, capability: str
) -> None:
    monkeypatch.setattr("paredown.hardware.detect.detect", lambda: machine("8.0", capability))
    after = check("fp8", llama, "cuda")
    assert after.quantization == "compressed-tensors"


def test_weights_take_one_byte_and_a_scale_per_row(llama: ModelSpec) -> None:
    method = registry.load("fp8")
    after = method.predict(llama, method.params_type())
    linears = [llama.by_name[f"{name}.weight"] for name in llama.structure.linears]
    saved = sum(t.numel for t in linears) - 2 * sum(t.shape[0] for t in linears)
    assert llama.weight_bytes - after.weight_bytes == saved


def test_opt_is_refused_for_activations_only(tmp_path: Path) -> None:
    spec = infer_spec(tiny_model(tmp_path, "opt", tokenizer=False))
    with pytest.raises(ConfigError, match=r"one activation scale instead of one per token"):
        check("fp8", spec, "cuda")
    check('fp8(activations="none")', spec, "cuda")
