"""Steps that two strategies share are done once."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch

from paredown.artifact.checkpoint import Checkpoint
from paredown.errors import MethodError
from paredown.methods import registry
from paredown.methods.random_structured import RandomStructured
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
    done = run(home, strategy, name, **changes)
    return Checkpoint(home / name), done.reused_steps


def run(home: Path, strategy: str, name: str, **changes: Any) -> CompressDone:
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
    return done


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


READING = "wanda(ratio=0.5)"
"""A step that reads calibration text."""


def reuses(home: Path, step: str, name: str, **changes: Any) -> bool:
    """Whether the result of `step` is still there for another strategy that starts with it."""
    return run(home, f"{step} > rtn(bits=8, group_size=32)", name, **changes).reused_steps == 1


def own_text(home: Path, words: str) -> TextSpec:
    """The same path whatever it holds."""
    path = home / "text.txt"
    path.write_text("\n\n".join(f"{words} {i} " * 40 for i in range(60)))
    return TextSpec(evaluation=str(path), calibration=None, data_dir=None)


def test_another_text_under_the_same_path_is_another_text(home: Path) -> None:
    text = own_text(home, "first")
    run(home, READING, "one", text=text)
    assert reuses(home, READING, "same", text=text)
    assert not reuses(home, READING, "other", text=own_text(home, "second"))


def test_the_same_text_under_another_path_is_the_same(home: Path) -> None:
    text = own_text(home, "first")
    run(home, READING, "one", text=text)
    moved = Path(text.evaluation).rename(home / "moved.txt")
    assert reuses(home, READING, "two", text=text.model_copy(update={"evaluation": str(moved)}))


def test_a_step_that_reads_no_text_does_not_depend_on_it(home: Path) -> None:
    run(home, PRUNE, "one", text=own_text(home, "first"))
    assert reuses(home, PRUNE, "two", text=own_text(home, "second"))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_another_model_under_the_same_path_is_another_model(home: Path, name: str) -> None:
    run(home, PRUNE, "one")
    file = home / "model" / name
    before = file.read_bytes()
    if name == "config.json":
        file.write_bytes(before.replace(b'"rms_norm_eps": 1e-06', b'"rms_norm_eps": 1e-04'))
    elif name == "tokenizer.json":
        file.write_bytes(before + b"\n")
    else:  # a weight's last bit
        file.write_bytes(before[:-4] + bytes([before[-4] ^ 1]) + before[-3:])
    assert file.read_bytes() != before
    assert not reuses(home, PRUNE, "two")
    file.write_bytes(before)
    assert reuses(home, PRUNE, "three")


def test_other_training_text_under_the_same_path_is_trained_on(home: Path) -> None:
    path = own_text(home, "first").evaluation
    step = f'lora(tokens=256, window=32, batch_tokens=64, rank=2, text="{path}")'
    run(home, step, "one")
    assert reuses(home, step, "two")
    own_text(home, "second")
    assert not reuses(home, step, "three")


def test_what_a_reused_step_had_taken_is_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = RandomStructured.apply

    def slowly(self: RandomStructured, *args: Any) -> Any:
        time.sleep(0.5)
        return real(self, *args)

    monkeypatch.setattr(RandomStructured, "apply", slowly)
    assert run(home, PRUNE, "one").reused_s == 0.0
    forbid(monkeypatch)
    four = run(home, f"{PRUNE} > magnitude > rtn(group_size=32)", "four")
    assert 0.5 <= four.reused_s < 20
    both = run(home, f"{PRUNE} > magnitude > rtn(group_size=64)", "both")
    assert both.reused_steps == 2
    assert both.reused_s > four.reused_s  # the first step's as well, though it was reused itself
