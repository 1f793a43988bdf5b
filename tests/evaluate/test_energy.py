"""Energy per token: the arithmetic on known powers, and CodeCarbon itself."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from paredown.errors import ConfigError, MissingExtraError
from paredown.evaluate import carbon, energy
from paredown.evaluate.carbon import (
    WORLD,
    Estimate,
    Meter,
    NoEstimateError,
    Sum,
    check_country,
)
from paredown.evaluate.energy import Counted, joules_per_token, measure_energy
from paredown.runtimes.torch.load import load
from paredown.runtimes.torch.session import TorchSession
from paredown.testing.tiny import tiny_model
from tests.samples import EVALUATE


class Machine:
    """A machine whose clock and counter go by what it is told to do."""

    def __init__(self, *, idle_watts: float, busy_watts: float) -> None:
        self.seconds, self.total = 0.0, 1000.0
        self.idle_watts, self.busy_watts = idle_watts, busy_watts
        self.what = "a counter"

    def joules(self) -> float:
        return self.total

    def clock(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        self.total += self.idle_watts * seconds

    def work(self) -> int:
        """Four tokens in a tenth of a second."""
        self.seconds += 0.1
        self.total += self.busy_watts * 0.1
        return 4


def test_the_power_at_idle_is_taken_off(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(idle_watts=20.0, busy_watts=100.0)
    monkeypatch.setattr(time, "sleep", machine.sleep)
    source = Counted(machine, idle_s=2.0, clock=machine.clock)
    assert source.idle_watts == pytest.approx(20.0)
    assert "20.0 W" in source.what
    found = joules_per_token(machine.work, source, seconds=0.95, clock=machine.clock)
    # 80 W above idle, 40 tokens a second
    assert found == pytest.approx([2.0, 2.0, 2.0])


def test_windows_are_as_long_as_asked_and_the_first_work_is_not_counted() -> None:
    machine = Machine(idle_watts=0.0, busy_watts=10.0)
    spans: list[float] = []

    class Watched:
        source = "measured"
        what = "spans"

        @contextmanager
        def window(self) -> Iterator[list[float]]:
            joules: list[float] = []
            start = machine.seconds
            yield joules
            spans.append(machine.seconds - start)
            joules.append(1.0)

    joules_per_token(machine.work, Watched(), seconds=0.95, clock=machine.clock)  # type: ignore[arg-type]
    assert spans == pytest.approx([1.0, 1.0, 1.0])
    assert machine.seconds == pytest.approx(3.1)


class Switched(Machine):
    """A real clock, and a counter that goes on at another power after 0.2 seconds."""

    def __init__(self, *, idle_watts: float, busy_watts: float) -> None:
        super().__init__(idle_watts=idle_watts, busy_watts=busy_watts)
        self.start: float | None = None

    def joules(self) -> float:
        self.start = self.start or time.perf_counter()
        passed = time.perf_counter() - self.start
        return self.idle_watts * min(passed, 0.2) + self.busy_watts * max(0.0, passed - 0.2)


def measured(
    machine: Machine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[dict[str, float], list[str]]:
    model = load(tiny_model(folder))
    source = Counted(machine, idle_s=0.2, clock=time.perf_counter)
    monkeypatch.setattr(energy, "open_source", lambda device: source)
    config = EVALUATE.model_copy(update={"energy_s": 0.1})
    found, notes = measure_energy(TorchSession(model), config)
    for measurement in found:
        assert (measurement.n, measurement.source) == (3, "measured")
    return {m.name: m.value for m in found}, notes


def test_a_model_is_charged_by_the_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Switched(idle_watts=30.0, busy_watts=50.0)
    found, notes = measured(machine, tmp_path, monkeypatch)
    assert notes == []
    assert found.keys() == {"energy", "prefill_energy"}
    # 20 W above idle for some milliseconds a token; a prompt's tokens share one pass
    assert 1e-4 < found["energy"] < 20.0
    assert found["prefill_energy"] < found["energy"]


def test_what_cannot_be_told_from_idle_is_missing_not_zero(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Switched(idle_watts=30.0, busy_watts=20.0)
    found, notes = measured(machine, tmp_path, monkeypatch)
    assert found == {}
    assert notes == [
        "energy: no more than at idle could be seen",
        "prefill energy: no more than at idle could be seen",
    ]


def test_decoding_starts_behind_the_same_prompt_every_time(tmp_path: Path) -> None:
    model = load(tiny_model(tmp_path))
    lengths: list[int] = []
    forward = model.forward

    def watched(ids: torch.Tensor, **options: object) -> object:
        cache = options.get("past_key_values")
        lengths.append(0 if cache is None else int(cache.get_seq_length()))  # type: ignore[attr-defined]
        return forward(ids, **options)

    model.forward = watched
    with torch.inference_mode():
        work = energy.decoding(TorchSession(model), torch.ones(1, 8, dtype=torch.int64), 3)
        assert (work(), work()) == (3, 3)
    assert lengths == [0, 8, 9, 10, 8, 9, 10]


def test_no_energy_is_looked_for_where_it_is_not_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(energy, "open_source", lambda device: pytest.fail("not wanted"))
    assert measure_energy(TorchSession(None), EVALUATE) == ([], [])


def test_without_counter_and_codecarbon_the_note_says_what_helps(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(carbon, "_folder", lambda: None)
    monkeypatch.setattr(
        energy, "open_rapl", lambda: "this processor shows no energy counter (RAPL)"
    )
    config = EVALUATE.model_copy(update={"energy_s": 0.1})
    found, notes = measure_energy(TorchSession(load(tiny_model(tmp_path))), config)
    assert found == []
    assert "no energy counter" in notes[0]
    assert "pip install 'paredown[energy]'" in notes[0]


@pytest.mark.slow
def test_codecarbon_charges_work_and_not_idleness() -> None:
    pytest.importorskip("codecarbon")
    estimate = Estimate()
    with estimate.window() as busy:
        end = time.process_time() + 0.8
        while time.process_time() < end:
            pass
    with estimate.window() as idle:
        time.sleep(0.8)
    assert busy[0] > 0.2
    assert idle[0] < busy[0] / 4
    assert "CodeCarbon" in estimate.what


def test_codecarbon_meters_the_machine_offline_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("codecarbon")
    monkeypatch.chdir(tmp_path)
    # What would make it ask the network or write a file, were its own settings heeded:
    for name, value in {
        "OUTPUT_METHODS": "csv", "SAVE_TO_FILE": "true", "SAVE_TO_API": "true",
        "API_ENDPOINT": "http://127.0.0.1:9", "EMISSIONS_ENDPOINT": "http://127.0.0.1:9",
        "ELECTRICITYMAPS_API_TOKEN": "secret", "COUNTRY_ISO_CODE": "FRA",
    }.items():  # fmt: skip
        monkeypatch.setenv(f"CODECARBON_{name}", value)
    with Meter("DEU") as meter:
        first = meter.read()
        time.sleep(1.5)
        second = meter.read()
    assert second.kwh > first.kwh > 0
    assert second.seconds - first.seconds > 1.4
    assert second.kg_co2e / second.kwh == pytest.approx(0.38, abs=0.03)  # Germany, not France
    assert (second.country, list(tmp_path.iterdir())) == ("DEU", [])
    with pytest.raises(NoEstimateError, match="has stopped"):
        meter.read()


@pytest.mark.slow
def test_without_a_country_the_grid_is_the_world_s() -> None:
    pytest.importorskip("codecarbon")
    with Meter(None) as meter:
        meter.read()
        time.sleep(0.3)
        used = meter.read()
    assert used.country == WORLD
    assert used.kg_co2e / used.kwh == pytest.approx(0.475, rel=0.01)


def test_a_meter_that_dies_is_told_and_leaves_nothing_behind() -> None:
    pytest.importorskip("codecarbon")
    meter = Meter(None)
    pid = meter._process.pid
    meter._process.kill()
    with pytest.raises(NoEstimateError):
        meter.read()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        ("GERMANY", "DEU (Germany)"),
        ("GER", "DEU (Germany)"),
        ("DUE", "DEU (Germany)"),
        ("FRANC", "FRA"),
    ],
)
def test_an_unknown_country_is_refused_with_the_nearest(code: str, hint: str) -> None:
    pytest.importorskip("codecarbon")
    check_country("DEU")
    with pytest.raises(ConfigError) as caught:
        check_country(code)
    assert hint in str(caught.value)


def test_a_country_that_nobody_would_heed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carbon, "_folder", lambda: None)
    check_country(None)
    with pytest.raises(MissingExtraError, match=r"paredown\[energy\]"):
        check_country("DEU")


def reading(seconds: float, cpu_kj: float, gpu_kj: float = 0.0) -> SimpleNamespace:
    """CodeCarbon's totals; a kilogram of CO2e per kWh."""
    cpu, gpu = cpu_kj / 3600, gpu_kj / 3600
    return SimpleNamespace(duration=seconds, cpu_energy=cpu, gpu_energy=gpu,
                           energy_consumed=cpu + gpu, emissions=cpu + gpu)  # fmt: skip


def test_a_counter_that_starts_again_adds_nothing_to_the_run() -> None:
    """RAPL of 262 kJ is reset between two readings 15 s apart: 17 kW, which no machine takes."""
    kept = Sum()
    for at, kj in ((15, 3.0), (30, 6.0), (45, 6.0 + 262.1), (60, 9.0 + 262.1)):
        kept.add(reading(at, kj))
    assert kept.kwh == pytest.approx(9.0 / 3600)
    assert kept.kg_co2e == pytest.approx(9.0 / 3600)
    assert (kept.seconds, kept.left_out) == (60, 1)


@pytest.mark.parametrize(("cpu_kw", "gpu_kw", "left_out"), [(2.5, 12.0, 0), (3.5, 0, 1), (0, 22, 1),
                                                            (-0.1, 1, 1)])  # fmt: skip
def test_only_what_no_machine_takes_is_left_out(
    cpu_kw: float, gpu_kw: float, left_out: int
) -> None:
    kept = Sum()
    kept.add(reading(15, 0.0))
    kept.add(reading(115, 100 * cpu_kw, 100 * gpu_kw))
    assert kept.left_out == left_out
    assert kept.kwh == pytest.approx(0.0 if left_out else (cpu_kw + gpu_kw) * 100 / 3600)
