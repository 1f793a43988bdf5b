"""This machine, and machines made of files: containers, other processors, GPUs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from paredown.hardware.detect import FLAGS, Machine, detect

CPUINFO = """\
processor\t: 0
model name\t: Test Processor 9000
flags\t\t: fpu sse2 avx2 avx512f avx512_bf16 amx_bf16 amx_tile

processor\t: 1
model name\t: Another
flags\t\t: fpu
"""
GIB = 1 << 30


@pytest.fixture
def roots(tmp_path: Path) -> tuple[Path, Path]:
    """Empty stand-ins for /proc and /sys/fs/cgroup."""
    proc, cgroups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    cgroups.mkdir()
    (proc / "cpuinfo").write_text(CPUINFO)
    return proc, cgroups


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


@pytest.fixture(autouse=True)
def many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: 4)
    memory = SimpleNamespace(total=64 * GIB, available=32 * GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    monkeypatch.setitem(sys.modules, "pynvml", None)


def test_this_machine() -> None:
    machine = detect()
    assert machine.cpu
    assert 1 <= machine.physical_cores <= machine.logical_cores <= 8
    assert 0 < machine.available_bytes <= machine.memory_bytes
    assert set(machine.flags) <= set(FLAGS)
    assert Machine.model_validate_json(machine.model_dump_json()) == machine


def test_processor_is_read_from_cpuinfo(roots: tuple[Path, Path]) -> None:
    machine = detect(proc=roots[0], cgroups=roots[1])
    assert machine.cpu == "Test Processor 9000"
    assert machine.flags == ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


def test_processor_without_cpuinfo(
    roots: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (roots[0] / "cpuinfo").unlink()
    info = {"brand_raw": "Apple M9", "flags": ["avx2", "neon"]}
    monkeypatch.setitem(sys.modules, "cpuinfo", SimpleNamespace(get_cpu_info=lambda: info))
    machine = detect(proc=roots[0], cgroups=roots[1])
    assert (machine.cpu, machine.flags) == ("Apple M9", ("avx2",))


def test_without_limits_the_machine_counts(roots: tuple[Path, Path]) -> None:
    machine = detect(proc=roots[0], cgroups=roots[1])
    assert (machine.physical_cores, machine.logical_cores) == (4, 8)
    assert (machine.memory_bytes, machine.available_bytes) == (64 * GIB, 32 * GIB)


def test_version_2_group_limits_memory_and_cores(roots: tuple[Path, Path]) -> None:
    proc, cgroups = roots
    (proc / "self" / "cgroup").write_text("0::/batch/job\n")
    write(
        cgroups / "batch" / "job",
        cpu__max="250000 100000\n",
        memory__max=f"{8 * GIB}\n",
        memory__current=f"{5 * GIB}\n",
        memory__stat=f"anon 5\ninactive_file {GIB}\nactive_file 7\n",
    )
    machine = detect(proc=proc, cgroups=cgroups)
    assert machine.logical_cores == 3  # two and a half, rounded up
    assert machine.physical_cores == 3
    assert (machine.memory_bytes, machine.available_bytes) == (8 * GIB, 4 * GIB)


def test_the_tightest_enclosing_group_counts(roots: tuple[Path, Path]) -> None:
    proc, cgroups = roots
    (proc / "self" / "cgroup").write_text("0::/batch/job\n")
    write(cgroups / "batch" / "job", memory__max="max\n", cpu__max="max 100000\n")
    write(cgroups / "batch", memory__max=f"{2 * GIB}\n", memory__current=f"{3 * GIB}\n")
    write(cgroups, cpu__max="50000 100000\n")
    machine = detect(proc=proc, cgroups=cgroups)
    assert machine.logical_cores == 1
    assert (machine.memory_bytes, machine.available_bytes) == (2 * GIB, 0)


def test_version_1_groups(roots: tuple[Path, Path]) -> None:
    proc, cgroups = roots
    lines = "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n1:name=systemd:/\n0::/\n"
    (proc / "self" / "cgroup").write_text(lines)
    # Inside a container the kernel's path does not exist below the mount: its root counts.
    write(
        cgroups / "memory",
        memory__limit_in_bytes=f"{16 * GIB}\n",
        memory__usage_in_bytes=f"{4 * GIB}\n",
        memory__stat=f"inactive_file 1\ntotal_inactive_file {2 * GIB}\n",
    )
    quota = {"cpu__cfs_quota_us": "200000\n", "cpu__cfs_period_us": "100000\n"}
    write(cgroups / "cpu,cpuacct", **quota)
    machine = detect(proc=proc, cgroups=cgroups)
    assert machine.logical_cores == 2
    assert (machine.memory_bytes, machine.available_bytes) == (16 * GIB, 14 * GIB)


def test_version_1_without_limits(roots: tuple[Path, Path]) -> None:
    proc, cgroups = roots
    (proc / "self" / "cgroup").write_text("4:memory:/\n3:cpu:/\n")
    write(cgroups / "memory", memory__limit_in_bytes="9223372036854771712\n")
    write(cgroups / "cpu", cpu__cfs_quota_us="-1\n", cpu__cfs_period_us="100000\n")
    machine = detect(proc=proc, cgroups=cgroups)
    assert (machine.logical_cores, machine.memory_bytes) == (8, 64 * GIB)


# --- GPUs -----------------------------------------------------------------------------------------


class FakeNvml:
    """Stands in for `pynvml`, with two GPUs."""

    class NVMLError(Exception):
        pass

    def __init__(self, *, fails_at: str = "") -> None:
        self.fails_at = fails_at
        self.is_open = False

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name == self.fails_at:
            return self._fail
        answers: dict[str, Any] = {
            "nvmlDeviceGetCount": lambda: 2,
            "nvmlDeviceGetHandleByIndex": lambda i: i,
            "nvmlDeviceGetUUID": lambda i: f"GPU-{'ab'[i]}000",
            "nvmlDeviceGetName": lambda i: b"Old" if i else "NVIDIA New",
            "nvmlDeviceGetMemoryInfo": lambda i: SimpleNamespace(
                total=80 * GIB, free=(9 - i) * GIB
            ),
            "nvmlDeviceGetCudaComputeCapability": lambda i: (9 - i, 0),
        }
        return answers[name]

    def _fail(self, *arguments: object) -> None:
        raise self.NVMLError

    def nvmlInit(self) -> None:  # the name is NVML's
        if self.fails_at == "init":
            raise self.NVMLError
        self.is_open = True

    def nvmlShutdown(self) -> None:
        self.is_open = False


def gpus_of(monkeypatch: pytest.MonkeyPatch, nvml: FakeNvml, visible: str | None) -> list[str]:
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = detect().gpus
    assert not nvml.is_open
    return [gpu.name for gpu in found]


def test_no_nvml_means_no_gpu() -> None:
    assert detect().gpus == ()


def test_gpus_are_described(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpus_of(monkeypatch, FakeNvml(), None) == ["NVIDIA New", "Old"]
    first = detect().gpus[0]
    assert (first.memory_bytes, first.free_bytes) == (80 * GIB, 9 * GIB)
    assert first.compute_capability == "9.0"


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        ("", []),
        ("-1", []),
        ("1", ["Old"]),
        ("1,0", ["Old", "NVIDIA New"]),
        ("0,7,1", ["NVIDIA New"]),
        ("GPU-b", ["Old"]),
        ("GPU-x", []),
    ],
)
def test_hidden_gpus_do_not_count(
    monkeypatch: pytest.MonkeyPatch, visible: str, names: list[str]
) -> None:
    assert gpus_of(monkeypatch, FakeNvml(), visible) == names


@pytest.mark.parametrize("fails_at", ["init", "nvmlDeviceGetCount", "nvmlDeviceGetMemoryInfo"])
def test_a_broken_driver_means_no_gpu(monkeypatch: pytest.MonkeyPatch, fails_at: str) -> None:
    assert gpus_of(monkeypatch, FakeNvml(fails_at=fails_at), None) == []
