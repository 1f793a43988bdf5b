"""Latency, its ratio to the base's, and the grid."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from paredown.errors import ConfigError
from paredown.evaluate.grid import measure_grid, timing
from paredown.evaluate.latency import measure_latency, measure_speedup
from paredown.evaluate.timing import Times, is_tight, repeat
from paredown.runtimes.torch.load import load
from paredown.runtimes.torch.session import TorchSession
from paredown.spec.speed import SpeedGrid
from paredown.testing.tiny import tiny_model
from tests.samples import EVALUATE


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load(tiny_model(tmp_path_factory.mktemp("model")))


class Slowed:
    """A model that takes longer, by known times: for a pass over a prompt, and for one token."""

    def __init__(self, model: Any, *, prefill_s: float, step_s: float) -> None:
        self.model, self.prefill_s, self.step_s = model, prefill_s, step_s
        self.config = model.config
        self.shapes: list[tuple[int, ...]] = []

    def get_input_embeddings(self) -> Any:
        return self.model.get_input_embeddings()

    def __call__(self, ids: torch.Tensor, **options: Any) -> Any:
        self.shapes.append(tuple(ids.shape))
        time.sleep(self.prefill_s if "past_key_values" not in options else self.step_s)
        return self.model(ids, **options)


def test_prefill_and_decode_are_told_apart_and_per_token(model: Any) -> None:
    slow = Slowed(model, prefill_s=0.4, step_s=0.1)
    found = {m.name: m for m in measure_latency(TorchSession(slow), EVALUATE)}
    assert found.keys() == {
        "decode_latency", "decode_latency_p90", "prefill_latency", "prefill_latency_p90",
    }  # fmt: skip
    assert found["decode_latency"].value >= 100.0
    assert found["prefill_latency"].value >= 400.0 / EVALUATE.prompt_tokens
    assert found["prefill_latency"].value < 100.0
    assert found["decode_latency_p90"].value >= found["decode_latency"].value
    assert found["decode_latency"].n == EVALUATE.repeats  # the time is up, so no more than asked
    assert "threads" in found["decode_latency"].how


@pytest.mark.slow
def test_the_ratio_to_the_base_has_its_interval(model: Any) -> None:
    base = Slowed(model, prefill_s=0.3, step_s=0.15)
    mine = Slowed(model, prefill_s=0.3, step_s=0.05)
    found = {m.name: m for m in measure_speedup(TorchSession(mine), TorchSession(base), EVALUATE)}
    speedup, prefill = found["speedup"], found["prefill_speedup"]
    assert 1.5 < speedup.value <= 3.2
    assert 0.7 < prefill.value < 1.4
    assert speedup.low is not None
    assert speedup.high is not None
    assert speedup.low <= speedup.value <= speedup.high


def test_repeats_end_when_the_interval_is_tight_or_the_time_is_up() -> None:
    times = Times()
    repeat(lambda: times.add((1.0, 2.0)), lambda: times.tight, at_least=3, budget_s=60)
    assert len(times.decode) == 3
    wild = Times()

    def once() -> None:
        time.sleep(0.01)
        wild.add((float(len(wild.decode) + 1), 1.0))

    start = time.perf_counter()
    repeat(once, lambda: wild.tight, at_least=2, budget_s=0.2)
    assert 0.2 < time.perf_counter() - start < 2
    assert len(wild.decode) > 2
    steady = [1.0, 1.01, 0.99] * 5
    assert is_tight(steady)
    assert not is_tight([1.0, 2.0, 3.0])
    assert not is_tight([1.0])


def test_a_grid_is_measured_point_by_point(model: Any) -> None:
    slow = Slowed(model, prefill_s=0.06, step_s=0.02)
    grid = SpeedGrid(prompts=(16, 4), batches=(1, 3), decode_tokens=2, seconds=0.01)
    points, notes = measure_grid(TorchSession(slow), grid, cache_bytes=64)
    assert notes == []
    asked = [(p.prompt_tokens, p.batch) for p in points]
    assert asked == [(4, 1), (4, 3), (16, 1), (16, 3)]
    assert {(3, 16), (1, 4), (3, 1)} <= set(slow.shapes)
    for point in points:
        assert point.n >= 3
        assert point.decode.median_ms >= 20.0
        assert point.prefill.low_ms <= point.prefill.median_ms <= point.prefill.high_ms
        assert point.decode.tokens_per_s == pytest.approx(
            point.batch * 1e3 / point.decode.median_ms
        )
        assert point.prefill.tokens_per_s == pytest.approx(
            point.batch * point.prompt_tokens * 1e3 / point.prefill.median_ms
        )


def test_points_beyond_context_or_memory_are_left_out_and_named(model: Any) -> None:
    grid = SpeedGrid(prompts=(4, 300), batches=(1,), decode_tokens=2, seconds=0.01)
    points, notes = measure_grid(TorchSession(model), grid, cache_bytes=64)
    assert [p.prompt_tokens for p in points] == [4]
    expected = "speed with prompts of 300, batches of 1: left out, the model's context is 256"
    assert notes == [expected]
    points, notes = measure_grid(TorchSession(model), SpeedGrid(prompts=(4,)), cache_bytes=1e15)
    assert points == []
    assert all("are free" in note for note in notes)
    assert len(notes) == 2


def test_timing_of_known_seconds() -> None:
    found = timing([0.1, 0.2, 0.3, 0.4, 0.5], tokens=60)
    assert found.median_ms == pytest.approx(300.0)
    assert found.p90_ms == pytest.approx(460.0)
    assert found.tokens_per_s == pytest.approx(200.0)
    assert 100.0 <= found.low_ms < 300.0 < found.high_ms <= 500.0


def test_a_grid_is_read_from_the_command_line() -> None:
    assert SpeedGrid.parse("32,128x1,4") == SpeedGrid(prompts=(32, 128), batches=(1, 4))
    assert SpeedGrid.parse("off") is None
    for wrong in ("32", "32x", "ax1", "0x1", "1x2x3"):
        with pytest.raises(ConfigError, match="--grid"):
            SpeedGrid.parse(wrong)
