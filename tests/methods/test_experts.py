"""Removing whole experts of mixtures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from paredown.artifact.checkpoint import Checkpoint
from paredown.blocks.mixtures import Tally, tally
from paredown.blocks.probe import probe_tokens
from paredown.blocks.rewrite import probe_walk
from paredown.errors import ConfigError, StrategyError
from paredown.hardware.detect import detect
from paredown.methods import registry
from paredown.methods.recommend import recommend
from paredown.runtimes.torch.load import load, load_dense
from paredown.runtimes.torch.proof import compare, probe
from paredown.search.enumerated import Enumerated
from paredown.spec.infer import infer_spec
from paredown.spec.model import ModelSpec
from paredown.spec.strategy import parse_strategy
from paredown.spec.target import Target
from paredown.testing.conformance import MethodConformance
from paredown.testing.tiny import VOCABULARY, tiny_model


class TestExperts(MethodConformance):
    """Weights of the chosen experts as the softmax over all gives them."""

    method_name = "experts"
    family = "qwen3_moe"


@pytest.mark.slow
class TestExpertsMixtral(MethodConformance):
    """Other names in the file than in memory; half of the experts, by use."""

    method_name = "experts"
    params: ClassVar[dict[str, Any]] = {"keep": 2, "score": "use"}
    family = "mixtral"


def apply(source: Checkpoint, tmp_path: Path, name: str = "out", **params: Any) -> Checkpoint:
    method = registry.load("experts")
    out = tmp_path / name
    out.mkdir()
    settings = method.params_type.model_validate(params)
    context = MethodConformance().context(tmp_path, source_hash=str(source.folder))
    method.apply(source, out, settings, context)
    return Checkpoint(out)


def made(tmp_path: Path, family: str, **changes: Any) -> Checkpoint:
    folder = tmp_path / family
    return Checkpoint(tiny_model(folder, family, dtype=torch.float32, tokenizer=False, **changes))


def check(strategy: str, spec: ModelSpec) -> ModelSpec:
    return registry.check(parse_strategy(strategy), spec, Target())


def edit_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text()) | changes
    kept = {key: value for key, value in config.items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(kept))


def test_an_expert_that_is_never_asked_changes_nothing(tmp_path: Path) -> None:
    """Another one in each block; logits stay what they were, bit by bit.

    The router reads one feature per expert with a power of two, so that its products are exact
    however many rows are computed at once; its softmax is over the chosen experts alone.
    """
    source = made(tmp_path, "gpt_oss")
    tensors = load_file(source.folder / "model.safetensors")
    for block, never in ((0, 1), (1, 3)):
        stack = f"model.layers.{block}.mlp"
        tensors[f"{stack}.router.weight"] = torch.eye(4, 64) * 2
        tensors[f"{stack}.router.bias"] = torch.zeros(4)
        tensors[f"{stack}.router.bias"][never] = -1e4
    save_file(tensors, source.folder / "model.safetensors", metadata={"format": "pt"})
    result = apply(Checkpoint(source.folder), tmp_path)
    after = load_file(result.folder / "model.safetensors")
    assert after.keys() == tensors.keys()  # fused as it was
    for block, kept in ((0, [0, 2, 3]), (1, [0, 1, 2])):
        stack = f"model.layers.{block}.mlp"
        parts = [n for n in tensors if n.startswith(stack)]
        assert len(parts) == 6
        assert all(torch.equal(after[name], tensors[name][kept]) for name in parts)
    tokens = probe_tokens(VOCABULARY)
    for loader in (load, load_dense):
        assert torch.equal(
            probe(loader(source.folder), tokens), probe(loader(result.folder), tokens)
        )
    assert result.config["num_local_experts"] == 3


def tallies(source: Checkpoint, windows: Tensor) -> dict[str, Tally]:
    walk = probe_walk(source, device="cpu", trust_remote_code=False, tokens=windows)
    return tally(walk, lambda share, message: None)


def test_the_experts_of_least_score_go(tmp_path: Path) -> None:
    source = made(tmp_path, "qwen3_moe", num_experts=6)
    counted = tallies(source, MethodConformance().context(tmp_path).calibration())
    removed = []
    for score in ("use", "error"):
        result = apply(source, tmp_path, score, keep=4, score=score)
        for stack, one in counted.items():
            scores = one.share if score == "use" else one.output / one.tokens
            kept = sorted(scores.argsort(descending=True)[:4].tolist())
            removed.append(set(range(6)) - set(kept))
            rows = source.read(f"{stack}.gate.weight")[kept]
            assert torch.equal(result.read(f"{stack}.gate.weight"), rows)
            for new, old in enumerate(kept):
                after = result.read(f"{stack}.experts.{new}.up_proj.weight")
                assert torch.equal(after, source.read(f"{stack}.experts.{old}.up_proj.weight"))
    assert removed[:2] != removed[2:]  # the two scores are not one


def test_the_artifact_tells_what_was_counted(tmp_path: Path) -> None:
    """And a later step does not pass on what is not true of its own result."""
    source = made(tmp_path, "qwen3_moe")
    windows = MethodConformance().context(tmp_path).calibration()
    counted = {stack: one.tokens.int().tolist() for stack, one in tallies(source, windows).items()}
    first = apply(source, tmp_path, "first", score="use")
    told = json.loads((first.folder / "paredown_experts.json").read_text())
    assert {stack: one["tokens"] for stack, one in told["mixtures"].items()} == counted
    for stack, one in told["mixtures"].items():
        assert sum(one["tokens"]) == 2 * windows.numel()
        assert one["rare"] == [j for j, count in enumerate(counted[stack]) if count < 32]
        rows = source.read(f"{stack}.gate.weight")[one["kept"]]
        assert torch.equal(first.read(f"{stack}.gate.weight"), rows)
    rtn = registry.load("rtn")
    (tmp_path / "second").mkdir()
    context = MethodConformance().context(tmp_path)
    rtn.apply(
        first, tmp_path / "second", rtn.params_type.model_validate({"group_size": 32}), context
    )
    assert not (tmp_path / "second" / "paredown_experts.json").exists()


def test_every_group_loses_as_many(tmp_path: Path) -> None:
    """DeepSeek-V3: a token chooses one of two groups first; the correction of each expert stays."""
    source = made(tmp_path, "deepseek_v3", n_routed_experts=8, n_group=2, topk_group=1)
    tensors = load_file(source.folder / "model.safetensors")
    name = "model.layers.1.mlp.gate.e_score_correction_bias"
    tensors[name] = torch.arange(8.0) / 100
    save_file(tensors, source.folder / "model.safetensors", metadata={"format": "pt"})
    source = Checkpoint(source.folder)
    assert (source.spec.expert_groups, source.spec.groups_per_token) == (2, 1)
    result = apply(source, tmp_path, ratio=0.25)
    numbers = (result.read(name) * 100).round().int().tolist()
    assert len([n for n in numbers if n < 4]) == 3 == len([n for n in numbers if n >= 4])
    assert result.config["n_routed_experts"] == 6
    tokens = probe_tokens(VOCABULARY)
    compare(probe(load(result.folder), tokens), probe(load_dense(result.folder), tokens), "plain")
    with pytest.raises(ConfigError, match="2 groups of experts, which 5 cannot fill evenly"):
        check("experts(keep=5)", source.spec)
    with pytest.raises(ConfigError, match="2 in 1 of 2 groups, so at least 4 must stay"):
        check("experts(keep=2)", source.spec)


def test_groups_that_the_config_leaves_to_the_class_are_known(tmp_path: Path) -> None:
    folder = made(tmp_path, "deepseek_v3", n_routed_experts=16, n_group=8, topk_group=4).folder
    edit_config(folder, n_group=..., topk_group=...)
    spec = infer_spec(folder)
    assert (spec.expert_groups, spec.groups_per_token) == (8, 4)


def test_blocks_that_foretell_further_tokens_are_left_out(tmp_path: Path) -> None:
    source = made(tmp_path, "glm4_moe")
    tensors = load_file(source.folder / "model.safetensors")
    tensors |= {
        name.replace(".1.", ".2.", 1): value.clone()
        for name, value in tensors.items()
        if name.startswith("model.layers.1.")
    }
    save_file(tensors, source.folder / "model.safetensors", metadata={"format": "pt"})
    edit_config(source.folder, num_nextn_predict_layers=1)
    source = Checkpoint(source.folder)
    predicted = check("experts", source.spec)
    result = apply(source, tmp_path)
    assert not any(name.startswith("model.layers.2.") for name in result.names)
    assert result.config["num_nextn_predict_layers"] == 0
    assert {t.name: t for t in result.spec.tensors} == {t.name: t for t in predicted.tensors}
    assert result.spec.parameters == predicted.parameters


@pytest.mark.parametrize("family", ["qwen2_moe", "granitemoe", "ernie4_5_moe"])
def test_active_and_total_sizes_are_predicted(family: str, tmp_path: Path) -> None:
    """Shared experts, dense blocks and corrections are told apart from routed experts."""
    source = made(tmp_path, family)
    predicted, result = check("experts", source.spec), apply(source, tmp_path).spec
    facts = ("experts", "experts_per_token", "parameters", "active_parameters", "weight_bytes")
    assert {f: getattr(result, f) for f in facts} == {f: getattr(predicted, f) for f in facts}
    assert result.parameters < source.spec.parameters
    routed = 3 * 64 * {"qwen2_moe": 96, "granitemoe": 160, "ernie4_5_moe": 96}[family]
    blocks = 1 if family == "ernie4_5_moe" else 2
    router = 64 + (family == "ernie4_5_moe")
    assert source.spec.parameters - result.parameters == blocks * (routed + router)
    assert source.spec.active_parameters - result.active_parameters == blocks * router


def test_a_config_that_leaves_the_number_to_its_class_gets_one(tmp_path: Path) -> None:
    folder = made(tmp_path, "mixtral", num_local_experts=8).folder
    edit_config(folder, num_local_experts=..., num_experts_per_tok=...)
    result = apply(Checkpoint(folder), tmp_path)
    assert (result.config["num_local_experts"], result.spec.experts) == (6, 6)
    probe(load_dense(result.folder), probe_tokens(VOCABULARY))


def test_it_composes(tmp_path: Path) -> None:
    """Fewer experts, then others fewer, then packed: what is stored is what was predicted."""
    source = made(tmp_path, "olmoe", num_experts=8)
    first = apply(source, tmp_path, "first", ratio=0.25)
    second = apply(first, tmp_path, "second", keep=4)
    gptq = registry.load("gptq")
    params = gptq.params_type.model_validate({"group_size": 32})
    (tmp_path / "third").mkdir()
    claimed = gptq.apply(
        second,
        tmp_path / "third",
        params,
        MethodConformance().context(tmp_path, source_hash="second"),
    )
    predicted = check("experts(ratio=0.25) > experts(keep=4) > gptq(group_size=32)", source.spec)
    third = Checkpoint(tmp_path / "third")
    assert third.spec.weight_bytes == predicted.weight_bytes
    assert third.spec.experts == 4
    assert claimed is not None
    compare(claimed, probe(load(third.folder), probe_tokens(VOCABULARY)), "paredown")


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    folder = tmp_path_factory.mktemp("qwen3_moe")
    return infer_spec(tiny_model(folder, "qwen3_moe", tokenizer=False))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    return infer_spec(tiny_model(tmp_path_factory.mktemp("llama"), tokenizer=False))


def test_too_few_or_too_many_are_refused(mixture: ModelSpec, llama: ModelSpec) -> None:
    with pytest.raises(ConfigError, match="it has no experts"):
        check("experts", llama)
    with pytest.raises(ConfigError, match=r"ratio = 0\.75 would leave 1 of the 4 .* at least 2"):
        check("experts(ratio=0.75)", mixture)
    with pytest.raises(ConfigError, match="keep = 4 would remove none of the 4 experts"):
        check("experts(keep=4)", mixture)
    assert check("experts(ratio=0.01)", mixture).experts == 3
    assert check("experts(ratio=0.5)", mixture).experts == 2
    some = mixture.model_copy(update={"experts_per_token": None})
    with pytest.raises(ConfigError, match="does not say how many experts a token is sent to"):
        check("experts", some)


@pytest.mark.parametrize(
    "text", ["experts(ratio=0.5, keep=2)", "experts(ratio=0)", "experts(keep=1)"]
)
def test_requests_that_mean_nothing_are_refused(text: str) -> None:
    with pytest.raises(StrategyError, match=r"give one of them|greater than"):
        registry.canonical(text)


def test_mixtures_that_are_not_understood_are_refused(mixture: ModelSpec) -> None:
    stack = "model.layers.0.mlp"
    router = mixture.by_name[f"{stack}.gate.weight"]
    others = [t for t in mixture.tensors if t.name != router.name]
    with pytest.raises(ConfigError, match=rf"how {stack} chooses among 4 experts is not known"):
        check("experts", mixture.with_tensors(others))
    more = router.model_copy(update={"shape": (6, 64)})  # rows for experts that compute nothing
    with pytest.raises(ConfigError, match=r"how .*gate\.weight chooses among 4 experts"):
        check("experts", mixture.with_tensors([*others, more]))
    unknown = router.model_copy(update={"name": f"{stack}.temperature", "shape": (4,)})
    with pytest.raises(ConfigError, match=r"how .*\.temperature chooses"):
        check("experts", mixture.with_tensors([*mixture.tensors, unknown]))
    uneven = [t for t in mixture.tensors if not t.name.startswith(f"{stack}.experts.3.")]
    with pytest.raises(ConfigError, match=f"{stack} holds 3 experts, its config tells of 4"):
        check("experts", mixture.with_tensors(uneven))


def test_neurons_inside_of_experts_stay(mixture: ModelSpec) -> None:
    with pytest.raises(ConfigError, match="use experts, which removes whole ones"):
        check("l2_structured", mixture)


def test_it_is_searched_on_mixtures_alone(mixture: ModelSpec, llama: ModelSpec) -> None:
    def ratios(spec: ModelSpec) -> list[Any]:
        space = Enumerated.build(spec, Target(), methods=("experts", "rtn"))
        return [
            s.steps[0].params["ratio"]
            for s in space.strategies
            if len(s.steps) == 1 and s.steps[0].method == "experts"
        ]

    assert set(ratios(mixture)) == {0.25, 0.5, 0.125}
    with pytest.raises(ConfigError, match="it has no experts"):
        ratios(llama)


def test_it_is_recommended_for_mixtures_alone(mixture: ModelSpec, llama: ModelSpec) -> None:
    machine = detect()
    found = [one.strategy for one in recommend(mixture, machine)]
    assert "experts(ratio=0.25)" in found
    assert found[0] != "experts(ratio=0.25)"  # measured ones first
    assert not any("experts" in one.strategy for one in recommend(llama, machine))
