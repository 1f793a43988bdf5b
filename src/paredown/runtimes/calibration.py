"""What this machine really reaches, measured once and kept: bandwidths, compute, fixed costs.

Predictions for other devices start from nominal figures; for this one they start from here. The
measuring is done in a process of its own, of torch by `paredown.runtimes.torch.calibrate`, of an
engine with files of its own by `paredown.pipeline.calibrating`; nothing here imports torch.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from paredown.errors import ConfigError
from paredown.hardware.detect import Machine
from paredown.hardware.timing import CALIBRATED_ERROR, CATALOGUE_ERROR, Rates
from paredown.spec.reading import read_json
from paredown.store.atomic import write_json
from paredown.store.home import home

TIMEOUT_S = 900.0
DISTURBED = 0.2
"""Share of the processors that other work may take before a calibration is called disturbed."""
TORCH = "torch"
_SAME = {"transformers": TORCH}
"""Runtimes that compute with another's kernels."""


class Calibration(BaseModel):
    """What an engine reaches on this machine's processor."""

    model_config = ConfigDict(
        frozen=True, extra="ignore", use_attribute_docstrings=True, allow_inf_nan=False
    )

    runtime: str = TORCH
    """Engine; transformers computes with torch's kernels."""
    machine: str
    """Id of the machine (`hardware.detect`)."""
    threads: int = Field(ge=1)
    """Of torch; with others it is another machine as far as speed goes."""
    torch: str
    """Version."""
    copy_bytes_s: float = Field(gt=0)
    """Memory copied, reading and writing counted."""
    row_bytes_s: float = Field(gt=0)
    """16-bit weights read by a product with one row."""
    packed_bytes_s: dict[int, float]
    """The same of packed weights, by bits of a code, as they lie in memory."""
    cache_bytes_s: float = Field(gt=0)
    """Keys and values read while decoding; engines that copy them are slower by that."""
    few_ops_s: float = Field(gt=0)
    """Operations of a 16-bit product with 4 rows: those of a small batch."""
    few_packed_ops_s: float = Field(gt=0)
    """The same with weights packed in 4 bits."""
    dense_ops_s: float = Field(gt=0)
    """Operations of a 16-bit product with 256 rows."""
    packed_ops_s: float = Field(gt=0)
    """The same of packed weights, once they are unpacked."""
    unpack_s: float = Field(gt=0)
    """Packed weights unpacked for a long prompt, per second."""
    layer_s: float = Field(ge=0)
    """Of one more layer of no size while decoding."""
    step_s: float = Field(ge=0)
    """Of a step beside its layers."""
    process_bytes: float = Field(gt=0)
    """Resident memory of a process that has served a model of no size."""
    others: float = Field(default=0.0, ge=0)
    """Share of all processors that other processes took while it was measured."""

    @property
    def is_disturbed(self) -> bool:
        """Whether other work was done meanwhile, so that the machine can do better."""
        return self.others > DISTURBED

    @property
    def rates(self) -> Rates:
        """For the time model."""
        return Rates(
            bandwidth=self.row_bytes_s,
            packed=self.packed_bytes_s,
            cache=self.cache_bytes_s,
            compute={
                **dict.fromkeys(("16", "int8", "fp8"), self.dense_ops_s),
                "packed": self.packed_ops_s,
            },
            few={"dense": self.few_ops_s, "packed": self.few_packed_ops_s},
            unpack=self.unpack_s,
            layer_s=self.layer_s,
            step_s=self.step_s,
            error=CATALOGUE_ERROR if self.is_disturbed else CALIBRATED_ERROR,
        )


def threads() -> int | None:
    """Threads that torch will be told to use; None: as many as it likes."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    return int(told) if told.isdigit() and int(told) > 0 else None


def kept(machine: Machine, runtime: str = TORCH) -> Calibration | None:
    """The calibration of an engine on this machine with these threads; None where it was never
    measured, or what was kept is damaged."""
    path = _path(machine, runtime)
    if not path.is_file():
        return None
    try:
        return Calibration.model_validate(read_json(path))
    except (ConfigError, ValidationError):  # it is measured again when it is asked for
        return None


def calibrate(machine: Machine, runtime: str = TORCH) -> Calibration:
    """Measure an engine on this machine and keep what was found: half a minute for torch, one to
    two for another, more where others work too.

    Raises:
        ConfigError: the measuring process failed, with its last words.
    """
    runtime = _SAME.get(runtime, runtime)
    # By name alone: what measures an engine drives it, and stands above this package.
    module = (
        ["paredown.runtimes.torch.calibrate"]
        if runtime == TORCH
        else ["paredown.pipeline.calibrating", runtime]
    )
    with tempfile.TemporaryDirectory(prefix="paredown-calibrate-") as folder:
        out = Path(folder) / "found.json"
        before = _Clocks.now()
        try:
            done = subprocess.run(
                [sys.executable, "-m", *module, str(out)],
                capture_output=True,
                check=False,
                timeout=TIMEOUT_S,
            )
        except subprocess.TimeoutExpired:
            raise ConfigError(f"calibrating took more than {TIMEOUT_S:.0f} s; try again when this "
                              "machine has less to do") from None  # fmt: skip
        if done.returncode or not out.is_file():
            words = done.stderr.decode(errors="replace").strip().splitlines()
            last = words[-1] if words else f"exit code {done.returncode}"
            raise ConfigError(f"calibrating failed: {last}")
        others = _Clocks.now().others_since(before)
        figures = {**read_json(out), "machine": machine.id, "others": others}
        found = Calibration.model_validate(figures)
    write_json(_path(machine, runtime), found.model_dump(mode="json"))
    return found


@dataclass(frozen=True)
class _Clocks:
    """Processor seconds of everything on the machine, and of ended children of this process."""

    wall: float
    machine: float
    children: float

    @classmethod
    def now(cls) -> _Clocks:
        """As they stand."""
        used = psutil.cpu_times()
        own = psutil.Process().cpu_times()
        busy = used.user + used.system + getattr(used, "nice", 0.0)  # polite work is work, too
        return cls(time.monotonic(), busy, own.children_user + own.children_system)

    def others_since(self, before: _Clocks) -> float:
        """Share of all processors that neither was idle nor worked for a child."""
        spent = self.machine - before.machine - (self.children - before.children)
        return max(spent, 0.0) / ((self.wall - before.wall) * (psutil.cpu_count() or 1))


def _path(machine: Machine, runtime: str) -> Path:
    name = _SAME.get(runtime, runtime)
    which = "" if name == TORCH else f"-{name}"
    return home() / "calibration" / f"{machine.id}-{threads() or 'all'}{which}.json"
