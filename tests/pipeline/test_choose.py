"""Which executor a request gets, and what its stages ask of a machine."""

from __future__ import annotations

from importlib import util
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from paredown.errors import MissingExtraError
from paredown.pipeline.executors import choose
from paredown.pipeline.executors.choose import executor_of
from paredown.pipeline.executors.demand import STAGES, demands
from paredown.pipeline.executors.local import LocalExecutor
from paredown.spec.infer import infer_spec
from paredown.spec.run import RunConfig
from paredown.testing.tiny import tiny_model


def test_without_the_library_the_command_that_gets_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = util.find_spec
    monkeypatch.setattr(choose, "find_spec", lambda name: None if name == "ray" else found(name))
    with pytest.raises(MissingExtraError, match=r"--executor ray needs ray.*'paredown\[ray\]'"):
        executor_of(RunConfig(model="m", executor="ray"), tmp_path)
    assert isinstance(executor_of(RunConfig(model="m"), tmp_path), LocalExecutor)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"executor": "slurm"}, "'local' or 'ray'"),
        ({"address": "10.0.0.1:6379"}, "add --executor ray"),
        ({"executor": "ray", "address": "ray://10.0.0.1:10001"}, "pattern"),
        ({"executor": "ray", "address": "10.0.0.1"}, "pattern"),
    ],
)
def test_what_would_be_ignored_or_cannot_be_is_refused(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        RunConfig(model="m", **wrong)


def test_a_stage_asks_for_what_the_model_takes_or_the_user_gives(tmp_path: Path) -> None:
    spec = infer_spec(tiny_model(tmp_path / "model"), name="tiny")
    large = spec.with_tensors(
        [t.model_copy(update={"shape": (t.shape[0] * 1000, *t.shape[1:])}) for t in spec.tensors]
    )
    usual = demands(large, device="cuda", calibration_tokens=1024)
    assert tuple(usual) == STAGES
    assert all(each.gpus == 1 for each in usual.values())
    # Loaded beside the base, and compressed block by block.
    assert usual["evaluate"].memory_bytes > 2 * large.weight_bytes
    given = demands(large, device="cpu", calibration_tokens=1024, memory_bytes=5e9, cpus=3)
    assert {(d.memory_bytes, d.cpus, d.gpus) for d in given.values()} == {(5 * 10**9, 3, 0)}
    streamed = demands(
        large, device="cpu", calibration_tokens=1024, stream="auto", largest_bytes=1e6
    )
    assert streamed["evaluate"].memory_bytes == streamed["compress"].memory_bytes
