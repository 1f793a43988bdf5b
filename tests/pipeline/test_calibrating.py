"""Bytes that a calibration divides by are those that a prediction multiplies with."""

from __future__ import annotations

import pytest

from paredown.hardware.engines import ENGINES
from paredown.pipeline.calibrating import (
    VOCABULARY,
    WIDE,
    _dense_bits,
    _multiplied,
    bytes_read,
)


@pytest.mark.parametrize(("runtime", "bits"), [("onnxruntime", 32), ("llama.cpp", 16), ("x", 16)])
def test_what_is_not_packed_counts_as_the_engine_holds_it(runtime: str, bits: float) -> None:
    assert _dense_bits(runtime) == bits
    held = ENGINES[runtime].dense_bytes if runtime in ENGINES else None
    assert bits == 8 * (held or 2)


def test_bytes_of_a_step_worked_out_by_hand() -> None:
    head = VOCABULARY * WIDE["hidden_size"]
    blocks = _multiplied() - head
    assert bytes_read(32, 32) == 4 * (blocks + head)
    # Blocks in 4.5 bits, the head in 32.
    assert bytes_read(4.5, 32) == pytest.approx(blocks * 0.5625 + 4 * head)
