"""Memory of the serving process, phase by phase."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

import paredown
from paredown.evaluate.memory import (
    MemoryWatch,
    measure_weights,
    peak_measurements,
    serve_once,
)
from paredown.runtimes.torch.load import load
from paredown.runtimes.torch.session import TorchSession
from paredown.testing.tiny import tiny_model
from tests.samples import EVALUATE, write_text_file

MB = 1_000_000
linux = pytest.mark.skipif(sys.platform != "linux", reason="the peak is reset through /proc")


def take(size: int) -> None:
    """Hold `size` bytes for a moment."""
    torch.ones(size, dtype=torch.uint8).sum()


@linux
def test_every_phase_has_its_own_peak_and_the_highest_stays() -> None:
    watch = MemoryWatch("cpu")
    with watch.phase("large"):
        take(300 * MB)
    with watch.phase("small"):
        take(50 * MB)
    assert watch.peaks["small"] < watch.peaks["large"] - 150 * MB
    assert watch.highest >= watch.peaks["large"]


def test_where_the_peak_cannot_be_begun_again_only_that_over_all_is_told(tmp_path: Path) -> None:
    watch = MemoryWatch("cpu", clear=tmp_path / "no" / "such" / "file")
    with watch.phase("load"):
        take(1 * MB)
    assert watch.peaks == {}
    names = [m.name for m in peak_measurements(watch, EVALUATE)]
    assert names == ["peak_memory"]


@linux
def test_serving_is_told_by_phases(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path, hidden_size=512, intermediate_size=4096, num_hidden_layers=8)
    weights = sum(f.stat().st_size for f in folder.glob("*.safetensors"))
    watch = MemoryWatch("cpu")
    with watch.phase("load"):
        session = TorchSession(load(folder))
    serve_once(session, EVALUATE, watch)
    found = {m.name: m.value for m in peak_measurements(watch, EVALUATE)}
    assert found.keys() == {
        "peak_memory", "peak_memory_load", "peak_memory_prefill", "peak_memory_decode",
    }  # fmt: skip
    assert found["peak_memory"] >= max(found.values())
    assert found["peak_memory_prefill"] > weights


def test_weights_are_counted_once_in_the_form_in_which_they_are_held(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "dense", tie_word_embeddings=True)
    dense = load(folder)
    parameters = sum(p.nbytes for p in dense.parameters())  # a tied matrix stands there once
    buffers = sum(b.nbytes for b in dense.buffers())
    assert measure_weights(TorchSession(dense)).value >= parameters
    assert measure_weights(TorchSession(dense)).value <= parameters + 2 * buffers
    text = str(write_text_file(tmp_path / "text.txt"))
    strategy = "rtn(bits=4, group_size=32)"
    packed = paredown.compress(str(folder), strategy, tmp_path / "packed", data=text)
    assert (
        measure_weights(TorchSession(load(packed.folder))).value
        < 0.6 * measure_weights(TorchSession(dense)).value
    )
