"""Checking many strategies at once gives what checking each alone gives, with less work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from paredown.errors import ConfigError, StrategyError
from paredown.methods import registry
from paredown.methods.gptq import Gptq
from paredown.spec.infer import infer_spec
from paredown.spec.model import ModelSpec, TensorInfo, tensor_info
from paredown.spec.strategy import parse_strategy
from paredown.spec.target import Target
from paredown.testing.tiny import tiny_model
from tests.kernels import fake_kernel

STRATEGIES = [
    "gptq(group_size=32)",
    "rtn(group_size=32) > lora",
    "l2_structured(ratio=0.3) > gptq(group_size=32)",
    "structured_afr(ratio=0.3) > gptq(group_size=32)",
    'l2_structured(ratio=0.4, scope="global") > gptq(group_size=32)',
    "wanda > gptq(group_size=32)",
    'wanda(storage="sparse")',
    "heads(ratio=0.5) > depth(ratio=0.5) > nf4",
    "gptq(group_size=32, embedding_bits=8, symmetric=false)",
]
REFUSED = [
    "gptq(group_size=64)",
    "rtn(group_size=32) > gptq(group_size=32)",
    'wanda(storage="sparse") > rtn(group_size=32)',
    "l2_structured(ratio=0.9)",
]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    return infer_spec(tiny_model(tmp_path_factory.mktemp("llama"), tokenizer=False))


def test_together_as_alone(
    llama: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_kernel(tmp_path, monkeypatch)  # some processors' NF4 kernel would refuse these widths
    planner = registry.Planner(llama, Target())
    for _ in range(2):  # the second time from memory
        for text in STRATEGIES:
            strategy = parse_strategy(text)
            together = planner.check(strategy)
            alone = registry.check(strategy, llama, Target())
            assert together == alone
            assert together.structure == alone.structure
        for text in REFUSED:
            strategy = parse_strategy(text)
            with pytest.raises(ConfigError) as together_refused:
                planner.check(strategy)
            with pytest.raises(ConfigError) as alone_refused:
                registry.check(strategy, llama, Target())
            assert str(together_refused.value) == str(alone_refused.value)
            assert type(together_refused.value) is type(alone_refused.value)


def test_what_strategies_share_is_worked_out_once(
    llama: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[ModelSpec] = []
    predict = Gptq.predict

    def watched(self: Gptq, spec: ModelSpec, params: Any) -> ModelSpec:
        asked.append(spec)
        return predict(self, spec, params)

    monkeypatch.setattr(Gptq, "predict", watched)
    planner = registry.Planner(llama, Target())
    for method in ("l2_structured", "random_structured", "structured_afr", "wanda_sp"):
        planner.check(parse_strategy(f"{method}(ratio=0.3) > gptq(group_size=32)"))
    assert len(asked) == 1  # the same widths, whatever score chose the neurons
    planner.check(parse_strategy("gptq(group_size=32)"))
    planner.check(parse_strategy("wanda > gptq(group_size=32)"))
    assert len(asked) == 2  # a dense mask changes no tensor
    planner.check(parse_strategy("l2_structured(ratio=0.4) > gptq(group_size=32)"))
    assert len(asked) == 3


def test_wrong_parameters_come_before_what_cannot_work(llama: ModelSpec) -> None:
    planner = registry.Planner(llama, Target())
    with pytest.raises(StrategyError, match="no parameter 'bitz'"):
        planner.check(parse_strategy("gptq(group_size=64) > rtn(bitz=4)"))


def test_a_changed_copy_of_a_spec_knows_nothing_old(llama: ModelSpec) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    before = llama.weight_bytes, llama.by_name[name].shape, len(llama.structure.blocks)
    llama.derived["something"] = 1
    fewer = tuple(t for t in llama.tensors if ".layers.1." not in t.name)
    changed = llama.model_copy(update={"tensors": fewer})
    assert changed.weight_bytes < before[0]
    assert len(changed.structure.blocks) == before[2] - 1
    assert "something" not in changed.derived
    assert (llama.weight_bytes, llama.by_name[name].shape, len(llama.structure.blocks)) == before


def test_tensors_of_the_same_words_are_the_same() -> None:
    one = tensor_info("a.weight", "BF16", (3, 4))
    assert one is tensor_info("a.weight", "BF16", (3, 4))
    assert one == TensorInfo(name="a.weight", dtype="BF16", shape=(3, 4))
    assert one.nbytes == 24
    assert tensor_info("a.weight", "F32", (3, 4)).nbytes == 48
