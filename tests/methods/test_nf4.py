"""NF4 keeps the contract, to the byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from paredown.artifact.checkpoint import Checkpoint
from paredown.errors import ConfigError, MethodError, StrategyError
from paredown.hardware.detect import Machine
from paredown.methods import registry
from paredown.methods.recommend import recommend
from paredown.methods.shared.bitsandbytes import STATE_BYTES
from paredown.runtimes.torch.load import load_dense
from paredown.search.enumerated import Enumerated
from paredown.spec.infer import infer_spec
from paredown.spec.model import ModelSpec, TensorInfo
from paredown.spec.strategy import parse_strategy
from paredown.spec.target import Device, Target
from paredown.testing.conformance import MethodConformance
from paredown.testing.tiny import tiny_model
from tests.kernels import AVX512, fake_kernel

_LEVELS = [
    -1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0.0,
    0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0,
]  # fmt: skip
"""The sixteen values of NF4, from appendix E of arXiv:2305.14314."""


MACHINE = Machine(
    system="Linux x86_64", cpu="any", physical_cores=2, logical_cores=2, memory_bytes=10**10,
    available_bytes=10**10, flags=(),
)  # fmt: skip
EVEN: dict[str, Any] = {"intermediate_size": 192}
"""Sizes that bitsandbytes' NF4 kernels take on every processor: tiny models are 160 wide."""


class TestNf4(MethodConformance):
    method_name = "nf4"
    sizes = EVEN


@pytest.mark.slow
class TestNf4Single(MethodConformance):
    method_name = "nf4"
    params: ClassVar[dict[str, Any]] = {"double_quant": False}
    sizes = EVEN


@pytest.mark.slow
class TestNf4Opt(MethodConformance):
    """Biases everywhere; tensors stored without the base model's prefix."""

    method_name = "nf4"
    family = "opt"
    sizes: ClassVar[dict[str, Any]] = {"ffn_dim": 192}


@pytest.mark.slow
class TestNf4Gpt2(MethodConformance):
    """Conv1D: stored transposed."""

    method_name = "nf4"
    family = "gpt2"
    dtype = torch.float32


def compress(folder: Path, out: Path, strategy: str) -> Checkpoint:
    ((method, params),) = registry.resolve(parse_strategy(strategy))
    out.mkdir()
    context = MethodConformance().context(out.parent)
    method.apply(Checkpoint(folder), out, params, context)
    return Checkpoint(out)


def test_every_weight_is_a_level_times_the_largest_of_its_block(tmp_path: Path) -> None:
    from bitsandbytes.functional import dequantize_4bit

    source = Checkpoint(
        tiny_model(tmp_path / "model", dtype=torch.float32, tokenizer=False, **EVEN)
    )
    out = compress(source.folder, tmp_path / "out", "nf4(double_quant=False)")
    model = load_dense(out.folder, dtype=torch.float32)
    name = "model.layers.1.mlp.up_proj"
    held = model.get_submodule(name).weight
    # Not by a product, which some processors compute in bfloat16.
    found = dequantize_4bit(held.data, held.quant_state).reshape(-1, 64)
    weight = source.read(f"{name}.weight").reshape(-1, 64)
    largest = weight.abs().amax(1, keepdim=True)
    levels = torch.tensor(_LEVELS)
    nearest = levels[((weight / largest)[..., None] - levels).abs().argmin(-1)] * largest
    torch.testing.assert_close(found, nearest, rtol=1e-5, atol=1e-6)


def test_the_length_of_a_description_does_not_depend_on_the_weights(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model", tokenizer=False, **EVEN)
    out = compress(folder, tmp_path / "out", "nf4")
    states = [out.read(n) for n in out.names if "quant_state" in n]
    assert {len(s) for s in states} == {STATE_BYTES}
    texts = [bytes(s.tolist()).decode() for s in states]
    assert len({len(t.rstrip()) for t in texts}) > 1  # without filling they differ
    assert all(json.loads(t)["quant_type"] == "nf4" for t in texts)


def test_shapes_are_told_from_the_files(tmp_path: Path) -> None:
    spec = infer_spec(tiny_model(tmp_path / "model", tokenizer=False))
    out = compress(tmp_path / "model", tmp_path / "out", 'nf4(skip=["down_proj"])')
    predicted = registry.check(parse_strategy('nf4(skip=["down_proj"])'), spec, Target())
    assert out.spec.packed_shapes == predicted.packed_shapes
    assert out.spec.packed_shapes["model.layers.0.mlp.up_proj"] == (160, 64)
    assert "model.layers.0.mlp.down_proj" not in out.spec.packed_shapes


def test_skipping_everything_is_refused(tmp_path: Path) -> None:
    spec = infer_spec(tiny_model(tmp_path / "model", tokenizer=False))
    with pytest.raises(ConfigError, match="no layer to quantize"):
        registry.check(parse_strategy('nf4(skip=["*"])'), spec, Target())


def test_experts_are_refused(tmp_path: Path) -> None:
    spec = infer_spec(tiny_model(tmp_path / "model", tokenizer=False))
    mixture = spec.model_copy(update={"experts": 4})
    with pytest.raises(ConfigError, match="nf4 does not handle experts"):
        registry.check(parse_strategy("nf4"), mixture, Target())


def refused(spec: ModelSpec, strategy: str, device: Device = "cpu") -> str:
    """Why planning refuses a strategy."""
    with pytest.raises(ConfigError) as caught:
        registry.check(parse_strategy(strategy), spec, Target(device=device))
    return str(caught.value)


def test_a_width_that_the_kernel_does_not_compute_is_refused_with_what_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_kernel(tmp_path, monkeypatch, answer=AVX512)
    spec = infer_spec(tiny_model(tmp_path / "model", tokenizer=False))
    why = (
        "this processor's kernel needs widths in multiples of 64; model.layers.0.mlp.down_proj has "
        '160 (bitsandbytes: RuntimeError: invalid for input of size); use skip=["*.down_proj"] or '
        "gptq(bits=4, group_size=32)"
    )
    assert refused(spec, "nf4") == f"nf4: {why}"
    assert refused(spec, "qlora") == f"qlora: {why} > lora"
    for mend in ('nf4(skip=["*.down_proj"])', "gptq(bits=4, group_size=32)"):
        registry.check(parse_strategy(mend), spec, Target())


def test_rows_that_the_kernel_does_not_compute_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_kernel(tmp_path, monkeypatch, answer=AVX512)
    folder = tiny_model(tmp_path / "model", tokenizer=False, num_key_value_heads=1, **EVEN)
    found = refused(infer_spec(folder), 'nf4(skip=["mlp.*"])', "cuda")
    assert "this GPU's kernel needs rows in multiples of 32; model.layers.0.self_attn.k_" in found
    assert 'use skip=["mlp.*", "*.k_proj", "*.v_proj"] or gptq(bits=4, group_size=64)' in found


def test_what_a_pruning_step_leaves_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """192 wide is right, 96 is not; and the other way round from 160 to 128."""
    fake_kernel(tmp_path, monkeypatch, answer=AVX512)
    even = infer_spec(tiny_model(tmp_path / "even", tokenizer=False, **EVEN))
    odd = infer_spec(tiny_model(tmp_path / "odd", tokenizer=False))
    registry.check(parse_strategy("nf4"), even, Target())
    assert "down_proj has 96" in refused(even, "l2_structured(ratio=0.5) > nf4")
    registry.check(parse_strategy("l2_structured(ratio=0.2) > nf4"), odd, Target())


def test_a_crash_of_the_kernel_is_a_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_kernel(tmp_path, monkeypatch, crashes=((64, 160),))
    spec = infer_spec(tiny_model(tmp_path / "model", tokenizer=False))
    assert (
        "does not compute model.layers.0.mlp.down_proj, a matrix of 64 x 160 "
        "(bitsandbytes: crashes (SIGSEGV))"
    ) in refused(spec, "int8")
    assert refused(spec, "int8").endswith("or rtn(bits=8, group_size=32)")


def test_where_all_layers_are_refused_only_another_method_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_kernel(tmp_path, monkeypatch, answer='"no kernel"')
    spec = infer_spec(tiny_model(tmp_path / "model", tokenizer=False))
    assert refused(spec, "nf4").endswith("no kernel); use gptq(bits=4, group_size=32)")


def test_search_and_recommendations_leave_out_what_the_kernel_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = infer_spec(tiny_model(tmp_path / "model", dtype=torch.float32, tokenizer=False))
    fake_kernel(tmp_path / "willing", monkeypatch)
    assert any(r.strategy.endswith("int8") for r in recommend(spec, MACHINE))
    fake_kernel(tmp_path / "unwilling", monkeypatch, answer='"no kernel"')
    assert not any(r.strategy.endswith("int8") for r in recommend(spec, MACHINE))
    space = Enumerated.build(spec, Target(), methods=("rtn", "hqq"), max_steps=1)
    assert space.strategies
    with pytest.raises(StrategyError, match=r"nf4 cannot run on this model: .*no kernel"):
        Enumerated.build(spec, Target(), methods=("rtn", "nf4"), max_steps=1)


def test_listings_ask_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = fake_kernel(tmp_path, monkeypatch, fails=True)
    for name in registry.names():
        registry.load(name)
    registry.label(parse_strategy("nf4 > lora"))
    assert fake.starts == 0


class TestLayersThatAreLeftAlone:
    """bitsandbytes would leave them as they are, and the artifact would pass as quantized."""

    @pytest.mark.parametrize("strategy", ["nf4", "int8"])
    def test_subclasses_of_linear_are_refused(self, strategy: str, tmp_path: Path) -> None:
        folder = tiny_model(tmp_path / "model", "falcon", tokenizer=False)
        assert f"{strategy} would quantize nothing" in refused(infer_spec(folder), strategy)
        with pytest.raises(MethodError, match=r"dense_4h_to_h: .*not quantized this FalconLin"):
            compress(folder, tmp_path / "out", strategy)

    @pytest.mark.parametrize("strategy", ["nf4", "int8", "qlora"])
    def test_a_model_that_is_mostly_something_else_is_refused(
        self, strategy: str, tmp_path: Path
    ) -> None:
        spec = infer_spec(tiny_model(tmp_path / "model", tokenizer=False))
        stacks = [
            TensorInfo(name=f"{block.prefix}.stack.weight", dtype="BF16", shape=(16, 512, 64))
            for block in spec.structure.blocks
        ]
        found = refused(spec.with_tensors([*spec.tensors, *stacks]), strategy)
        assert "of the weights of its blocks are in no layer" in found
        assert "stack.weight' of shape (16, 512, 64)" in found
