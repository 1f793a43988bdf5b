"""What a run says before it starts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from paredown.coordinate.agenda import agenda
from paredown.coordinate.memory import Beginning
from paredown.coordinate.run import plan_experiment
from paredown.coordinate.setup import Prepared, prepare
from paredown.errors import ConfigError
from paredown.hardware.catalogue import shipped
from paredown.methods import registry
from paredown.pipeline.disk import cache_note, need_of
from paredown.report.live import _agenda
from paredown.spec.run import RunConfig
from paredown.spec.serial import plain
from paredown.spec.units import human_bytes
from paredown.store.cache import Cache
from paredown.testing.tiny import tiny_model
from tests.samples import write_text_file

NOTHING = Beginning(start=(), remembered=(), knowledge=None)


def config_in(folder: Path, episodes: int = 6) -> RunConfig:
    return RunConfig.model_validate(
        {
            "model": str(tiny_model(folder / "model")),
            "data": str(write_text_file(folder / "text.txt")),
            "methods": ("rtn", "gptq"),
            "max_steps": 1,
            "episodes": episodes,
            "evaluate": {"tokens": 512, "window": 64},
            "calibration": {"samples": 2, "length": 64},
        }
    )


def prepared(folder: Path, episodes: int = 6) -> Prepared:
    return prepare(config_in(folder, episodes))


def test_a_plan_alone_measures_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    config, told = config_in(tmp_path), list[str]()
    before = sorted(tmp_path.rglob("*"))
    out = tmp_path / "experiments"
    found = plan_experiment(config, output_dir=out, listen=lambda event, fields: told.append(event))
    assert found.trials == 6
    assert found.first
    assert {"coordinator", "agenda"} <= set(told)
    assert sorted(tmp_path.rglob("*")) == before
    never = config.model_copy(update={"model": str(tmp_path / "nowhere")})
    with pytest.raises(ConfigError, match="no such folder"):
        plan_experiment(never, output_dir=out)


def test_a_base_that_does_not_fit_is_said_to_be_judged_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = prepared(tmp_path)
    assert not agenda(ready, NOTHING, tmp_path, done=0).is_judged_only
    monkeypatch.setattr("paredown.runtimes.room.room", lambda device: 1e3)
    found = agenda(ready, NOTHING, tmp_path, done=0)
    assert found.is_judged_only
    assert "judged block by block" in _agenda(plain(found))


def test_it_counts_what_is_left_and_names_what_comes_first(tmp_path: Path) -> None:
    ready = prepared(tmp_path)
    start = Beginning(start=(registry.canonical("gptq(bits=8)"),), remembered=(), knowledge=None)
    fresh = agenda(ready, start, tmp_path, done=0)
    assert (fresh.trials, fresh.first) == (6, ("gptq(bits=8)",))
    assert fresh.possible == len(ready.space.strategies)
    later = agenda(ready, start, tmp_path, done=4)
    assert (later.trials, later.first) == (2, ())
    assert agenda(ready, NOTHING, tmp_path, done=9).trials == 0


def test_disk_is_that_of_the_largest_first_trial(tmp_path: Path) -> None:
    ready = prepared(tmp_path)
    cache = Cache.default()
    firsts = ready.space.first_of_methods().values()
    needs = [need_of(strategy, ready.base.spec, cache) for strategy in firsts]
    largest = max(need.output + need.cache for need in needs)
    found = agenda(ready, NOTHING, tmp_path / "not" / "there", done=0)
    assert found.disk_bytes == largest > 0
    assert found.disk_free_bytes > 0


def test_it_is_told_in_two_lines_with_what_is_needed_and_what_is_free(tmp_path: Path) -> None:
    fields = plain(agenda(prepared(tmp_path, episodes=1), NOTHING, tmp_path, done=0))
    told = _agenda({**fields, "hours": 1.5, "disk_bytes": 2e9, "disk_free_bytes": 51e9})
    assert told.startswith("ahead: up to 1 trial within 1h30m, of ")
    assert "2.0 GB of disk (51.0 GB are free)" in told.splitlines()[1]
    assert "of memory" not in _agenda({**fields, "memory_bytes": None})


def test_it_says_on_what_the_base_could_run_and_on_what_not(tmp_path: Path) -> None:
    ready = prepared(tmp_path)
    small = agenda(ready, NOTHING, tmp_path, done=0)
    assert small.serve_devices
    assert small.serve_not_on == ""
    spec = ready.base.spec
    # 27e9 weights of 16 bits: one H100 holds them, one L40S does not.
    grown = [
        t.model_copy(update={"shape": (27_000_000, 1000)}) if "embed" in t.name else t
        for t in spec.tensors
    ]
    base = replace(ready.base, spec=spec.with_tensors(grown))
    large = agenda(replace(ready, base=base), NOTHING, tmp_path, done=0)
    device = next(d for d in shipped() if d.name == large.serve_not_on)
    assert 40e9 < device.usable_bytes < 60e9
    told = _agenda({**plain(large), "memory_free_bytes": 1e9})
    assert f"one {device.name} is too small; more than the 1.0 GB that are free here)" in told


def test_a_cache_that_is_too_small_for_a_pass_is_told_with_one_that_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = prepared(tmp_path)
    assert ready.notes == ()
    monkeypatch.setenv("PAREDOWN_CACHE_GB", "0.0001")  # 100 kB, of which a pass may take half
    firsts = ready.space.first_of_methods().values()
    note = cache_note(firsts, ready.base.spec)
    # Two blocks: three inputs of 64 features and one of 160, as triangles in float32; and a byte
    # for each of the 2 x 43,008 weights of the linears.
    whole = 2 * 4 * (3 * 64 * 65 // 2 + 160 * 161 // 2) + 2 * 43_008
    assert f"({human_bytes(whole)})" in note
    assert "PAREDOWN_CACHE_GB=1 " in note
    monkeypatch.setenv("PAREDOWN_CACHE_GB", "1")
    assert cache_note(firsts, ready.base.spec) == ""
    assert cache_note([registry.canonical("rtn(bits=8)")], ready.base.spec) == ""
