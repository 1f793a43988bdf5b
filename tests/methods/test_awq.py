"""AWQ keeps the contract, and moves its factors without changing the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest

from paredown.errors import ConfigError
from paredown.methods import registry
from paredown.spec.infer import infer_spec
from paredown.spec.strategy import parse_strategy
from paredown.spec.target import Target
from paredown.testing.conformance import MethodConformance
from paredown.testing.tiny import tiny_model


class TestAwq(MethodConformance):
    method_name = "awq"
    params: ClassVar[dict[str, Any]] = {"bits": 4, "group_size": 32, "strengths": 4}


class TestAwqNearestGemma2(MethodConformance):
    """Norms that add 1 to their gain, and norms on both sides; embedding packed too."""

    method_name = "awq"
    params: ClassVar[dict[str, Any]] = {
        "bits": 3, "group_size": 16, "rounding": "nearest", "strengths": 4, "symmetric": False,
    }  # fmt: skip
    family = "gemma2"


@pytest.mark.slow
class TestAwqMixedQwen2(MethodConformance):
    """Biases on q, k and v; several widths, one layer left as it is."""

    method_name = "awq"
    params: ClassVar[dict[str, Any]] = {
        "group_size": 32, "strengths": 4, "plan": {"*.down_proj": 8, "*.0.*.up_proj": 16},
    }  # fmt: skip
    family = "qwen2"


@pytest.mark.slow
class TestAwqQwen3(MethodConformance):
    method_name = "awq"
    params: ClassVar[dict[str, Any]] = {"bits": 4, "group_size": 32, "strengths": 4}
    family = "qwen3"


@pytest.mark.slow
class TestAwqMistral(MethodConformance):
    method_name = "awq"
    params: ClassVar[dict[str, Any]] = {"bits": 4, "group_size": -1, "strengths": 4}
    family = "mistral"


@pytest.mark.parametrize("family", ["opt", "phi3"])
def test_unknown_families_are_refused_with_the_mend(tmp_path: Path, family: str) -> None:
    spec = infer_spec(tiny_model(tmp_path, family, tokenizer=False))
    with pytest.raises(ConfigError, match=f"awq: .* layers of {family} factors .* use gptq"):
        registry.check(parse_strategy("awq(group_size=32)"), spec, Target())
