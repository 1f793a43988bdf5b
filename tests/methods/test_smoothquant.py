"""SmoothQuant keeps the contract; what it cannot do is refused at planning time."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest

from paredown.errors import ConfigError
from paredown.methods import registry
from paredown.spec.infer import infer_spec
from paredown.spec.model import ModelSpec
from paredown.spec.strategy import parse_strategy
from paredown.spec.target import Target
from paredown.testing.conformance import MethodConformance
from paredown.testing.tiny import tiny_model


class TestSmoothquant(MethodConformance):
    method_name = "smoothquant"


class TestSmoothquantQwen2(MethodConformance):
    """Biases on q, k and v."""

    method_name = "smoothquant"
    params: ClassVar[dict[str, Any]] = {"strength": 0.8}
    family = "qwen2"


@pytest.mark.slow
class TestSmoothquantQwen3(MethodConformance):
    method_name = "smoothquant"
    family = "qwen3"


class TestSmoothquantGemma2(MethodConformance):
    """Norms that add 1 to their gain, and norms on both sides."""

    method_name = "smoothquant"
    family = "gemma2"


def check(strategy: str, spec: ModelSpec) -> ModelSpec:
    return registry.check(parse_strategy(strategy), spec, Target())


def test_weights_take_one_byte_and_a_scale_per_row(tmp_path: Path) -> None:
    spec = infer_spec(tiny_model(tmp_path, tokenizer=False))
    after = check("smoothquant", spec)
    linears = [spec.by_name[f"{name}.weight"] for name in spec.structure.linears]
    saved = sum(t.numel for t in linears) - 2 * sum(t.shape[0] for t in linears)
    assert spec.weight_bytes - after.weight_bytes == saved


@pytest.mark.parametrize(
    ("family", "message"), [("gpt2", "Conv1D.*use int8"), ("opt", "one activation scale")]
)
def test_families_that_cannot_be_are_refused(tmp_path: Path, family: str, message: str) -> None:
    spec = infer_spec(tiny_model(tmp_path, family, tokenizer=False))
    with pytest.raises(ConfigError, match=message):
        check("smoothquant", spec)


def test_skipping_all_that_can_be_smoothed_is_refused(tmp_path: Path) -> None:
    spec = infer_spec(tiny_model(tmp_path, tokenizer=False))
    with pytest.raises(ConfigError, match=r"no norm or layer is left.*use rtn\(bits=8\)"):
        check('smoothquant(skip=["q_proj", "v_proj", "up_proj"])', spec)
    with pytest.raises(ConfigError, match="no layer to quantize"):
        check('smoothquant(skip=["*"])', spec)
