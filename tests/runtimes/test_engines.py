"""The engines pass the suite that third parties' engines pass, and the suite can fail."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from paredown.blocks.names import module_name
from paredown.runtimes.base import Engine, Needs, Package, Serving
from paredown.runtimes.session import Session
from paredown.runtimes.torch.packed import PackedLinear
from paredown.runtimes.torch.runtime import Torch
from paredown.runtimes.torch.session import TorchSession
from paredown.testing.runtimes import EngineConformance, make

USUAL = Serving()


def layer(session: Session, name: str) -> Any:
    assert isinstance(session, TorchSession)
    return session.model.get_submodule(module_name(session.model, name))


class TestTorch(EngineConformance):
    runtime_name = "torch"

    def dense_weight(self, session: Session, name: str) -> Tensor:
        packed = layer(session, name)
        assert isinstance(packed, PackedLinear)  # never unpacked as it is loaded
        # Its weight is shared with its siblings (q, k, v): its rows begin behind theirs.
        start = sum(packed.shared.sizes[: packed.part])
        # `exact` is what the kernel's own codes and scales stand for: its answer to unit vectors.
        whole = packed.weights.exact(torch.eye(packed.in_features)).T
        return whole[start : start + packed.out_features]


class TestTransformers(EngineConformance):
    runtime_name = "transformers"
    refused = 'magnitude(ratio=0.5, storage="sparse")'

    def dense_weight(self, session: Session, name: str) -> Tensor:
        module = layer(session, name)
        session.prefill(torch.ones(1, 2, dtype=torch.int64))  # it unpacks in its first pass
        weight: Tensor = module.weight
        return weight.detach()


class Served(Engine):
    """A torch engine with a server: any files, by the standard library."""

    name = "served"
    summary, source, needs = Torch.summary, Torch.source, Needs()
    path = "v1/models"

    def holds(self, *args: Any, **options: Any) -> Any:
        return Torch().holds(*args, **options)

    def export(self, artifact: Path, out: Path) -> Package:
        return Torch().export(artifact, out)

    def open(self, folder: Path, **options: Any) -> Session:
        return Torch().open(folder, **options)

    def server(
        self, package: Package, *, host: str, port: int, serving: Serving = USUAL
    ) -> tuple[str, ...]:
        place = package.folder / self.path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("{}")
        folder = str(package.folder)
        return sys.executable, "-m", "http.server", str(port), "--bind", host, "-d", folder


def package_of(engine: Engine, folder: Path) -> Package:
    return Package(runtime=engine.name, folder=folder, nbytes=1)


def test_a_server_that_answers_passes(tmp_path: Path) -> None:
    TestTorch().test_its_server_starts_answers_and_stops(Served(), package_of(Served(), tmp_path))


def test_a_server_without_models_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Elsewhere(Served):
        path = "v2/models"

    engine = Elsewhere()
    monkeypatch.setattr("paredown.testing.runtimes.SERVER_S", 3.0)
    with pytest.raises(AssertionError):
        TestTorch().test_its_server_starts_answers_and_stops(engine, package_of(engine, tmp_path))


def test_a_second_rounding_is_seen(tmp_path: Path) -> None:
    """The suite fails where weights are off by half a step of an 8-bit grid."""
    artifact = make("rtn(bits=4, group_size=32)", tmp_path)
    session = Torch().open(artifact, device="cpu")

    class Rounded(TestTorch):
        def dense_weight(self, session: Session, name: str) -> Tensor:
            weight = super().dense_weight(session, name)
            step = weight.abs().amax(1, keepdim=True) / 127
            return (weight / step).round() * step

    TestTorch().test_its_numbers_are_the_artifacts(artifact, session)
    with pytest.raises(AssertionError):
        Rounded().test_its_numbers_are_the_artifacts(artifact, session)


def test_other_weights_are_seen_in_logprobs_and_answers(tmp_path: Path) -> None:
    artifact = make("rtn(bits=4, group_size=32)", tmp_path)
    session = Torch().open(artifact, device="cpu")
    windows = torch.randint(1, 100, (2, 24), generator=torch.Generator().manual_seed(0))
    TestTorch().test_logprobs_are_the_artifacts(artifact, session, windows)
    with torch.no_grad():
        layer(session, "lm_head").weight.mul_(1.3)
    with pytest.raises(AssertionError):
        TestTorch().test_logprobs_are_the_artifacts(artifact, session, windows)
