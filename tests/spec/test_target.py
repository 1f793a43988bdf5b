"""What a target may be."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from paredown.spec.target import Limits, Target


@pytest.mark.parametrize(
    "bad",
    [
        {"max_memory_gb": 0}, {"max_memory_gb": -1}, {"max_accuracy_loss": -0.1},
        {"min_speedup": 0}, {"target_ratio": 1}, {"max_memory": 2},
    ],
)  # fmt: skip
def test_limits_that_make_no_sense(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Limits.model_validate(bad)


def test_devices_and_runtimes() -> None:
    assert Target().device == "cpu"
    with pytest.raises(ValidationError):
        Target.model_validate({"device": "tpu"})
    assert Target().runtime == "torch"
