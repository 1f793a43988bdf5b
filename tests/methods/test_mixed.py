"""Mixed precision: sizes kept, same plan again, plans given, the bank shared, requests refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from paredown.artifact.checkpoint import Checkpoint
from paredown.artifact.description import describe, read_plan
from paredown.blocks.hessians import HessianBank
from paredown.errors import ConfigError, DataError, StrategyError
from paredown.methods import registry
from paredown.methods.base import Context
from paredown.methods.mixed import Mixed, MixedParams
from paredown.methods.shared.frontier import Frontier
from paredown.methods.shared.units import choices_of, plain_record, predict_plan
from paredown.runtimes import registry as runtimes
from paredown.runtimes.base import Engine
from paredown.runtimes.torch.load import load
from paredown.runtimes.torch.proof import compare, probe
from paredown.spec.filesize import most_bytes
from paredown.spec.infer import infer_spec
from paredown.spec.model import ModelSpec
from paredown.spec.packed import weights_bytes
from paredown.spec.plan import PLAN_FILE, PlanRecord, scheme_word
from paredown.spec.reference import plain_model
from paredown.spec.strategy import parse_strategy
from paredown.spec.target import Target
from paredown.store.cache import Cache
from paredown.testing.conformance import MethodConformance
from paredown.testing.tiny import tiny_model

GIVEN = {"*": "4a32", "*.v_proj": "6s", "*.0.mlp.*": "3a32", "embed_tokens": "8s"}


class TestMixedGiven(MethodConformance):
    """A plan by hand: what is stored is known beforehand."""

    method_name = "mixed"
    params: ClassVar[dict[str, Any]] = {"plan": GIVEN}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return Checkpoint(tiny_model(tmp_path_factory.mktemp("m") / "model", dtype=torch.float32))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Context:
    """One cache for all tests that may share what was measured."""
    return MethodConformance().context(tmp_path_factory.mktemp("shared"))


def made(source: Checkpoint, out: Path, context: Context, **params: Any) -> PlanRecord:
    """Apply `mixed`, describe the artifact, and return its plan."""
    out.mkdir(parents=True)
    settings = MixedParams.model_validate(params)
    claimed = Mixed().apply(source, out, settings, context)
    compare(claimed, probe(load(out, dtype=torch.float32), _probe()), "paredown")
    strategy = registry.canonical(parse_strategy("mixed"))
    describe(out, strategy=strategy, base={"name": "m", "sha256": "0"}, how_to_load="load")
    plan = read_plan(out)
    assert plan is not None
    return plan


def _probe() -> torch.Tensor:
    from paredown.blocks.probe import probe_tokens

    return probe_tokens(128)


def test_sizes_are_kept_and_more_bytes_lose_less(
    source: Checkpoint, shared: Context, tmp_path: Path
) -> None:
    forecast = []
    for bpw in (5.0, 8.0, 15.0):
        plan = made(source, tmp_path / f"{bpw}", shared, bpw=bpw)
        budget = int(bpw * source.spec.parameters / 8)
        assert 0.99 * budget <= weights_bytes(tmp_path / f"{bpw}") <= plan.nbytes <= budget
        assert plan.kl is not None
        assert plan.kl == pytest.approx(sum(unit.kl or 0.0 for unit in plan.units))
        assert len(plan.anchors) >= 2
        assert not (tmp_path / f"{bpw}" / PLAN_FILE).exists()  # it has moved
        forecast.append(plan.kl)
    assert forecast[0] > 2 * forecast[1] > 4 * forecast[2]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes_whatever_is_kept(
    source: Checkpoint, shared: Context, tmp_path: Path
) -> None:
    """From an empty cache, and from one that other plans and a uniform model have filled."""
    folders = []
    for name, cache in (("empty", Cache(tmp_path / "cache")), ("full", shared.cache)):
        context = replace(shared, cache=cache, scratch=tmp_path / name)
        made(source, tmp_path / name / "out", context, bpw=8.5)
        folders.append(tmp_path / name / "out")
    one, two = ((f / "model.safetensors").read_bytes() for f in folders)
    assert one == two
    assert read_plan(folders[0]) == read_plan(folders[1])


def test_a_plan_that_is_given_again_makes_the_same_weights(
    source: Checkpoint, shared: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a folder, as a file, and as a dictionary; nothing is measured or solved again."""
    plan = made(source, tmp_path / "found", shared, bpw=8.0)
    wanted = (tmp_path / "found" / "model.safetensors").read_bytes()
    file = tmp_path / "plan.json"
    file.write_text(plan.model_dump_json())
    monkeypatch.setattr(HessianBank, "_measure", None)
    monkeypatch.setattr("paredown.ops.grids.solve", None)
    for i, given in enumerate((str(tmp_path / "found"), str(file), plan.by_layer)):
        again = made(source, tmp_path / f"again{i}", shared, plan=given)
        assert (tmp_path / f"again{i}" / "model.safetensors").read_bytes() == wanted
        assert again.by_layer == plan.by_layer
        assert again.kl is None  # nothing was forecast


def test_codes_are_those_of_gptq_and_computed_once(
    source: Checkpoint, shared: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gptq = registry.load("gptq")
    settings = {"bits": 4, "group_size": 32, "symmetric": False}
    (tmp_path / "uniform").mkdir()
    gptq.apply(source, tmp_path / "uniform", gptq.params_type.model_validate(settings), shared)
    monkeypatch.setattr("paredown.ops.grids.solve", None)
    inner = {"*.layers.*": "4a32", "*.0.*.q_proj": "16"}
    made(source, tmp_path / "plan", shared, plan=inner)
    one, two = Checkpoint(tmp_path / "uniform"), Checkpoint(tmp_path / "plan")
    same = [n for n in one.names if ".0.self_attn.q_proj" not in n]
    assert all(torch.equal(one.read(n), two.read(n)) for n in same)
    kept = "model.layers.0.self_attn.q_proj.weight"
    assert torch.equal(two.read(kept), source.read(kept))


def test_one_set_of_measurements_makes_many_artifacts(
    source: Checkpoint, shared: Context, tmp_path: Path
) -> None:
    choices = choices_of(source.spec, "torch")
    frontier = Frontier(source, choices, shared, tokens=128)
    for found in frontier.along(3)[:2]:
        out = tmp_path / f"{found.record.nbytes}"
        out.mkdir()
        claimed = frontier.bank.write(out, found.schemes, found.record)
        compare(claimed, probe(load(out, dtype=torch.float32), _probe()), "paredown")
        assert weights_bytes(out) <= found.record.nbytes


@pytest.mark.slow
def test_the_smallest_plan_within_a_loss(
    source: Checkpoint, shared: Context, tmp_path: Path
) -> None:
    """Nothing smaller on the curve is forecast to keep it, and more loss takes fewer bytes."""
    sizes = []
    for kl in (3e-4, 3e-3):
        plan = made(source, tmp_path / f"{kl}", shared, kl=kl)
        assert plan.kl is not None
        assert 0.5 * kl <= plan.kl <= kl
        sizes.append(weights_bytes(tmp_path / f"{kl}"))
    assert sizes[0] > sizes[1]


def test_bytes_are_those_of_the_files_that_the_runtime_reads(tmp_path: Path) -> None:
    """Every engine's: what a plan is priced at is what the engine says of the predicted model."""
    spec = infer_spec(tiny_model(tmp_path / "m"))
    for name in ("llama.cpp", "onnxruntime", "openvino"):
        engine = runtimes.load(name)
        assert isinstance(engine, Engine)
        choices = choices_of(spec, name)
        for budget in choices.interval[0], sum(choices.interval) // 2:
            schemes = choices.flat_plan(budget)
            record = plain_record(spec, choices, schemes)
            made = engine.weights_bytes(predict_plan(spec, schemes)) + engine.other_bytes(spec)
            assert record.nbytes == made <= budget
            assert sum(unit.nbytes for unit in record.units) + choices.fixed == made


def test_a_grid_that_is_stored_as_a_better_one_is_no_option(tmp_path: Path) -> None:
    """Q4_0 holds 4 bits without zero-points; with them it takes a Q5_0, which holds 5, or short
    scales and a Q4_1. Where rows are whole super-blocks, its two-level types hold more for less."""
    spec = infer_spec(tiny_model(tmp_path / "m"))
    options = {scheme_word(s) for u in choices_of(spec, "llama.cpp").units for s in u.rounded}
    assert options == {"4s32", "4a32r", "5s32", "5a32r", "8s32"}
    wide = {scheme_word(s) for u in choices_of(plain_model(), "llama.cpp").units for s in u.rounded}
    assert wide == {"2k", "3k", "4k", "5k", "6k", "8s32"}
    options = {scheme_word(s) for u in choices_of(spec, "torch").units for s in u.rounded}
    assert {"2a64", "3a64", "4a64", "5a64", "6a64", "8a64"} <= options


def test_units_that_a_runtime_joins_get_one_option(
    source: Checkpoint, shared: Context, tmp_path: Path
) -> None:
    plan = made(source, tmp_path / "out", shared, bpw=14.0, runtime="vllm")
    joined = [unit for unit in plan.units if len(unit.layers) == 3]
    assert [layer.rpartition(".")[2] for layer in joined[0].layers] == [
        "q_proj",
        "k_proj",
        "v_proj",
    ]
    assert {unit.bits for unit in plan.units} <= {4, 8, 16}
    assert infer_spec(tmp_path / "out").quantization == "compressed-tensors"  # embedding as it was


def test_a_tied_embedding_is_one_unit(tmp_path: Path) -> None:
    spec = infer_spec(tiny_model(tmp_path / "m", "gemma2", tokenizer=False))
    units = choices_of(spec, "torch").units
    assert [u.unit.layers for u in units if u.is_embedding] == [("model.embed_tokens",)]


# What is refused, before anything is loaded


def spec_of(source: Checkpoint) -> ModelSpec:
    return infer_spec(source.folder)


def test_sizes_that_cannot_be_had_are_refused_with_the_interval(source: Checkpoint) -> None:
    spec = spec_of(source)
    least, most = choices_of(spec, "torch").interval
    for size in (least - 1, most + 1):
        with pytest.raises(ConfigError, match=f"between {least} .* and {most} bytes"):
            registry.check(parse_strategy(f"mixed(size={size})"), spec, Target())
    for size in (least, most):
        registry.check(parse_strategy(f"mixed(size={size})"), spec, Target())


def test_the_ends_of_the_interval_are_real_files(
    source: Checkpoint, shared: Context, tmp_path: Path
) -> None:
    spec = spec_of(source)
    least, most = choices_of(spec, "torch").interval
    smallest = {n: "2a64" if "down" not in n else "2a32" for n in spec.structure.linears}
    plan = {**smallest, "model.embed_tokens": "2a64", "lm_head": "2a64"}
    made(source, tmp_path / "out", shared, plan=plan)
    assert 0.99 * least <= weights_bytes(tmp_path / "out") <= least
    assert weights_bytes(source.folder) <= most <= 1.01 * weights_bytes(source.folder)
    assert weights_bytes(source.folder) <= most_bytes(spec) == most


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("mixed(bpw=8, size=100)", "bpw and size: give one of them"),
        ("mixed(bpw=8, kl=0.1)", "bpw and kl: give one of them"),
        ('mixed(size="big")', "'big' is no size"),
        ('mixed(plan={"*": "9a64"})', "'9a64' is no option"),
        ('mixed(plan={"*": "4a8"})', "'4a8' is no option"),
        ('mixed(plan={"nothing": "4a32"})', "'nothing' matches no layer"),
        ('mixed(plan={"*": "16"})', "leaves all layers as they are"),
        (
            'mixed(plan={"*.down_proj": "4a64"})',
            "160 input features do not divide into groups of 64",
        ),
        ('mixed(plan="no/such/plan.json")', "no such file"),
        ('mixed(bpw=8, runtime="vllm")', r'mixed\(runtime="torch"\)'),
        ("gptq(group_size=32) > mixed", "a model is quantized only once"),
    ],
)
def test_requests_that_cannot_be_met(source: Checkpoint, text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        registry.check(parse_strategy(text), spec_of(source), Target())


def test_a_joined_unit_with_two_options_is_refused(source: Checkpoint) -> None:
    text = 'mixed(plan={"*.layers.*": "4s32", "v_proj": "8s32"}, runtime="vllm")'
    with pytest.raises(StrategyError, match=r"it joins .*q_proj"):
        registry.check(parse_strategy(text), spec_of(source), Target(runtime="vllm"))


def test_the_runtime_that_is_named_for_all_is_the_plans(source: Checkpoint) -> None:
    found = registry.for_runtime("mixed(bpw=8)", "vllm")
    assert found.steps[0].params["runtime"] == "vllm"
    assert (
        registry.for_runtime('mixed(runtime="torch")', "vllm").steps[0].params["runtime"] == "torch"
    )
    assert registry.for_runtime("gptq(bits=4)", "vllm") == registry.canonical("gptq(bits=4)")


def test_too_little_text_is_refused(source: Checkpoint, shared: Context, tmp_path: Path) -> None:
    few = replace(shared, calibration=lambda: torch.ones(1, 8).long())
    with pytest.raises(DataError, match="8 tokens of calibration text cannot tell 16 units"):
        made(source, tmp_path / "out", few, bpw=8.0)


def test_a_cache_that_is_too_small_is_told(
    source: Checkpoint, shared: Context, tmp_path: Path
) -> None:
    small = replace(shared, cache=Cache(tmp_path / "cache", 1000.0))
    with pytest.raises(ConfigError, match="PAREDOWN_CACHE_GB higher"):
        made(source, tmp_path / "out", small, bpw=8.0)


def test_a_damaged_plan_is_told(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    file.write_text(json.dumps({"parameters": 3, "nbytes": 5, "units": []}))
    with pytest.raises(ConfigError, match="damaged plan: units"):
        PlanRecord.read(file)
    with pytest.raises(ConfigError, match="there is no plan"):
        PlanRecord.read(tmp_path / "nothing")
