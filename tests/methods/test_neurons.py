"""Removal of whole neurons: the contract, unequal widths, repair, biases, caching."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file

from paredown.artifact.checkpoint import Checkpoint
from paredown.blocks.gradient_scores import neuron_products
from paredown.blocks.probe import probe_tokens
from paredown.errors import ConfigError
from paredown.methods import registry
from paredown.methods.base import AnyMethod, Params
from paredown.runtimes.registry import readers
from paredown.runtimes.torch.load import load, load_dense
from paredown.runtimes.torch.proof import compare, probe
from paredown.spec.infer import infer_spec
from paredown.spec.model import ModelSpec
from paredown.spec.strategy import parse_strategy
from paredown.spec.target import Target
from paredown.testing.conformance import MethodConformance
from paredown.testing.tiny import MLP_WIDTH, VOCABULARY, tiny_model


class TestStructuredAfr(MethodConformance):
    method_name = "structured_afr"
    params: ClassVar[dict[str, Any]] = {"ratio": 0.3}


@pytest.mark.slow
class TestStructuredAfrOpt(MethodConformance):
    """Two matrices, biases, samples and positions folded together."""

    method_name = "structured_afr"
    params: ClassVar[dict[str, Any]] = {"ratio": 0.3, "robust": True}
    family = "opt"


@pytest.mark.slow
class TestStructuredSnipPhi3(MethodConformance):
    """Gate and up in one matrix."""

    method_name = "structured_snip"
    params: ClassVar[dict[str, Any]] = {"ratio": 0.3}
    family = "phi3"


class TestStructuredReferSvdGpt2(MethodConformance):
    """Matrices stored the other way round."""

    method_name = "structured_refer_svd"
    params: ClassVar[dict[str, Any]] = {"ratio": 0.3, "repair": False}
    family = "gpt2"


class TestWandaSp(MethodConformance):
    method_name = "wanda_sp"
    params: ClassVar[dict[str, Any]] = {"ratio": 0.3}


class TestFlap(MethodConformance):
    """Biases where the model had none."""

    method_name = "flap"
    params: ClassVar[dict[str, Any]] = {"ratio": 0.3}


@pytest.mark.slow
class TestFlapOpt(MethodConformance):
    """Biases added to those that are there."""

    method_name = "flap"
    params: ClassVar[dict[str, Any]] = {"ratio": 0.3, "repair": False}
    family = "opt"


class TestL2StructuredRepaired(MethodConformance):
    method_name = "l2_structured"
    params: ClassVar[dict[str, Any]] = {"ratio": 0.3, "repair": True}


@pytest.mark.slow
class TestStructuredAfrReference(MethodConformance):
    method_name = "structured_afr"
    params: ClassVar[dict[str, Any]] = {"ratio": 0.3, "variant": "reference"}


@pytest.mark.slow
class TestStructuredAfrGemma2(MethodConformance):
    method_name = "structured_afr"
    params: ClassVar[dict[str, Any]] = {"ratio": 0.3}
    family = "gemma2"


@pytest.mark.slow
class TestStructuredAfrQwen3(MethodConformance):
    method_name = "structured_afr"
    params: ClassVar[dict[str, Any]] = {"ratio": 0.3}
    family = "qwen3"


class Unequal(MethodConformance):
    """The contract where widths differ: the bytes in all are predicted, not each shape."""

    def test_artifact_is_what_was_predicted_and_meant(
        self, method: AnyMethod, settings: Params, source: Checkpoint, tmp_path: Path
    ) -> None:
        out, claimed = self.run(method, source, settings, tmp_path, "out")
        stored = Checkpoint(out).spec
        predicted = method.predict(source.spec, settings)
        assert stored.weight_bytes == predicted.weight_bytes
        assert {t.name for t in stored.tensors} == {t.name for t in predicted.tensors}
        assert claimed is not None
        found = probe(load(out, dtype=torch.float32), probe_tokens(VOCABULARY))
        compare(claimed, found, "paredown")


@pytest.mark.slow
class TestWandaSpGlobal(Unequal):
    method_name = "wanda_sp"
    params: ClassVar[dict[str, Any]] = {"ratio": 0.4, "scope": "global"}


class TestL2GlobalPhi3(Unequal):
    method_name = "l2_structured"
    params: ClassVar[dict[str, Any]] = {"ratio": 0.4, "scope": "global"}
    family = "phi3"


class TestL2GlobalGpt2(Unequal):
    method_name = "l2_structured"
    params: ClassVar[dict[str, Any]] = {"ratio": 0.4, "scope": "global"}
    family = "gpt2"


def lopsided(folder: Path, family: str = "llama", **changes: Any) -> Path:
    """A tiny model whose last MLP has much the larger weights."""
    tiny_model(folder, family, **changes)
    file = folder / "model.safetensors"
    tensors = load_file(file)
    for name in tensors:
        if ".1.mlp." in name or ".1.fc" in name:
            tensors[name] *= 3
    save_file(tensors, file, metadata={"format": "pt"})
    return folder


def apply(strategy: str, source: Path, folder: Path) -> Path:
    """Run the steps, as a worker would."""
    folder.mkdir()
    steps = parse_strategy(strategy)
    registry.check(steps, infer_spec(source), Target())
    for i, (method, params) in enumerate(registry.resolve(steps)):
        out = folder / str(i)
        out.mkdir()
        context = MethodConformance().context(folder, source_hash=f"{strategy}{i}")
        method.apply(Checkpoint(source), out, params, context)
        source = out
    return source


def widths(folder: Path) -> list[int]:
    return [mlp.width for mlp in Checkpoint(folder).spec.structure.mlps]


GLOBAL = 'l2_structured(ratio=0.4, scope="global")'


@pytest.fixture(scope="module")
def unequal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unequal")
    return apply(GLOBAL, lopsided(folder / "model"), folder / "out")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    return infer_spec(tiny_model(tmp_path_factory.mktemp("llama"), tokenizer=False))


def test_the_weaker_layer_gives_more(unequal: Path) -> None:
    assert widths(unequal) == [64, 128]  # 2 x 96 in all; 64 are the least
    config = Checkpoint(unequal).config
    assert config["intermediate_size"] == 128
    assert config["mlp_widths"] == [64, 128]


def test_plain_transformers_refuses_unequal_widths(unequal: Path) -> None:
    with pytest.raises(RuntimeError, match=r"size mismatch|mismatched"):
        load_dense(unequal)


@pytest.mark.parametrize(
    "step",
    [
        "rtn(bits=4, group_size=32)",
        "gptq(bits=4, group_size=32)",
        "wanda_sp(ratio=0.3)",
    ],
)
def test_unequal_widths_can_be_followed(step: str, unequal: Path, tmp_path: Path) -> None:
    method, params = registry.resolve(parse_strategy(step))[0]
    source = Checkpoint(unequal)
    predicted = registry.check(parse_strategy(step), source.spec, Target())
    out = tmp_path / "out"
    out.mkdir()
    claimed = method.apply(source, out, params, MethodConformance().context(tmp_path))
    assert Checkpoint(out).spec.weight_bytes == predicted.weight_bytes
    found = probe(load(out, dtype=torch.float32), probe_tokens(VOCABULARY))
    if claimed is not None:
        compare(claimed, found, "paredown")
    if step.startswith("wanda_sp"):
        assert widths(out) == [64, 96]  # 64 are the least


def test_runtimes_of_what_follows_unequal_widths(unequal: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    method, params = registry.resolve(parse_strategy("rtn(bits=4, group_size=32)"))[0]
    context = MethodConformance().context(tmp_path)
    method.apply(Checkpoint(unequal), tmp_path / "out", params, context)
    assert readers(infer_spec(tmp_path / "out")) == ("torch",)
    assert "transformers" in registry.default_readers(method)


@pytest.mark.parametrize("step", ["int8", "nf4"])
def test_bitsandbytes_is_refused_after_unequal_widths(step: str, llama: ModelSpec) -> None:
    pytest.importorskip("bitsandbytes")
    with pytest.raises(ConfigError, match=rf"{step} .*unequal width \(64 to 128\)"):
        registry.check(parse_strategy(f"{GLOBAL} > {step}"), llama, Target())


def test_equal_widths_pad_with_silent_neurons(tmp_path: Path) -> None:
    source = lopsided(tmp_path / "model")
    bare = apply(GLOBAL, source, tmp_path / "bare")
    padded = apply(GLOBAL.replace(")", ", equal_widths=true)"), source, tmp_path / "padded")
    assert widths(padded) == [128, 128]
    assert "mlp_widths" not in Checkpoint(padded).config
    tokens = probe_tokens(VOCABULARY)
    plain = probe(load_dense(padded, dtype=torch.float32), tokens)
    torch.testing.assert_close(plain, probe(load(bare, dtype=torch.float32), tokens))


@pytest.mark.parametrize("family", ["phi3", "gpt2", "opt"])
def test_padding_keeps_the_shape_of_every_family(family: str, tmp_path: Path) -> None:
    source = lopsided(tmp_path / "model", family)
    padded = apply(GLOBAL.replace(")", ", equal_widths=true)"), source, tmp_path / "padded")
    bare = apply(GLOBAL, source, tmp_path / "bare")
    assert len(set(widths(bare))) == 2
    tokens = probe_tokens(VOCABULARY)
    plain = probe(load_dense(padded, dtype=torch.float32), tokens)
    torch.testing.assert_close(plain, probe(load(bare, dtype=torch.float32), tokens))


def test_a_runtime_that_needs_one_width_refuses_global_scope(llama: ModelSpec) -> None:
    strategy = parse_strategy(GLOBAL)
    with pytest.raises(ConfigError, match=r"unequal width.*transformers.*equal_widths"):
        registry.check(strategy, llama, Target(runtime="transformers"))
    padded = parse_strategy(GLOBAL.replace(")", ", equal_widths=true)"))
    registry.check(padded, llama, Target(runtime="transformers"))


def test_runtimes_depend_on_the_scope(llama: ModelSpec) -> None:
    assert readers(registry.check(parse_strategy(GLOBAL), llama, Target())) == ("torch",)
    plain = registry.check(parse_strategy("l2_structured(ratio=0.4)"), llama, Target())
    assert "transformers" in readers(plain)


def test_equal_widths_without_global_scope_is_refused() -> None:
    with pytest.raises(ConfigError, match="widths are equal already"):
        registry.resolve(parse_strategy("l2_structured(equal_widths=true)"))


def test_prediction_of_global_scope_shows_unequal_widths(llama: ModelSpec) -> None:
    after = registry.check(parse_strategy(GLOBAL), llama, Target())
    assert [mlp.width for mlp in after.structure.mlps] == [128, 64]
    uniform = registry.check(parse_strategy("l2_structured(ratio=0.4)"), llama, Target())
    assert after.weight_bytes == uniform.weight_bytes


def test_data_is_read_only_for_the_repair() -> None:
    for text, expected in (("l2_structured", False), ("l2_structured(repair=true)", True)):
        method, params = registry.resolve(parse_strategy(text))[0]
        assert method.reads_data(params) is expected


def test_flap_keeps_the_mean_output(tmp_path: Path) -> None:
    """FLAP's bias, without repair: the removed neurons' mean contribution."""
    source = tiny_model(tmp_path / "model", dtype=torch.float32)
    out = apply("flap(ratio=0.3, repair=false)", source, tmp_path / "out")
    config = Checkpoint(out).config
    assert config["mlp_bias"] is True
    tokens = MethodConformance().context(tmp_path).calibration()
    means = []
    for folder in (source, out):
        model = load_dense(folder)
        seen: list[torch.Tensor] = []
        down = model.model.layers[0].mlp.down_proj
        down.register_forward_hook(lambda m, a, y, seen=seen: seen.append(y.mean((0, 1))))
        model(tokens)
        means.append(seen[0])
        if folder == out:
            assert down.bias.abs().max() > 0
            assert not model.model.layers[0].mlp.up_proj.bias.any()
    torch.testing.assert_close(means[1], means[0], rtol=1e-4, atol=1e-5)


def test_flap_with_a_bias_is_refused_where_the_config_has_none(tmp_path: Path) -> None:
    spec = infer_spec(tiny_model(tmp_path, "qwen2", tokenizer=False))
    registry.check(parse_strategy("flap(ratio=0.3)"), spec, Target())
    with pytest.raises(ConfigError, match=r'cannot hold biases.*bias = "off"'):
        registry.check(parse_strategy('flap(ratio=0.3, bias="on")'), spec, Target())


def test_repair_brings_the_logits_closer(tmp_path: Path) -> None:
    source = tiny_model(tmp_path / "model", dtype=torch.float32)
    tokens = MethodConformance().context(tmp_path).calibration()
    base = load_dense(source)(tokens).logits.detach()
    errors = []
    for repair in ("true", "false"):
        out = apply(f"random_structured(ratio=0.2, repair={repair})", source, tmp_path / repair)
        errors.append(float((load_dense(out)(tokens).logits.detach() - base).square().mean()))
    assert errors[0] < 0.5 * errors[1]


def test_scores_are_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another ratio reads the gradients; AFR reads those that SNIP has measured."""
    source = Checkpoint(tiny_model(tmp_path / "model", tokenizer=False))
    context = MethodConformance().context(tmp_path)

    def run(name: str, strategy: str) -> None:
        method, params = registry.resolve(parse_strategy(strategy))[0]
        out = tmp_path / name
        out.mkdir()
        method.apply(source, out, params, context)

    run("first", "structured_snip(ratio=0.3)")
    asked: list[Any] = []

    def watched(source: Any, tokens: Any, losses: Any, **options: Any) -> Any:
        asked.append(tuple(losses))
        return neuron_products(source, tokens, losses, **options)

    monkeypatch.setattr("paredown.blocks.neuron_scores.neuron_products", watched)
    run("second", "structured_snip(ratio=0.5)")
    run("third", "structured_afr(ratio=0.3)")
    run("fourth", "structured_afr(ratio=0.5, beta=0.5, robust=true)")
    assert asked == [("frobenius",)]
    run("fifth", "structured_snip(ratio=0.3, nsamples=2)")
    assert asked[1:] == [("ce",)]  # other windows, another measurement


def test_fewer_windows_than_asked_are_all_used_and_said(tmp_path: Path) -> None:
    source = Checkpoint(tiny_model(tmp_path / "model", tokenizer=False))
    said: list[str] = []
    context = MethodConformance().context(
        tmp_path, progress=lambda share, message: said.append(message)
    )
    (tmp_path / "out").mkdir()
    method, params = registry.resolve(parse_strategy("wanda_sp(ratio=0.3)"))[0]
    method.apply(source, tmp_path / "out", params, context)
    assert "scores use all 4 calibration windows there are" in said


def test_wide_mlps_keep_multiples_of_64() -> None:
    from paredown.spec.structure import kept_width

    assert kept_width(1536, 0.2) == 1216  # 19 x 64; 1228.8 asked for
    assert kept_width(512, 0.1) == 448  # 460.8 is nearer to 448 than to 512
    assert kept_width(480, 0.1) == 448  # a multiple of 32; 432 is as near to 416
    assert kept_width(MLP_WIDTH, 0.3) == 128
    assert kept_width(600, 0.2) == 480  # not a multiple of 64 itself: of 32
