"""Every family that the project names goes through rounding, GPTQ and neuron pruning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from paredown.artifact.checkpoint import Checkpoint
from paredown.blocks.experts import Experts, separate_experts
from paredown.blocks.probe import probe_tokens
from paredown.errors import ConfigError, MethodError
from paredown.methods import registry
from paredown.runtimes.torch.load import load, load_dense
from paredown.runtimes.torch.proof import probe
from paredown.spec.infer import infer_spec
from paredown.spec.model import ModelSpec, TensorInfo
from paredown.spec.strategy import parse_strategy
from paredown.spec.structure import is_vision
from paredown.spec.target import Target
from paredown.store.cache import Cache
from paredown.testing.conformance import MethodConformance
from paredown.testing.tiny import VOCABULARY, tiny_config, tiny_model

DENSE = ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "gpt2", "opt", "phi3"]
EXPERTS = ["mixtral", "qwen2_moe", "qwen3_moe"]
IMAGES = ["llava"]


def families(names: list[str], quick: set[str]) -> list[Any]:
    """Parameters of a fixture: all but the `quick` ones are slow."""
    return [pytest.param(n, marks=() if n in quick else pytest.mark.slow) for n in names]


class TestRtn(MethodConformance):
    method_name = "rtn"
    params: ClassVar[dict[str, Any]] = {"bits": 4, "group_size": 32}

    @pytest.fixture(
        autouse=True, params=families([*DENSE, *EXPERTS, *IMAGES], {"gpt2", "mixtral", "llava"})
    )
    def _of_family(self, request: pytest.FixtureRequest) -> None:
        type(self).family = request.param


class TestGptq(MethodConformance):
    method_name = "gptq"
    params: ClassVar[dict[str, Any]] = {"bits": 4, "group_size": 32}

    @pytest.fixture(autouse=True, params=families([*DENSE, *EXPERTS, *IMAGES], {"gpt2"}))
    def _of_family(self, request: pytest.FixtureRequest) -> None:
        type(self).family = request.param


class TestL2Structured(MethodConformance):
    method_name = "l2_structured"
    params: ClassVar[dict[str, Any]] = {"ratio": 0.3}

    @pytest.fixture(autouse=True, params=families([*DENSE, *IMAGES], {"gpt2", "phi3"}))
    def _of_family(self, request: pytest.FixtureRequest) -> None:
        type(self).family = request.param


class TestUnevenExperts(MethodConformance):
    """Plain transformers would unpack all experts alike, so the format is paredown's own."""

    method_name = "rtn"
    params: ClassVar[dict[str, Any]] = {
        "bits": 4,
        "group_size": 32,
        "plan": {"*.experts.1.*": 8, "*.experts.2.w1": 16},
    }
    family = "mixtral"


@pytest.mark.slow
class TestMixedBitsWithImages(MethodConformance):
    """Layers have other names in files than in memory, and the config must name both."""

    method_name = "rtn"
    params: ClassVar[dict[str, Any]] = {"bits": 4, "group_size": 32, "plan": {"down_proj": 8}}
    family = "llava"


def apply(strategy: str, folder: Path, out: Path, **changes: Any) -> Path:
    """Run one step on a model folder."""
    ((method, params),) = registry.resolve(parse_strategy(strategy))
    out.mkdir()
    context = MethodConformance().context(out.parent / f"{out.name}-work", **changes)
    method.apply(Checkpoint(folder), out, params, context)
    return out


def check(strategy: str, spec: ModelSpec) -> ModelSpec:
    return registry.check(parse_strategy(strategy), spec, Target())


@pytest.mark.parametrize(
    "strategy", ["rtn(group_size=32)", "gptq(group_size=32)", "l2_structured(ratio=0.3)"]
)
def test_vision_tower_and_projector_stay_as_they_are(strategy: str, tmp_path: Path) -> None:
    source = Checkpoint(tiny_model(tmp_path / "model", "llava"))
    made = Checkpoint(apply(strategy, source.folder, tmp_path / "out"))
    seeing = [n for n in source.names if is_vision(n)]
    assert any("projector" in n for n in seeing)
    assert any("vision_tower" in n for n in seeing)
    assert all(torch.equal(made.read(n), source.read(n)) for n in seeing)


def test_a_packed_model_still_sees_images(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model", "llava")
    out = apply("rtn(group_size=32)", folder, tmp_path / "out")
    generator = torch.Generator().manual_seed(0)
    tokens = torch.tensor([[1, *[VOCABULARY - 1] * 4, 5, 6]])  # 4 patches of the image, in text
    image = {"pixel_values": torch.randn(1, 3, 16, 16, generator=generator)}
    with torch.no_grad():
        ours, plain, blind = (
            model(tokens, **given).logits
            for model, given in (
                (load(out, dtype=torch.float32), image),
                (load_dense(out, dtype=torch.float32), image),
                (load(out, dtype=torch.float32), {}),
            )
        )
    torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4)
    assert (ours - blind).abs().max() > 1e-3


@pytest.mark.parametrize("strategy", ['int8(skip=["*.1.*"])', "nf4"])
def test_bitsandbytes_leaves_what_sees_alone(strategy: str, tmp_path: Path) -> None:
    """Told nothing, it would pack the tower too, and fail at the first image."""
    # 192: a width that bitsandbytes' NF4 kernels take on every processor.
    folder = tiny_model(tmp_path / "model", "llava", intermediate_size=192)
    model = load(apply(strategy, folder, tmp_path / "out"))
    seeing = [m for n, m in model.named_modules() if is_vision(n.removeprefix("model."))]
    linears = [m for m in seeing if isinstance(m, torch.nn.Linear)]
    assert linears
    assert all(type(m) is torch.nn.Linear for m in linears)
    image = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        tokens = torch.tensor([[1, *[VOCABULARY - 1] * 4, 5, 6]])
        assert model(tokens, pixel_values=image.to(model.dtype)).logits.isfinite().all()


def test_routers_are_left_alone_by_name(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model", "qwen3_moe", tokenizer=False)
    config = Checkpoint(apply("rtn(group_size=32)", folder, tmp_path / "out")).config
    ignored = config["quantization_config"]["ignore"]
    assert {"model.layers.0.mlp.gate", "model.layers.1.mlp.gate", "lm_head"} == set(ignored)


@pytest.mark.parametrize("family", EXPERTS)
def test_separate_experts_compute_what_fused_ones_do(family: str) -> None:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(tiny_config(family), dtype=torch.float32)
    fused = model.model.layers[0].mlp.experts
    torch.nn.init.normal_(fused.gate_up_proj, std=0.2)
    torch.nn.init.normal_(fused.down_proj, std=0.2)
    hidden, shares = torch.randn(9, 64), torch.rand(9, 2)
    chosen = torch.tensor([[0, 1], [1, 0], [3, 0]] * 3)  # nobody asks expert 2
    expected = fused(hidden, chosen, shares)
    separate_experts(model)
    experts = model.model.layers[0].mlp.experts
    assert isinstance(experts, Experts)
    gates, ups = fused.gate_up_proj.chunk(2, dim=1)
    for expert, gate, up, down in zip(experts, gates, ups, fused.down_proj, strict=True):
        one: Any = expert
        one.gate_proj.weight, one.up_proj.weight = torch.nn.Parameter(gate), torch.nn.Parameter(up)
        one.down_proj.weight = torch.nn.Parameter(down)
    torch.testing.assert_close(experts(hidden, chosen, shares), expected)


def test_experts_that_hardly_any_text_reaches_are_rounded_to_nearest_and_named(
    tmp_path: Path,
) -> None:
    folder = tiny_model(tmp_path / "model", "mixtral")
    text = torch.randint(0, VOCABULARY, (2, 20), generator=torch.Generator().manual_seed(1))
    options = "bits=4, group_size=32, search_steps=0"
    gptq = apply(
        f"gptq({options}, act_order=false)", folder, tmp_path / "gptq", calibration=lambda: text
    )
    rtn = apply(f"rtn({options})", folder, tmp_path / "rtn")
    one, other = Checkpoint(gptq), Checkpoint(rtn)
    named = json.loads((gptq / "config.json").read_text())["paredown_rare_experts"]
    assert named
    assert all(".experts." in name for name in named)  # attention has seen 40 tokens
    codes = [f"{name}.weight_packed" for name in named]
    assert all(torch.equal(one.read(name), other.read(name)) for name in codes)
    reached = [n for n in one.names if n.endswith("weight_packed") and n not in codes]
    assert any(not torch.equal(one.read(name), other.read(name)) for name in reached)
    assert any("calibrate with more text" in note for note in load(gptq).paredown.notes)


def test_experts_that_hardly_any_text_reaches_are_a_failure_where_that_is_asked_for(
    tmp_path: Path,
) -> None:
    folder = tiny_model(tmp_path / "model", "mixtral")
    strategy = 'gptq(group_size=32, search_steps=0, rare_experts="fail")'
    few = torch.randint(0, VOCABULARY, (2, 20), generator=torch.Generator().manual_seed(1))
    enough = torch.randint(0, VOCABULARY, (8, 64), generator=torch.Generator().manual_seed(1))
    kept = Cache(tmp_path / "cache")
    message = r"experts\.\d\.\w+: \d+ of 40 calibration tokens .* 32 are the least"
    with pytest.raises(MethodError, match=message):
        apply(strategy, folder, tmp_path / "few", calibration=lambda: few, cache=kept)
    by_default = strategy.replace("fail", "rtn")
    apply(by_default, folder, tmp_path / "rounded", calibration=lambda: few, cache=kept)
    with pytest.raises(MethodError, match=message):  # counts from the cache, no text passes
        apply(strategy, folder, tmp_path / "again", calibration=lambda: few, cache=kept)
    apply(strategy, folder, tmp_path / "enough", calibration=lambda: enough)


def test_layers_that_text_passes_by_are_named(tmp_path: Path) -> None:
    """Llama 3.2 Vision runs the blocks with cross-attention where there is an image alone."""
    folder = tiny_model(tmp_path / "model", "mllama", dtype=torch.float32, tokenizer=False)
    text = torch.randint(0, VOCABULARY, (4, 32), generator=torch.Generator().manual_seed(1))
    strategy = "awq(bits=4, group_size=32, search_steps=0, strengths=2)"
    out = apply(strategy, folder, tmp_path / "out", calibration=lambda: text)
    named = Checkpoint(out).config["paredown_rare_experts"]
    assert named
    assert {name.partition(".layers.")[2][:2] for name in named} == {"1."}


def test_experts_with_enough_text_are_not_named(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model", "mixtral")
    text = torch.randint(0, VOCABULARY, (8, 64), generator=torch.Generator().manual_seed(1))
    out = apply("gptq(group_size=32)", folder, tmp_path / "out", calibration=lambda: text)
    assert "paredown_rare_experts" not in Checkpoint(out).config


def test_gptq_beats_rounding_where_weights_are_stored_transposed(tmp_path: Path) -> None:
    """Were Hessian and weight not of the same axis, GPTQ would be no better than chance."""
    folder = tiny_model(tmp_path / "model", "gpt2", dtype=torch.float32)
    tokens = probe_tokens(VOCABULARY)
    exact = probe(load_dense(folder), tokens)
    errors = {
        name: float((probe(load(out), tokens) - exact).norm())
        for name in ("rtn", "gptq")
        for out in [
            apply(
                f"{name}(bits=3, group_size=32)",
                folder,
                tmp_path / name,
                calibration=lambda: tokens.repeat(4, 1),
            )
        ]
    }
    assert errors["gptq"] < 0.8 * errors["rtn"]


def test_experts_in_one_tensor_are_refused_by_name(tmp_path: Path) -> None:
    spec = infer_spec(tiny_model(tmp_path / "model", "mixtral", tokenizer=False))
    name = "model.layers.0.mlp.experts.gate_up_proj"
    fused = TensorInfo(name=name, dtype="BF16", shape=(4, 320, 64))
    with pytest.raises(ConfigError, match=r"experts\.gate_up_proj holds all experts"):
        check("rtn(group_size=32)", spec.with_tensors([*spec.tensors, fused]))


@pytest.mark.parametrize("family", EXPERTS)
def test_pruning_of_experts_is_refused(family: str, tmp_path: Path) -> None:
    spec = infer_spec(tiny_model(tmp_path / "model", family, tokenizer=False))
    with pytest.raises(ConfigError, match="expert"):
        check("l2_structured(ratio=0.3)", spec)
