"""The energy of a run: kept over a resume, and never in its way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import paredown
from paredown.errors import ConfigError
from paredown.evaluate.carbon import NoEstimateError
from paredown.report.energy import energy_lines, search_energy
from tests.coordinate.test_run import settings
from tests.samples import EVALUATE

METERED = EVALUATE.model_copy(update={"energy_s": 0.05}).model_dump()


def request(folder: Path, **changes: Any) -> dict[str, Any]:
    common = {"evaluate": METERED, "methods": ("rtn",), "episodes": 1, "country": "deu"}
    return settings(folder, **(common | changes))


@pytest.mark.slow
def test_the_energy_of_all_sessions_is_told(tmp_path: Path) -> None:
    pytest.importorskip("codecarbon")
    place: dict[str, Any] = {"experiment_name": "e", "output_dir": tmp_path}
    first = search_energy(paredown.optimize(**request(tmp_path), **place).record.events)
    assert first is not None
    assert first.countries == ("DEU",)
    assert first.kwh > 0
    again = request(tmp_path, episodes=2, country="FRA")
    front = paredown.optimize(**again, **place, resume=True)
    both = search_energy(front.record.events)
    assert both is not None
    assert both.countries == ("DEU", "FRA")
    assert both.kwh > first.kwh
    assert any("CO2e" in line for line in energy_lines(front.findings))
    assert front.record.final is not None
    assert front.record.final["cost"]["energy"]["kwh"] == pytest.approx(both.kwh)
    results = front.record.results
    assert all(r.energy_joules is None or r.energy_joules > 0 for r in results)
    assert any(r.energy_joules for r in results)


@pytest.mark.slow
def test_a_meter_that_fails_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        def __init__(self, country: str | None) -> None:
            pass

        def read(self) -> None:
            raise NoEstimateError("CodeCarbon has stopped")

        def close(self) -> None:
            pass

    monkeypatch.setattr("paredown.coordinate.energy.Meter", Broken)
    asked = request(tmp_path, evaluate=METERED | {"energy_s": 0.01}, country=None)
    front = paredown.optimize(**asked, experiment_name="b", output_dir=tmp_path)
    assert len(front.record.trials) == 1
    assert energy_lines(front.findings) == ["energy: not known; CodeCarbon has stopped"]


def test_an_unknown_country_is_refused_before_anything_starts(tmp_path: Path) -> None:
    pytest.importorskip("codecarbon")
    with pytest.raises(ConfigError, match="DEU"):
        paredown.optimize(**request(tmp_path, country="germany"), output_dir=tmp_path / "out")
    assert not list((tmp_path / "out").rglob("run.json"))
