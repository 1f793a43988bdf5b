"""What a run says before it starts."""

from __future__ import annotations

from pathlib import Path

from paredown.cli.live import _agenda
from paredown.coordinate.agenda import agenda
from paredown.coordinate.memory import Beginning
from paredown.coordinate.setup import Prepared, prepare
from paredown.methods import registry
from paredown.pipeline.disk import need_of
from paredown.spec.run import RunConfig
from paredown.spec.serial import plain
from paredown.store.cache import Cache
from paredown.testing.tiny import tiny_model
from tests.samples import write_text_file

NOTHING = Beginning(start=(), remembered=(), knowledge=None)


def prepared(folder: Path, episodes: int = 6) -> Prepared:
    return prepare(
        RunConfig.model_validate(
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
    )


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
