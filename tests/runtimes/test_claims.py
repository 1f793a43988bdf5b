"""What runtimes say that they hold, from specs alone; vLLM's against its documented reader."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from paredown.errors import ConfigError
from paredown.methods import registry
from paredown.runtimes import registry as runtimes
from paredown.runtimes.base import Claim, Engine, Needs, Runtime
from paredown.runtimes.transformers import Transformers
from paredown.runtimes.vllm import environment
from paredown.runtimes.vllm import runtime as vllm_runtime
from paredown.runtimes.vllm.runtime import Vllm
from paredown.spec.infer import infer_spec
from paredown.spec.layers import Format, LayerOption, LayerUnit, grid_option, option_bytes
from paredown.spec.model import ModelSpec
from paredown.spec.reference import plain_model, seeing_model
from paredown.spec.result import LoadsIn, TrialResult
from paredown.spec.strategy import parse_strategy
from paredown.spec.target import Target
from paredown.testing.tiny import tiny_model


def made(strategy: str, spec: ModelSpec | None = None) -> ModelSpec:
    return registry.check(parse_strategy(strategy), spec or plain_model(), Target())


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    return infer_spec(tiny_model(tmp_path_factory.mktemp("mixture"), "mixtral"))


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    return infer_spec(tiny_model(tmp_path_factory.mktemp("gpt2"), "gpt2"))


# The reader of vLLM 0.32, as documented: weight-only grids of 2 to 8 bits; fast on every GPU are
# symmetric 4 and 8 bits and asymmetric 4, in groups of 32, 64, 128 or a row; on CPUs only 4 bits.
@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group", [16, 32, 64, 128, 256, -1])
def test_grids_of_vllm(bits: int, symmetric: bool, group: int) -> None:
    documented = {(4, True), (8, True), (4, False)}
    expected = (bits, symmetric) in documented and group in {32, 64, 128, -1}
    option = grid_option(bits, group, symmetric=symmetric, scale_dtype="BF16")
    unit = LayerUnit(("model.layers.0.self_attn.o_proj",))
    vllm = Vllm()
    assert vllm.holds(plain_model(), unit, option, "cuda").holds is expected
    assert vllm.holds(plain_model(), unit, option, "cpu").holds is (expected and bits == 4)


@pytest.mark.parametrize(("packs", "here"), [(True, True), (False, True), (False, False)])
def test_where_vllm_would_be_opened_its_kernel_has_to_be_there(
    packs: bool, here: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_runtime, "processor_packs", lambda: packs)
    monkeypatch.setattr(environment, "missing", lambda: None if here else "it is not installed")
    unit = LayerUnit(("model.layers.0.self_attn.o_proj",))
    option = grid_option(4, 64, symmetric=True, scale_dtype="BF16")
    claim = Vllm().holds(plain_model(), unit, option, "cpu")
    assert claim.holds is (packs or not here)
    assert ("AVX-512" in claim.why) is not claim.holds


@pytest.mark.parametrize(
    ("strategy", "why"),
    [
        ("awq(bits=3)", "3 bits asymmetric"),
        ("hqq(bits=3)", "3 bits asymmetric"),
        ("rtn(bits=8, symmetric=false)", "8 bits asymmetric"),
        ("rtn(group_size=16)", "groups of 16"),
        ("rtn(group_size=256)", "groups of 256"),
        ('rtn(skip=["*.k_proj"])', r"joins .*q_proj\+k_proj\+v_proj"),
        ('rtn(plan={"*.up_proj": 8})', r"joins .*gate_proj\+up_proj"),
        ('smoothquant(skip=["*.v_proj"])', r"joins .*q_proj\+k_proj\+v_proj"),
        ("rtn(embedding_bits=8)", "embeddings"),
        ('magnitude(storage="sparse")', "sparse"),
        ("rtn > lora(rank=4)", "adapter"),
        ('l2_structured(ratio=0.2, scope="global")', "unequal width"),
    ],
)
def test_what_vllm_refuses(strategy: str, why: str) -> None:
    spec = made(strategy)
    claim = Vllm().reads(spec)
    assert not claim.holds
    assert re.search(why, claim.why), claim.why
    assert claim.mend
    assert "vllm" not in runtimes.readers(spec)


@pytest.mark.parametrize(
    "strategy",
    [
        "bf16 > rtn", "rtn(bits=8)", "awq(bits=4)", "rtn(group_size=-1)", "smoothquant", "depth",
        'rtn(skip=["*.q_proj", "*.k_proj", "*.v_proj"])', 'rtn(plan={"*.down_proj": 8})', "wanda",
        'rtn(plan={"*.gate_proj": 8, "*.up_proj": 8})', "heads(ratio=0.5)", "lora(rank=4)",
    ],
)  # fmt: skip
def test_what_vllm_reads(strategy: str) -> None:
    base = plain_model()
    if strategy.startswith("bf16"):
        strategy = strategy.removeprefix("bf16 > ")
    assert runtimes.readers(made(strategy, base))[:3] == ("torch", "transformers", "vllm")


def test_experts_of_a_block_share_one_option_in_vllm(mixture: ModelSpec) -> None:
    units = {len(unit.layers) for unit in Vllm().joins(mixture)}
    assert 12 in units  # four experts of three matrices
    claim = Vllm().reads(made("rtn(group_size=32)", mixture))
    assert (claim.holds, claim.evidence, claim.why) == (True, "untested", "a mixture of experts")
    split = made('rtn(group_size=32, skip=["*.experts.0.*"])', mixture)
    assert not Vllm().reads(split).holds


def test_models_that_see_are_untested_in_vllm() -> None:
    claim = Vllm().reads(made("rtn", seeing_model()))
    assert (claim.holds, claim.evidence) == (True, "untested")
    assert runtimes.readers(made("rtn", seeing_model())) == ("torch", "transformers")


@pytest.mark.parametrize(
    "strategy",
    [
        "rtn(group_size=32)", "rtn(group_size=32, symmetric=false)", "rtn(group_size=32, bits=3)",
        'rtn(group_size=32, plan={"*.q_proj": 8})', 'rtn(group_size=32, skip=["*.self_attn.*"])',
        'rtn(group_size=32, skip=["*.experts.0.*"])', "rtn(group_size=32, embedding_bits=8)",
    ],
)  # fmt: skip
def test_transformers_holds_just_what_is_not_in_our_own_format(
    strategy: str, mixture: ModelSpec, gpt2: ModelSpec
) -> None:
    for spec in (plain_model(), mixture, gpt2):
        if ("*." in strategy and spec is gpt2) or ("experts" in strategy and spec is not mixture):
            continue  # its layers have other names
        after = made(strategy, spec)
        claim = Transformers().reads(after)
        assert claim.holds is (after.quantization != "paredown"), (strategy, claim.why)


def test_a_strategy_that_the_target_does_not_hold_is_refused_with_the_nearest() -> None:
    target = Target(device="cuda", runtime="vllm")
    strategy = parse_strategy("rtn(bits=3, group_size=64, symmetric=false)")
    with pytest.raises(ConfigError, match=r"vllm cannot load it.*nearest.*4 bits, asymm.* of 64"):
        registry.check(strategy, plain_model(), target)
    registry.check(parse_strategy("rtn(bits=4)"), plain_model(), target)
    eight = parse_strategy("rtn(bits=8)")
    with pytest.raises(ConfigError, match="not read on cpu"):
        registry.check(eight, plain_model(), Target(runtime="vllm"))


def test_only_the_end_of_a_strategy_must_be_held() -> None:
    """Unequal widths are refused by transformers, wherever in the strategy they come from."""
    strategy = parse_strategy('l2_structured(ratio=0.2, scope="global") > rtn')
    with pytest.raises(ConfigError, match="unequal width"):
        registry.check(strategy, plain_model(), Target(runtime="transformers"))
    registry.check(strategy, plain_model(), Target())


def test_options_are_offered_with_exact_bytes() -> None:
    spec = plain_model()
    offers = Vllm().options(spec, "cuda")
    joined = next(u for u in offers if u.layers[0].endswith("layers.0.self_attn.q_proj"))
    assert joined.name == "model.layers.0.self_attn.q_proj+k_proj+v_proj"
    kinds = {(o.option.bits, o.option.symmetric) for o in offers[joined]}
    assert kinds == {(4, True), (4, False), (8, True), (16, True)}
    # One 256 x 256 matrix, 4 bits in groups of 64: codes 32768, scales 256 * 4 * 2, a shape of 16.
    option = grid_option(4, 64, symmetric=True, scale_dtype="BF16")
    (offer,) = (o for o in offers[joined] if o.option == option)
    assert offer.nbytes == 3 * (256 * 256 // 2 + 256 * 4 * 2 + 16)


@pytest.mark.parametrize("strategy", ["rtn(bits=3, group_size=32, symmetric=false)", "rtn(bits=8)"])
def test_bytes_of_options_are_those_of_the_predicted_model(strategy: str) -> None:
    spec = plain_model()
    after = made(strategy)
    shapes = {name: spec.by_name[f"{name}.weight"].shape for name in after.options}
    packed = sum(option_bytes(o, (shapes[n][0], shapes[n][1])) for n, o in after.options.items())
    dense = sum(t.nbytes for t in spec.tensors if t.name.removesuffix(".weight") in after.options)
    assert spec.weight_bytes - dense + packed == after.weight_bytes


def test_dropped_layers_take_nothing() -> None:
    assert option_bytes(LayerOption(format=Format.DROPPED, bits=0), (8, 8)) == 0
    with pytest.raises(ValueError, match="nf4"):
        option_bytes(LayerOption(format=Format.NF4, bits=4), (8, 8))


class Told(Runtime):
    """A runtime of which only the claims are known."""

    name = "told"
    summary = source = "somebody's documentation"
    needs = Needs()

    def holds(self, *_: object, **__: object) -> Claim:
        return Claim(holds=True)


def test_claims_without_an_engine_cannot_be_measured_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(runtimes.BUILTIN, "told", f"{__name__}:Told")
    with pytest.raises(ConfigError, match=r"'told'.*measure in one of torch, transformers"):
        runtimes.engine("told")
    with pytest.raises(ConfigError, match="did you mean 'transformers'"):
        runtimes.engine("transformer")
    assert isinstance(runtimes.engine("torch"), Engine)


def test_claims_import_no_torch() -> None:
    code = (
        "import sys; from paredown.runtimes import registry; "
        "from paredown.spec.reference import plain_model; registry.claims(plain_model()); "
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_old_records_said_it_in_notes(tmp_path: Path) -> None:
    old = {
        "episode": 1, "strategy": None, "label": "x", "kind": "quantization", "status": "ok",
        "notes": [
            "slow", "plain transformers loads it (checked)",
            "vLLM knows this format; whether it reads it of a mixture of experts is untested",
        ],
    }  # fmt: skip
    result = TrialResult.model_validate(old)
    assert result.notes == ("slow",)
    assert result.loads_in == (
        LoadsIn(runtime="transformers", known="checked"),
        LoadsIn(runtime="vllm", known="untested", detail="a mixture of experts"),
    )
    assert list(result.remarks) == old["notes"]
    assert TrialResult.model_validate_json(result.model_dump_json()) == result


@pytest.mark.parametrize(("bits", "nearest"), [(3, 4), (5, 8), (6, 8), (7, 8)])
def test_more_bits_are_nearer_than_fewer(bits: int, nearest: int) -> None:
    wanted = grid_option(bits, 64, symmetric=True, scale_dtype="BF16")
    unit = LayerUnit(("model.layers.0.self_attn.o_proj",))
    assert Vllm().nearest(plain_model(), unit, wanted) == grid_option(
        nearest, 64, symmetric=True, scale_dtype="BF16"
    )


def test_experts_and_other_layers_on_two_grids_are_refused(mixture: ModelSpec) -> None:
    """Whoever wrote it: an artifact of another tool has no format of ours that says so."""
    after = made('rtn(group_size=32, plan={"*.q_proj": 8})', mixture)
    foreign = after.model_copy(update={"quantization": "compressed-tensors"})
    claim = Transformers().reads(foreign)
    assert not claim.holds
    assert "one scheme for the whole model" in claim.why
