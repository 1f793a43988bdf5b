"""Masks on single weights keep the contract, have the shares they promise, and store sparsely."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from paredown.artifact.checkpoint import Checkpoint, CheckpointWriter
from paredown.artifact.compressed_tensors import read_packed, read_schemes
from paredown.errors import ConfigError, MethodError, StrategyError
from paredown.methods import registry
from paredown.methods.base import Context
from paredown.ops.grids import dequantize
from paredown.runtimes.torch.load import load, load_dense
from paredown.spec.infer import infer_spec
from paredown.spec.model import ModelSpec, TensorInfo
from paredown.spec.strategy import parse_strategy
from paredown.spec.target import Target
from paredown.testing.conformance import MethodConformance
from paredown.testing.tiny import tiny_model


class TestMagnitude(MethodConformance):
    method_name = "magnitude"


class TestMagnitudeGlobal(MethodConformance):
    method_name = "magnitude"
    params: ClassVar[dict[str, Any]] = {"ratio": 0.3, "scope": "global"}
    family = "opt"


@pytest.mark.slow
class TestMagnitudeSparse(MethodConformance):
    method_name = "magnitude"
    params: ClassVar[dict[str, Any]] = {"ratio": 0.37, "storage": "sparse"}
    family = "qwen2"


class TestRandom(MethodConformance):
    """GPT-2 stores its matrices transposed; groups of eight still lie along input features."""

    method_name = "random"
    params: ClassVar[dict[str, Any]] = {"pattern": "4:8"}
    family = "gpt2"


class TestWanda(MethodConformance):
    method_name = "wanda"


@pytest.mark.slow
class TestWandaSparse(MethodConformance):
    method_name = "wanda"
    params: ClassVar[dict[str, Any]] = {"ratio": 0.61, "storage": "sparse"}
    family = "gemma2"


class TestSparseGpt(MethodConformance):
    method_name = "sparsegpt"


@pytest.mark.slow
class TestSparseGptMixtral(MethodConformance):
    """Each expert on its own."""

    method_name = "sparsegpt"
    family = "mixtral"


@pytest.mark.slow
class TestWandaGpt2Sparse(MethodConformance):
    method_name = "wanda"
    params: ClassVar[dict[str, Any]] = {"pattern": "2:4", "storage": "sparse"}
    family = "gpt2"


@pytest.mark.slow
class TestMagnitudeLlavaSparse(MethodConformance):
    """The vision tower stays as it is."""

    method_name = "magnitude"
    params: ClassVar[dict[str, Any]] = {"storage": "sparse"}
    family = "llava"


class TestSparseGptSparse(MethodConformance):
    method_name = "sparsegpt"
    params: ClassVar[dict[str, Any]] = {"pattern": "2:4", "storage": "sparse"}


def context(tmp_path: Path) -> Context:
    return MethodConformance().context(tmp_path)


def apply(method: str, params: dict[str, Any], source: Checkpoint, tmp_path: Path) -> Checkpoint:
    found = registry.load(method)
    out = tmp_path / f"{method}-{len(list(tmp_path.iterdir()))}"
    out.mkdir()
    found.apply(source, out, found.params_type.model_validate(params), context(tmp_path))
    return Checkpoint(out)


def zeros(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """Where the weights of the block linears are zero, by layer name."""
    linears = checkpoint.spec.structure.linears
    return {name: checkpoint.read(f"{name}.weight") == 0 for name in linears}


@pytest.fixture
def source(tmp_path: Path) -> Checkpoint:
    """The weights are made float32, so that none is zero or equal to another by chance."""
    return Checkpoint(tiny_model(tmp_path / "model", tokenizer=False, dtype=torch.float32))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    return infer_spec(tiny_model(tmp_path_factory.mktemp("llama"), tokenizer=False))


def check(strategy: str, spec: ModelSpec) -> ModelSpec:
    return registry.check(parse_strategy(strategy), spec, Target())


def test_magnitude_keeps_the_largest_and_changes_none_of_them(
    source: Checkpoint, tmp_path: Path
) -> None:
    result = apply("magnitude", {"ratio": 0.3}, source, tmp_path)
    for name, zero in zeros(result).items():
        before, after = source.read(f"{name}.weight"), result.read(f"{name}.weight")
        assert int(zero.sum()) == round(0.3 * zero.numel())
        assert torch.equal(after[~zero], before[~zero])
        assert before[zero].abs().max() <= before[~zero].abs().min()


def test_global_magnitude_has_one_threshold(source: Checkpoint, tmp_path: Path) -> None:
    result = apply("magnitude", {"ratio": 0.4, "scope": "global"}, source, tmp_path)
    found = zeros(result)
    weights = {name: source.read(f"{name}.weight").abs() for name in found}
    removed = torch.cat([weights[n][zero] for n, zero in found.items()])
    kept = torch.cat([weights[n][~zero] for n, zero in found.items()])
    assert len(removed) == round(0.4 * (len(removed) + len(kept)))
    assert removed.max() <= kept.min()


def test_wanda_scores_by_the_norm_of_each_input(source: Checkpoint, tmp_path: Path) -> None:
    """Against norms taken by hooks on the whole model."""
    found = zeros(apply("wanda", {"ratio": 0.25}, source, tmp_path))
    model = load(source.folder)
    norms: dict[str, torch.Tensor] = {}
    for name in found:
        model.get_submodule(name).register_forward_pre_hook(
            lambda module, args, name=name: norms.update({name: args[0].norm(dim=(0, 1))})
        )
    with torch.no_grad():
        model(context(tmp_path).calibration())
    for name, zero in found.items():
        scores = source.read(f"{name}.weight").abs() * norms[name]
        width = zero.shape[1]
        assert (zero.sum(1) == round(0.25 * width)).all()
        expected = scores.argsort(dim=1)[:, : round(0.25 * width)]
        agreeing = zero.gather(1, expected).float().mean()
        assert agreeing > 0.999  # but for the rounding of sums


def test_windows_not_asked_for_do_not_count(source: Checkpoint, tmp_path: Path) -> None:
    few = zeros(apply("wanda", {"nsamples": 1}, source, tmp_path))
    all_of_them = zeros(apply("wanda", {}, source, tmp_path))
    four = zeros(apply("wanda", {"nsamples": 4}, source, tmp_path))
    assert any(not torch.equal(few[n], all_of_them[n]) for n in few)
    assert all(torch.equal(four[n], all_of_them[n]) for n in four)
    with pytest.raises(MethodError, match="nsamples = 5, but there are 4"):
        apply("wanda", {"nsamples": 5}, source, tmp_path)


def test_random_depends_on_the_seed(source: Checkpoint, tmp_path: Path) -> None:
    one, other = (zeros(apply("random", {"seed": s}, source, tmp_path)) for s in (1, 2))
    assert all(not torch.equal(one[n], other[n]) for n in one)
    layers = list(one.values())
    assert not torch.equal(layers[0], layers[len(layers) // 2])  # the same layer of two blocks


@pytest.mark.parametrize("method", ["magnitude", "random", "wanda", "sparsegpt"])
def test_two_of_four(method: str, source: Checkpoint, tmp_path: Path) -> None:
    for zero in zeros(apply(method, {"pattern": "2:4"}, source, tmp_path)).values():
        assert (zero.reshape(-1, 4).sum(1) == 2).all()


def test_sparsegpt_leaves_less_error_than_wanda(source: Checkpoint, tmp_path: Path) -> None:
    tokens = context(tmp_path).calibration()
    errors = {}
    with torch.no_grad():
        base = load(source.folder).model(tokens).last_hidden_state
        for method in ("wanda", "sparsegpt"):
            pruned = load(apply(method, {}, source, tmp_path).folder)
            errors[method] = float((pruned.model(tokens).last_hidden_state - base).norm())
    assert errors["sparsegpt"] < errors["wanda"]


@pytest.mark.parametrize("method", ["magnitude", "sparsegpt"])
def test_storage_changes_nothing_but_the_files(
    method: str, source: Checkpoint, tmp_path: Path
) -> None:
    params = {"ratio": 0.5, "skip": ["*.1.mlp.*"]}
    dense = apply(method, params, source, tmp_path)
    sparse = apply(method, {**params, "storage": "sparse"}, source, tmp_path)
    one, two = load(dense.folder).state_dict(), load(sparse.folder).state_dict()
    assert one.keys() == two.keys()
    assert all(torch.equal(one[n], two[n]) for n in one)
    assert sparse.spec.weight_bytes < dense.spec.weight_bytes
    assert sparse.spec.parameters == dense.spec.parameters
    assert sparse.spec.dtype == dense.spec.dtype


def test_bytes_of_global_sparse_storage_are_exact(source: Checkpoint, tmp_path: Path) -> None:
    params = {"ratio": 0.37, "scope": "global", "storage": "sparse"}
    result = apply("magnitude", params, source, tmp_path)
    text = 'magnitude(ratio=0.37, scope="global", storage="sparse")'
    assert check(text, source.spec).weight_bytes == result.spec.weight_bytes


def test_plain_transformers_refuses_sparse_storage(source: Checkpoint, tmp_path: Path) -> None:
    result = apply("magnitude", {"storage": "sparse"}, source, tmp_path)
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        load_dense(result.folder)


def test_artifacts_say_what_they_are(source: Checkpoint, tmp_path: Path) -> None:
    dense = apply("magnitude", {}, source, tmp_path)
    (note,) = load(dense.folder).paredown.notes
    assert note.startswith("50% of the weights of 14 layers are zero")
    assert "neither smaller nor faster" in note
    sparse = apply("magnitude", {"storage": "sparse"}, source, tmp_path)
    (note,) = load(sparse.folder).paredown.notes
    assert "smaller files, but dense in memory" in note
    assert load(source.folder).paredown.notes == ()


def test_a_mask_that_a_later_step_undid_is_not_claimed(source: Checkpoint, tmp_path: Path) -> None:
    dense = apply("magnitude", {}, source, tmp_path)
    (tmp_path / "filled").mkdir()
    with CheckpointWriter(tmp_path / "filled", dense) as writer:
        for name in dense.names:
            writer.add(name, dense.read(name) + 0.01)
    assert load(tmp_path / "filled").paredown.notes == ()


def test_rounding_keeps_zeros_and_gptq_fills_them(source: Checkpoint, tmp_path: Path) -> None:
    """As docs/strategies.md says of quantizing a dense mask."""
    masked = apply("magnitude", {}, source, tmp_path)
    share = {}
    for method in ("rtn", "gptq"):
        made = apply(method, {"group_size": 32}, masked, tmp_path)
        name = "model.layers.0.mlp.up_proj"
        weight = dequantize(*read_packed(made, name, read_schemes(made)[name]), torch.float32)
        zero = masked.read(f"{name}.weight") == 0
        share[method] = float((weight[zero] == 0).float().mean())
    assert share["rtn"] == 1.0
    assert share["gptq"] < 1.0  # the more, the more alike the inputs are


@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
@pytest.mark.parametrize("storage", ["dense", "sparse"])
def test_experts_that_hardly_any_text_reaches_are_named(
    method: str, storage: str, tmp_path: Path
) -> None:
    folder = tiny_model(tmp_path / "model", "mixtral", tokenizer=False, dtype=torch.float32)
    found = registry.load(method)
    (tmp_path / "out").mkdir()
    text = torch.randint(0, 128, (2, 20), generator=torch.Generator().manual_seed(1))
    found.apply(
        Checkpoint(folder),
        tmp_path / "out",
        found.params_type.model_validate({"storage": storage, "skip": ["*.0.*"]}),
        MethodConformance().context(tmp_path, calibration=lambda: text),
    )
    named = Checkpoint(tmp_path / "out").config["paredown_rare_experts"]
    assert all(".experts." in name and ".layers.1." in name for name in named)
    (note,) = (n for n in load(tmp_path / "out").paredown.notes if "experts" in n)
    assert f"reached {len(named)} layers (of experts, or of blocks" in note
    assert named[0] in note


@pytest.mark.parametrize("step", ["rtn(group_size=32)", "magnitude", "wanda"])
def test_nothing_follows_sparse_storage(llama: ModelSpec, step: str) -> None:
    with pytest.raises(StrategyError, match=r'sparse.*storage="dense"'):
        check(f'wanda(storage="sparse") > {step}', llama)


def test_quantizing_a_dense_mask_is_fine(llama: ModelSpec) -> None:
    assert check("wanda > rtn(group_size=32)", llama).quantization == "compressed-tensors"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('magnitude(ratio=0.4, pattern="2:4")', "leaves half of the weights: use ratio = 0.5"),
        ('magnitude(pattern="2:4", scope="global")', "use scope = 'layer'"),
        ("wanda(ratio=1)", "ratio = 1.*less than 1"),
        ('wanda(pattern="3:4")', "pattern = '3:4'"),
        ('wanda(scope="global")', "no parameter 'scope'"),
        ("sparsegpt(damping=0)", "damping = 0.*greater than 0"),
        ("wanda(nsamples=0)", "nsamples = 0.*greater than or equal to 1"),
    ],
)
def test_wrong_parameters_are_named(llama: ModelSpec, text: str, message: str) -> None:
    with pytest.raises(StrategyError, match=message):
        check(text, llama)


def test_widths_that_do_not_divide_are_named(tmp_path: Path) -> None:
    spec = infer_spec(tiny_model(tmp_path / "odd", tokenizer=False, intermediate_size=100))
    with pytest.raises(ConfigError, match=r"down_proj.*100 .*groups of 8.*pattern = 'none'"):
        check('wanda(pattern="4:8")', spec)
    check('wanda(pattern="4:8", skip=["down_proj"])', spec)


def test_what_cannot_be_pruned_is_refused(llama: ModelSpec) -> None:
    with pytest.raises(ConfigError, match="no layer to prune"):
        check('magnitude(skip=["*"])', llama)
    fused = TensorInfo(name="model.layers.0.mlp.experts.down", dtype="BF16", shape=(4, 64, 96))
    with pytest.raises(ConfigError, match="all experts of a block in one tensor"):
        check("magnitude", llama.with_tensors([*llama.tensors, fused]))
