"""HQQ keeps the contract."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from paredown.testing.conformance import MethodConformance


class TestHqq(MethodConformance):
    method_name = "hqq"
    params: ClassVar[dict[str, Any]] = {"bits": 4, "group_size": 32}


class TestHqqOpt(MethodConformance):
    """Symmetric, mixed widths, biases everywhere, embedding packed too."""

    method_name = "hqq"
    params: ClassVar[dict[str, Any]] = {
        "bits": 3, "group_size": 32, "symmetric": True, "plan": {"*.fc1": 8}, "embedding_bits": 8,
    }  # fmt: skip
    family = "opt"


@pytest.mark.slow
class TestHqqGemma2(MethodConformance):
    method_name = "hqq"
    params: ClassVar[dict[str, Any]] = {"bits": 2, "group_size": -1}
    family = "gemma2"
