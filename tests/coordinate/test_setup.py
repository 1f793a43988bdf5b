"""What is refused before a model is looked at."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from paredown.coordinate import setup
from paredown.coordinate.setup import check_energy_limit
from paredown.errors import ConfigError
from paredown.hardware.counters import open_rapl
from paredown.spec.run import RunConfig


def request(**evaluate: float) -> RunConfig:
    return RunConfig.model_validate(
        {"model": "demo", "limits": {"max_energy": 0.5}, "evaluate": evaluate}
    )


def test_a_limit_on_energy_needs_a_counter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "open_rapl", lambda: open_rapl(tmp_path))
    with pytest.raises(ConfigError, match=r"max_energy: no energy .*shows no energy counter"):
        check_energy_limit(request(), "cpu")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"nvidia-ml-py: pip install 'paredown\[gpu\]'"):
        check_energy_limit(request(), "cuda")
    zone = tmp_path / "intel-rapl:0"
    zone.mkdir()
    for name, text in (("name", "package-0"), ("energy_uj", "5"), ("max_energy_range_uj", "9")):
        (zone / name).write_text(text)
    check_energy_limit(request(), "cpu")
    with pytest.raises(ConfigError, match="energy_s is 0, so no energy is measured"):
        check_energy_limit(request(energy_s=0), "cpu")
    check_energy_limit(RunConfig(model="demo"), "cuda")
