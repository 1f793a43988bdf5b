"""Every built-in method keeps the contract; what it cannot do is refused at planning time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from paredown.artifact.checkpoint import Checkpoint
from paredown.errors import ConfigError, GroupSizeError, StrategyError
from paredown.methods import registry
from paredown.methods.base import Context
from paredown.runtimes.torch.load import load_dense
from paredown.spec.infer import infer_spec
from paredown.spec.model import ModelSpec
from paredown.spec.strategy import parse_strategy
from paredown.spec.target import Target
from paredown.store.cache import Cache
from paredown.testing.conformance import MethodConformance
from paredown.testing.tiny import tiny_config, tiny_model


class TestRtn(MethodConformance):
    method_name = "rtn"
    params: ClassVar[dict[str, Any]] = {"bits": 4, "group_size": 32}


@pytest.mark.slow
class TestRtn3Bit(MethodConformance):
    method_name = "rtn"
    params: ClassVar[dict[str, Any]] = {"bits": 3, "group_size": 16}


class TestRtn8BitRows(MethodConformance):
    method_name = "rtn"
    params: ClassVar[dict[str, Any]] = {"bits": 8, "group_size": -1}


@pytest.mark.slow
class TestRtnAsymmetric(MethodConformance):
    method_name = "rtn"
    params: ClassVar[dict[str, Any]] = {"bits": 5, "group_size": 32, "symmetric": False}


class TestRtnQwen2(MethodConformance):
    """Biases on q, k and v."""

    method_name = "rtn"
    params: ClassVar[dict[str, Any]] = {"bits": 4, "group_size": 32, "symmetric": False}
    family = "qwen2"


class TestRtnOpt(MethodConformance):
    """Biases everywhere, learned positions, fc1 and fc2."""

    method_name = "rtn"
    params: ClassVar[dict[str, Any]] = {"bits": 8, "group_size": 32}
    family = "opt"


class TestRtnQwen3(MethodConformance):
    """Norms inside the attention."""

    method_name = "rtn"
    params: ClassVar[dict[str, Any]] = {"bits": 4, "group_size": 32}
    family = "qwen3"


class TestRtnGemma2(MethodConformance):
    """Two kinds of masks, norms on both sides, soft-capped logits, tied embeddings."""

    method_name = "rtn"
    params: ClassVar[dict[str, Any]] = {"bits": 4, "group_size": 32}
    family = "gemma2"


@pytest.mark.slow
class TestRtnMistral(MethodConformance):
    method_name = "rtn"
    params: ClassVar[dict[str, Any]] = {"bits": 2, "group_size": 32}
    family = "mistral"


@pytest.mark.slow
class TestRtnMixedBits(MethodConformance):
    method_name = "rtn"
    params: ClassVar[dict[str, Any]] = {
        "bits": 4,
        "group_size": 32,
        "plan": {"*.down_proj": 8, "*.1.self_attn.*": 16, "q_proj": 3},
    }


class TestRtnEmbedding(MethodConformance):
    method_name = "rtn"
    params: ClassVar[dict[str, Any]] = {"bits": 4, "group_size": 32, "embedding_bits": 8}

    def test_plain_transformers_refuses_instead_of_inventing_an_embedding(
        self, tmp_path: Path
    ) -> None:
        source = Checkpoint(tiny_model(tmp_path / "model"))
        method = registry.load("rtn")
        settings = method.params_type.model_validate(self.params)
        out, _ = self.run(method, source, settings, tmp_path, "out")
        with pytest.raises(ValueError, match="quant_method"):
            load_dense(out)

    def test_the_packed_embedding_counts_as_what_it_stands_for(self, tmp_path: Path) -> None:
        source = Checkpoint(tiny_model(tmp_path / "model"))
        method = registry.load("rtn")
        settings = method.params_type.model_validate(self.params)
        out, _ = self.run(method, source, settings, tmp_path, "out")
        assert Checkpoint(out).spec.parameters == source.spec.parameters


@pytest.mark.slow
class TestRtnEmbedding4BitGemma2(MethodConformance):
    """Tied, with a factor on the embedding."""

    method_name = "rtn"
    params: ClassVar[dict[str, Any]] = {"bits": 8, "group_size": 32, "embedding_bits": 4}
    family = "gemma2"


@pytest.mark.slow
class TestRtnEmbedding6BitOpt(MethodConformance):
    """Learned positions stay as they are; codes in two halves."""

    method_name = "rtn"
    params: ClassVar[dict[str, Any]] = {
        "bits": 4,
        "group_size": 32,
        "embedding_bits": 6,
        "plan": {"fc2": 16},
    }
    family = "opt"


class TestGptqPlan(MethodConformance):
    """Siblings with one input and different bits."""

    method_name = "gptq"
    params: ClassVar[dict[str, Any]] = {
        "bits": 4,
        "group_size": 32,
        "plan": {"v_proj": 8, "*.0.mlp.*": 3},
        "embedding_bits": 8,
    }


class TestGptq(MethodConformance):
    method_name = "gptq"
    params: ClassVar[dict[str, Any]] = {"bits": 4, "group_size": 32}


class TestGptqAsymmetric(MethodConformance):
    method_name = "gptq"
    params: ClassVar[dict[str, Any]] = {"bits": 3, "group_size": 16, "symmetric": False}


@pytest.mark.slow
class TestGptqStoredOrder(MethodConformance):
    method_name = "gptq"
    params: ClassVar[dict[str, Any]] = {"bits": 4, "group_size": -1, "act_order": False}


@pytest.mark.slow
class TestGptqGemma2(MethodConformance):
    method_name = "gptq"
    params: ClassVar[dict[str, Any]] = {"bits": 4, "group_size": 32}
    family = "gemma2"

    def test_a_second_trial_does_not_measure_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Other bits on the same text read the Hessians; the same request reads the results."""
        source = Checkpoint(tiny_model(tmp_path / "model", tokenizer=False))
        method = registry.load("gptq")
        context = self.context(tmp_path)
        fresh = self.context(tmp_path, cache=Cache(tmp_path / "empty"))

        def run(name: str, bits: int, context: Context) -> Checkpoint:
            out = tmp_path / name
            out.mkdir()
            settings = method.params_type.model_validate({"bits": bits, "group_size": 32})
            method.apply(source, out, settings, context)
            return Checkpoint(out)

        first, uncached = run("four", 4, context), run("three-uncached", 3, fresh)
        monkeypatch.setattr("paredown.blocks.hessians.HessianBank._measure", None)
        three = run("three", 3, context)
        assert all(torch.equal(three.read(n), uncached.read(n)) for n in uncached.names)
        monkeypatch.setattr("paredown.ops.grids.solve", None)
        again = run("four-again", 4, context)
        assert all(torch.equal(again.read(n), first.read(n)) for n in first.names)
        with pytest.raises(TypeError, match="not callable"):  # another text is another Hessian
            run("other", 4, replace(context, calibration=lambda: torch.ones(4, 32).long()))


class TestRtnRowsOfAnyWidth(MethodConformance):
    """What the refusal of a group size advises; torch's int8 kernel reads beyond such rows."""

    method_name = "rtn"
    params: ClassVar[dict[str, Any]] = {"bits": 8, "group_size": -1}
    sizes: ClassVar[dict[str, Any]] = {"intermediate_size": 75}


class TestInt8(MethodConformance):
    method_name = "int8"


class TestL2Structured(MethodConformance):
    method_name = "l2_structured"
    params: ClassVar[dict[str, Any]] = {"ratio": 0.3}


class TestL2StructuredQwen2(MethodConformance):
    method_name = "l2_structured"
    params: ClassVar[dict[str, Any]] = {"ratio": 0.3}
    family = "qwen2"


class TestL2StructuredOpt(MethodConformance):
    """Neurons with a bias."""

    method_name = "l2_structured"
    params: ClassVar[dict[str, Any]] = {"ratio": 0.3}
    family = "opt"


class TestL2StructuredQwen3(MethodConformance):
    method_name = "l2_structured"
    params: ClassVar[dict[str, Any]] = {"ratio": 0.3}
    family = "qwen3"


class TestL2StructuredGemma2(MethodConformance):
    method_name = "l2_structured"
    params: ClassVar[dict[str, Any]] = {"ratio": 0.3}
    family = "gemma2"


class TestRandomStructured(MethodConformance):
    method_name = "random_structured"
    params: ClassVar[dict[str, Any]] = {"ratio": 0.3}


class TestBf16(MethodConformance):
    method_name = "bf16"
    dtype = torch.float32


class TestFp16(MethodConformance):
    method_name = "fp16"
    dtype = torch.float32


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    return infer_spec(tiny_model(tmp_path_factory.mktemp("llama"), tokenizer=False))


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    return infer_spec(tiny_model(tmp_path_factory.mktemp("gpt2"), "gpt2", tokenizer=False))


def check(strategy: str, spec: ModelSpec) -> ModelSpec:
    return registry.check(parse_strategy(strategy), spec, Target())


@pytest.mark.parametrize("method", ["rtn", "gptq"])
def test_conv1d_is_packed_for_paredown_alone(method: str, gpt2: ModelSpec) -> None:
    assert check(f"{method}(bits=4, group_size=32)", gpt2).quantization == "paredown"


def test_group_size_that_does_not_divide_names_layer_and_fitting_sizes(llama: ModelSpec) -> None:
    with pytest.raises(GroupSizeError, match=r"down_proj.*160 .*groups of 64.*\[32, 16\]"):
        check("rtn(bits=4, group_size=64)", llama)


def test_group_size_may_miss_a_skipped_layer(llama: ModelSpec) -> None:
    check('rtn(bits=4, group_size=64, skip=["down_proj"])', llama)


@pytest.mark.parametrize("size", [0, 8, 15])
def test_tiny_groups_are_refused(llama: ModelSpec, size: int) -> None:
    with pytest.raises(ConfigError, match="16 or more"):
        check(f"rtn(group_size={size})", llama)


@pytest.mark.parametrize("method", ["rtn", "gptq", "int8"])
def test_skip_that_matches_nothing_is_refused(llama: ModelSpec, method: str) -> None:
    size = "" if method == "int8" else "group_size=32, "
    with pytest.raises(ConfigError, match=r"'\*\.dwon_proj' matches no layer"):
        check(f'{method}({size}skip=["*.dwon_proj"])', llama)


@pytest.mark.parametrize("method", ["rtn", "gptq", "int8"])
def test_skipping_everything_is_refused(llama: ModelSpec, method: str) -> None:
    size = "" if method == "int8" else "group_size=32, "
    with pytest.raises(ConfigError, match="no layer to quantize"):
        check(f'{method}({size}skip=["*"])', llama)


def test_ratio_too_large_names_the_largest(llama: ModelSpec) -> None:
    with pytest.raises(ConfigError, match=r"32 of 160 neurons.*ratio <= 0\.60"):
        check("l2_structured(ratio=0.8)", llama)


def test_ratio_too_small_names_the_smallest(llama: ModelSpec) -> None:
    with pytest.raises(ConfigError, match=r"removes nothing of width 160.*ratio >= 0\.2"):
        check("l2_structured(ratio=0.05)", llama)


def test_pruning_after_quantizing_is_refused_with_the_mend(llama: ModelSpec) -> None:
    with pytest.raises(StrategyError, match="put l2_structured before the quantization"):
        check("rtn(group_size=32) > l2_structured(ratio=0.3)", llama)


def test_quantizing_twice_is_refused(llama: ModelSpec) -> None:
    with pytest.raises(StrategyError, match="gptq after rtn: a model is quantized only once"):
        check("rtn(group_size=32) > gptq(group_size=32)", llama)


def test_pruning_then_quantizing_is_predicted(llama: ModelSpec) -> None:
    after = check("l2_structured(ratio=0.3) > rtn(group_size=32)", llama)
    assert after.intermediate_size == 128  # 0.7 x 160 = 112, of which 96 and 128 are as near
    assert after.quantization == "compressed-tensors"


def test_an_already_quantized_model_is_refused(tmp_path: Path) -> None:
    config = tiny_config("llama")
    config.quantization_config = {"quant_method": "gptq", "bits": 4}
    folder = tiny_model(tmp_path / "model", tokenizer=False)
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder)
    spec = Checkpoint(folder).spec
    assert spec.quantization == "gptq"
    with pytest.raises(StrategyError, match="quantized only once"):
        check("rtn(group_size=32)", spec)


def test_cast_to_the_stored_dtype_is_refused(llama: ModelSpec) -> None:
    with pytest.raises(ConfigError, match="already; leave the step out"):
        check("bf16", llama)
    with pytest.raises(ConfigError, match="less range"):
        check("fp16", llama)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rtm", "did you mean 'rtn'"),
        ("rtn(bitz=4)", "no parameter 'bitz'; did you mean 'bits'"),
        ("rtn(bits=9)", "bits = 9.*less than or equal to 8"),
        ("l2_structured(ratio=1)", "ratio = 1.*less than 1"),
        ("gptq(damping=0)", "damping = 0.*greater than 0"),
    ],
)
def test_wrong_parameters_are_named(llama: ModelSpec, text: str, message: str) -> None:
    with pytest.raises(StrategyError, match=message):
        check(text, llama)
