"""The devices that are shipped, and those of a user's file."""

from __future__ import annotations

from pathlib import Path

import pytest

from paredown.errors import ConfigError
from paredown.hardware.catalogue import GIB, catalogue, find_devices, read_catalogue, shipped

OWN = """\
devices:
  - name: Our box
    memory_gb: 48
    bandwidth_gb_s: 864
    fp16_tflops: 181
    source: an invoice
"""


def test_shipped_figures_say_where_they_are_from_and_how_well_known_they_are() -> None:
    devices = {d.name: d for d in shipped()}
    assert len(devices) == 60
    assert all(d.source for d in devices.values())
    h100 = devices["H100 SXM"]
    # Data sheets print 1979 TFLOPS, which is with sparsity.
    assert (h100.fp16_tflops, h100.known("fp16")) == (989, "verified")
    assert (h100.usd_per_hour_low, h100.usd_per_hour_high) == (1.99, 5.0)
    assert h100.price_date == "2026-05"
    rtx = devices["RTX 4090"]
    assert (rtx.known("bandwidth"), rtx.known("fp16")) == ("verified", "derived")
    assert devices["M4"].known("bandwidth") == "unverified"
    assert all(d.price_date for d in devices.values() if d.usd_per_hour_low is not None)


def test_usable_memory_is_less_than_what_is_sold() -> None:
    devices = {d.name: d for d in shipped()}
    assert devices["L40S"].usable_bytes == 45 * GIB
    assert devices["T4"].usable_bytes == 15 * GIB
    assert devices["M2 Max"].usable_bytes == 72 * GIB  # three quarters of the unified memory
    assert all(d.usable_bytes <= d.memory_gb * GIB for d in devices.values())


def test_a_users_device_joins_the_shipped_ones_and_its_figures_win(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(
        OWN + "  - {name: H100 SXM, memory_gb: 94, bandwidth_gb_s: 3900, source: ours}\n"
    )
    devices = {d.name: d for d in catalogue(file)}
    assert devices["Our box"].bandwidth_gb_s == 864
    assert devices["H100 SXM"].memory_gb == 94
    assert len(devices) == 61


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("memory_gb: 48=memory_gb: -3", r"line 3, column 16: device 'Our box': memory_gb '-3'"),
        ("memory_gb: 48=memory_gb: 80000", "line 3, column 16: .*less than or equal to 4096"),
        ("    bandwidth_gb_s: 864\n=", r"line 2, column 5: .*: bandwidth_gb_s is missing"),
        ("    source: an invoice\n=", "source is missing"),
        ("fp16_tflops=fp16_tflop", r"line 5, column 17: .*: no figure 'fp16_tflop'; did you mean"),
        ("181=fast", "line 5, column 18: .*fp16_tflops 'fast'"),
        ("181=.nan", "nan"),
        ("source=usd_per_hour_low: 3\n    source", "give usd_per_hour_low and usd_per_hour_high"),
        ("devices=device", "line 1, column 1: it must hold `devices:`"),
    ],
)
def test_missing_and_absurd_figures_are_refused_with_their_place(
    change: str, said: str, tmp_path: Path
) -> None:
    file = tmp_path / "own.yaml"
    old, _, new = change.partition("=")
    assert old in OWN
    file.write_text(OWN.replace(old, new))
    with pytest.raises(ConfigError, match=said):
        read_catalogue(file)


def test_rents_need_a_date_and_an_order(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    rent = "    usd_per_hour_low: 3\n    usd_per_hour_high: 2\n"
    file.write_text(OWN + rent)
    with pytest.raises(ConfigError, match="usd_per_hour_low 3 is above usd_per_hour_high 2"):
        read_catalogue(file)
    file.write_text(OWN + rent.replace("3", "1"))
    with pytest.raises(ConfigError, match="without price_date"):
        read_catalogue(file)


def test_names_are_found_as_people_write_them() -> None:
    assert [d.name for d in find_devices(["rtx-4090"], shipped())] == ["RTX 4090"]
    assert [d.name for d in find_devices(["h100"], shipped())] == ["H100 PCIe", "H100 SXM"]
    with pytest.raises(ConfigError, match=r"no device is so called; did you mean 'RTX 4090'\?"):
        find_devices(["rtx 4091"], shipped())
    with pytest.raises(ConfigError, match="paredown match --devices lists them"):
        find_devices(["abacus"], shipped())
