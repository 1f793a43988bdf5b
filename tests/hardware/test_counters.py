"""Energy counters, on folders and libraries that look like the real ones."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from paredown.hardware.counters import CounterError, Nvml, Rapl, open_nvml, open_rapl


def write_zone(root: Path, folder: str, name: str, energy_uj: int, limit: int = 1_000_000) -> Path:
    zone = root / folder
    zone.mkdir(parents=True)
    (zone / "name").write_text(f"{name}\n")
    (zone / "max_energy_range_uj").write_text(f"{limit}\n")
    (zone / "energy_uj").write_text(f"{energy_uj}\n")
    return zone / "energy_uj"


def opened(root: Path) -> Rapl:
    counter = open_rapl(root)
    assert isinstance(counter, Rapl)
    return counter


def test_packages_and_memory_add_up_and_parts_are_left_out(tmp_path: Path) -> None:
    first = write_zone(tmp_path, "intel-rapl:0", "package-0", 100_000)
    core = write_zone(tmp_path, "intel-rapl:0:0", "core", 0)
    memory = write_zone(tmp_path, "intel-rapl:0:1", "dram", 0)
    second = write_zone(tmp_path, "intel-rapl:1", "package-1", 0)
    platform = write_zone(tmp_path, "intel-rapl:2", "psys", 0)
    write_zone(tmp_path, "intel-rapl-mmio:0", "package-0", 0)  # the same package once more
    counter = opened(tmp_path)
    before = counter.joules()
    for file, energy in ((first, 400_000), (core, 900_000), (memory, 50_000), (second, 20_000)):
        file.write_text(str(energy))
    platform.write_text("999999")
    assert counter.joules() - before == pytest.approx(0.3 + 0.05 + 0.02)
    assert counter.what == "RAPL (package-0, dram, package-1)"


def test_a_counter_that_starts_again_at_zero_goes_on(tmp_path: Path) -> None:
    file = write_zone(tmp_path, "intel-rapl:0", "package-0", 900_000, limit=1_000_000)
    counter = opened(tmp_path)
    before = counter.joules()
    file.write_text("100000")
    assert counter.joules() - before == pytest.approx(0.2)
    file.write_text("950000")
    file_now = counter.joules()
    file.write_text("50000")
    assert counter.joules() - before == pytest.approx(0.2 + 0.85 + 0.1)
    assert file_now - before == pytest.approx(0.2 + 0.85)


def test_a_machine_without_counters_says_so(tmp_path: Path) -> None:
    assert "no energy counter" in str(open_rapl(tmp_path))


def test_counters_that_only_root_may_read_are_told_with_the_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_zone(tmp_path, "intel-rapl:0", "package-0", 1)
    hidden = write_zone(tmp_path, "intel-rapl:1", "package-1", 1)
    read = Path.read_text

    def refuse(self: Path, *args: object, **kwargs: object) -> str:
        if self == hidden:
            raise PermissionError(13, "Permission denied", str(self))
        return read(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "read_text", refuse)
    assert "sudo chmod a+r" in str(open_rapl(tmp_path))


class NoNvmlError(Exception):
    pass


def fake_nvml(millijoules: list[int], *, works: bool = True) -> SimpleNamespace:
    def energy(handle: str) -> int:
        assert handle == "handle of GPU-7f"
        if not works:
            raise NoNvmlError("Not Supported")
        return millijoules.pop(0)

    return SimpleNamespace(
        NVMLError=NoNvmlError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: f"handle of {uuid}",
        nvmlDeviceGetTotalEnergyConsumption=energy,
    )


def test_nvml_counts_millijoules() -> None:
    counter = open_nvml("7f", fake_nvml([0, 5_000, 12_500]))
    assert isinstance(counter, Nvml)
    before = counter.joules()
    assert counter.joules() - before == pytest.approx(7.5)


def test_a_gpu_without_a_counter_says_so() -> None:
    assert "Not Supported" in str(open_nvml("7f", fake_nvml([], works=False)))


@pytest.mark.parametrize("damage", ["gone", "no number"])
def test_one_zone_that_cannot_be_read_is_told_and_the_rest_is_no_whole(
    tmp_path: Path, damage: str
) -> None:
    write_zone(tmp_path, "intel-rapl:0", "package-0", 1)
    other = write_zone(tmp_path, "intel-rapl:1", "package-1", 1)
    if damage == "gone":
        other.unlink()
    else:
        other.write_text("")
    assert "not whole: intel-rapl:1 cannot be read" in str(open_rapl(tmp_path))


def test_a_counter_that_is_reset_adds_no_turn(tmp_path: Path) -> None:
    """262 kJ is the range of real packages; 200 kJ before a reset would count as 62 kJ more."""
    file = write_zone(tmp_path, "intel-rapl:0", "package-0", 200_000_000_000, 262_143_328_850)
    counter = opened(tmp_path)
    before = counter.joules()
    file.write_text("5000000")
    with pytest.raises(CounterError, match="package-0 was set back"):
        counter.joules()
    file.write_text("7000000")  # the next stretch is whole again
    between = counter.joules()
    file.write_text("9500000")
    assert counter.joules() - between == pytest.approx(2.5)
    assert counter.joules() - before < 10


def test_a_real_turn_of_a_busy_package_is_none(tmp_path: Path) -> None:
    file = write_zone(tmp_path, "intel-rapl:0", "package-0", 262_143_000_000, 262_143_328_850)
    counter = opened(tmp_path)
    before = counter.joules()
    file.write_text("400000000")
    assert counter.joules() - before == pytest.approx(400 + 0.32885, rel=1e-6)


def test_a_counter_that_goes_away_is_told(tmp_path: Path) -> None:
    file = write_zone(tmp_path, "intel-rapl:0", "package-0", 1)
    counter = opened(tmp_path)
    file.unlink()
    with pytest.raises(CounterError, match="cannot be read any more"):
        counter.joules()


def test_a_gpus_counter_that_is_set_back_is_told() -> None:
    counter = open_nvml("7f", fake_nvml([5_000, 9_000, 1_000]))
    assert isinstance(counter, Nvml)
    counter.joules()
    with pytest.raises(CounterError, match="set back"):
        counter.joules()
