"""What else a machine did while it was calibrated is known."""

from __future__ import annotations

import subprocess
import sys

import pytest

from paredown.hardware.timing import CALIBRATED_ERROR, CATALOGUE_ERROR
from paredown.runtimes.calibration import Calibration, _Clocks

FIGURES = {
    "machine": "m", "threads": 1, "torch": "2", "copy_bytes_s": 1, "row_bytes_s": 1,
    "packed_bytes_s": {}, "cache_bytes_s": 1, "few_ops_s": 1, "few_packed_ops_s": 1,
    "dense_ops_s": 1, "packed_ops_s": 1, "unpack_s": 1, "layer_s": 0, "step_s": 0,
    "process_bytes": 1,
}  # fmt: skip


def test_the_share_of_others_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paredown.runtimes.calibration.psutil.cpu_count", lambda: 2)
    before = _Clocks(wall=10, machine=100, children=4)
    # 10 s of two processors are 20; 14 were used, 8 of them by the child that measured.
    assert _Clocks(wall=20, machine=114, children=12).others_since(before) == pytest.approx(0.3)
    # Clocks of unlike steps never make a share below nothing.
    assert _Clocks(wall=20, machine=107, children=12).others_since(before) == 0


def test_a_childs_own_work_is_not_others() -> None:
    before = _Clocks.now()
    burn = "import time; e = time.process_time() + 0.4\nwhile time.process_time() < e: pass"
    subprocess.run([sys.executable, "-S", "-c", burn], check=True)
    after = _Clocks.now()
    assert after.children - before.children >= 0.39
    assert after.machine - before.machine >= 0.3


def test_a_disturbed_calibration_promises_less() -> None:
    calm, busy = (Calibration.model_validate(FIGURES | {"others": share}) for share in (0.1, 0.5))
    assert (calm.is_disturbed, busy.is_disturbed) == (False, True)
    assert (calm.rates.error, busy.rates.error) == (CALIBRATED_ERROR, CATALOGUE_ERROR)
    assert not Calibration.model_validate(
        FIGURES
    ).is_disturbed  # one that was kept before this was known
