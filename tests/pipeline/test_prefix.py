"""Steps that two strategies share are done once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from paredown.artifact.checkpoint import Checkpoint
from paredown.errors import MethodError
from paredown.methods import registry
from paredown.pipeline.messages import CompressDone, CompressJob, TextSpec
from paredown.pipeline.prefix import PrefixCache
from paredown.pipeline.work import perform
from paredown.store.cache import Cache
from paredown.testing.tiny import tiny_model

PRUNE = "random_structured(ratio=0.3)"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PAREDOWN_HOME", str(tmp_path / "home"))
    return tmp_path


def compress(home: Path, strategy: str, name: str, **changes: Any) -> tuple[Checkpoint, int]:
    """The artifact, and how many steps were not done again."""
    model = home / "model"
    if not model.exists():
        tiny_model(model)
    settings: dict[str, Any] = {
        "device": "cpu",
        "model": model,
        "model_name": "tiny",
        "model_hash": "tiny",
        "strategy": registry.canonical(strategy),
        "out": home / name,
        "text": TextSpec(evaluation="pydoc", calibration=None, data_dir=None),
        "samples": 2,
        "length": 16,
        "seed": 0,
    }
    folder = home / f"{name}-job"
    folder.mkdir()
    done = perform(CompressJob(**(settings | changes)), folder, lambda share, message: None)
    assert isinstance(done, CompressDone)
    return Checkpoint(home / name), done.reused_steps


def forbid(monkeypatch: pytest.MonkeyPatch) -> None:
    def apply(*args: Any) -> None:
        raise MethodError("pruned again")

    monkeypatch.setattr("paredown.methods.random_structured.RandomStructured.apply", apply)


def same(one: Checkpoint, two: Checkpoint) -> bool:
    return one.names == two.names and all(torch.equal(one.read(n), two.read(n)) for n in one.names)


def test_a_pipeline_starts_from_what_a_single_method_left(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, reused = compress(home, PRUNE, "pruned")
    assert reused == 0
    forbid(monkeypatch)
    both, reused = compress(home, f"{PRUNE} > rtn(group_size=32)", "both")
    assert reused == 1
    monkeypatch.undo()
    monkeypatch.setenv("PAREDOWN_HOME", str(home / "other-home"))
    anew, reused = compress(home, f"{PRUNE} > rtn(group_size=32)", "anew")
    assert reused == 0
    assert same(both, anew)


def test_pipelines_that_start_alike_share_the_start(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compress(home, f"{PRUNE} > rtn(group_size=32)", "four")
    forbid(monkeypatch)
    eight, reused = compress(home, f"{PRUNE} > rtn(bits=8, group_size=32)", "eight")
    assert reused == 1
    assert eight.spec.intermediate_size == 128


@pytest.mark.parametrize("changes", [{"seed": 1}, {"model_hash": "other"}, {"samples": 3}], ids=str)
def test_what_the_steps_depend_on_is_part_of_the_key(
    home: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    compress(home, PRUNE, "pruned")
    forbid(monkeypatch)
    with pytest.raises(MethodError, match="pruned again"):
        compress(home, f"{PRUNE} > rtn(group_size=32)", "both", **changes)
    with pytest.raises(MethodError, match="pruned again"):
        compress(home, "random_structured(ratio=0.4) > rtn(group_size=32)", "wider")


def test_changing_an_artifact_does_not_change_what_is_kept(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pruned, _ = compress(home, PRUNE, "pruned")
    expected, _ = compress(home, f"{PRUNE} > rtn(group_size=32)", "before")
    file = pruned.folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100] + b"\0" * 100)
    found, reused = compress(home, f"{PRUNE} > rtn(group_size=32)", "after")
    assert reused == 1
    assert same(expected, found)


def test_a_quantized_model_is_not_kept(home: Path) -> None:
    compress(home, "rtn(group_size=32)", "packed")
    strategy = registry.canonical("rtn(group_size=32) > bf16")
    assert PrefixCache(Cache.default(), strategy, {}).longest() == (0, None)
    assert not (Cache.default().folder / "steps").exists()


def test_a_copy_that_would_fill_the_cache_is_not_made(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAREDOWN_CACHE_GB", "0.0001")
    compress(home, PRUNE, "pruned")
    _, reused = compress(home, f"{PRUNE} > rtn(group_size=32)", "both")
    assert reused == 0
