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


def test_a_share_of_the_size_is_told_as_times_smaller() -> None:
    with pytest.raises(ValidationError, match=r"above 1: for 80 % of the size give 1\.25"):
        Limits(target_ratio=0.8)
    with pytest.raises(ValidationError, match="how many times smaller the files are to be: above"):
        Limits(target_ratio=-2)
    assert Limits(target_ratio=1.25).target_ratio == 1.25
