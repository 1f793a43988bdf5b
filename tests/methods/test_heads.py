"""Removing groups of attention heads."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from paredown.artifact.checkpoint import Checkpoint
from paredown.blocks.probe import probe_tokens
from paredown.errors import ConfigError
from paredown.methods import registry
from paredown.runtimes.torch.load import load
from paredown.runtimes.torch.proof import compare, probe
from paredown.spec.infer import infer_spec
from paredown.spec.model import ModelSpec
from paredown.spec.strategy import parse_strategy
from paredown.spec.target import Target
from paredown.testing.conformance import MethodConformance
from paredown.testing.tiny import VOCABULARY, tiny_model


class TestHeads(MethodConformance):
    method_name = "heads"
    params: ClassVar[dict[str, Any]] = {"ratio": 0.5}


class TestHeadsQwen2(MethodConformance):
    """Biases on q, k and v; the config's class knows no head_dim."""

    method_name = "heads"
    params: ClassVar[dict[str, Any]] = {"ratio": 0.5}
    family = "qwen2"


@pytest.mark.slow
class TestHeadsQwen3(MethodConformance):
    """Norms of queries and keys, shared by all heads."""

    method_name = "heads"
    params: ClassVar[dict[str, Any]] = {"ratio": 0.5}
    family = "qwen3"


@pytest.mark.parametrize(
    "family",
    [
        *("mistral", "qwen3", "gemma2", "smollm3"),
        *(pytest.param(f, marks=pytest.mark.slow) for f in ("gemma", "gemma3_text")),
        *(pytest.param(f, marks=pytest.mark.slow) for f in ("mixtral", "qwen2_moe", "qwen3_moe")),
    ],
)
def test_artifact_is_what_was_meant(family: str, tmp_path: Path) -> None:
    class Suite(MethodConformance):
        method_name = "heads"

    Suite.family = family
    folder = tiny_model(tmp_path / "model", family, tokenizer=False)
    method = registry.load("heads")
    Suite().test_artifact_is_what_was_predicted_and_meant(
        method, method.params_type.model_validate({"ratio": 0.5}), Checkpoint(folder), tmp_path
    )


def apply(source: Checkpoint, ratio: float, tmp_path: Path) -> Checkpoint:
    method = registry.load("heads")
    out = tmp_path / "out"
    out.mkdir()
    params = method.params_type.model_validate({"ratio": ratio})
    method.apply(source, out, params, MethodConformance().context(tmp_path))
    return Checkpoint(out)


def test_heads_that_are_never_heard_change_nothing(tmp_path: Path) -> None:
    """Another group in each block; the cache shrinks, what the model says does not change."""
    from safetensors.torch import load_file, save_file

    folder = tiny_model(tmp_path / "model", tokenizer=False, num_key_value_heads=4)
    tensors = load_file(folder / "model.safetensors")
    for block, group in ((0, 2), (1, 0)):
        output = tensors[f"model.layers.{block}.self_attn.o_proj.weight"]
        output[:, group * 16 : (group + 1) * 16] = 0
        output = tensors[f"model.layers.{block}.self_attn.o_proj.weight"]
        output[:, 48:] = 0
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    source = Checkpoint(folder)
    result = apply(source, 0.5, tmp_path)
    for block, kept in ((0, (0, 1)), (1, (1, 2))):
        name = f"model.layers.{block}.self_attn.v_proj.weight"
        rows = [source.read(name)[group * 16 : (group + 1) * 16] for group in kept]
        assert torch.equal(result.read(name), torch.cat(rows))
    tokens = probe_tokens(VOCABULARY)
    whole = probe(load(folder, dtype=torch.float32), tokens)
    compare(whole, probe(load(result.folder, dtype=torch.float32), tokens), "paredown")
    config = result.config
    assert (config["num_attention_heads"], config["num_key_value_heads"]) == (2, 2)
    assert config["head_dim"] == 16


def test_the_output_projection_is_fitted_again(tmp_path: Path) -> None:
    """On the calibration text, attention outputs come closer than with the columns alone."""
    source = Checkpoint(tiny_model(tmp_path / "model", tokenizer=False, dtype=torch.float32))
    result = apply(source, 0.5, tmp_path)
    name = "model.layers.0.self_attn.o_proj"
    seen: dict[str, torch.Tensor] = {}
    model = load(source.folder)
    model.get_submodule(name).register_forward_hook(
        lambda module, args, output: seen.update(x=args[0].flatten(0, 1), y=output.flatten(0, 1))
    )
    with torch.no_grad():
        model(MethodConformance().context(tmp_path).calibration())
    full, fitted = source.read(f"{name}.weight"), result.read(f"{name}.weight")
    value = "model.layers.0.self_attn.v_proj.weight"
    first = torch.equal(result.read(value), source.read(value)[:16])
    columns = slice(0, 32) if first else slice(32, 64)
    alone = (seen["x"][:, columns] @ full[:, columns].T - seen["y"]).norm()
    assert (seen["x"][:, columns] @ fitted.T - seen["y"]).norm() < 0.99 * alone


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    return infer_spec(tiny_model(tmp_path_factory.mktemp("llama"), tokenizer=False))


def check(strategy: str, spec: ModelSpec) -> ModelSpec:
    return registry.check(parse_strategy(strategy), spec, Target())


def test_predicted_heads(llama: ModelSpec) -> None:
    after = check("heads", llama)
    assert (after.heads, after.kv_heads, after.head_dim) == (2, 1, 16)


@pytest.mark.parametrize("family", ["opt", "gpt2", "phi3"])
def test_families_without_a_head_dim_are_refused(family: str, tmp_path: Path) -> None:
    spec = infer_spec(tiny_model(tmp_path / family, family, tokenizer=False))
    with pytest.raises(ConfigError, match="cannot say that heads are fewer"):
        check("heads", spec)


def test_too_few_or_too_many_are_refused(llama: ModelSpec, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"all 2 key-value heads; use a ratio below 0\.75"):
        check("heads(ratio=0.8)", llama)
    single = infer_spec(tiny_model(tmp_path / "mqa", tokenizer=False, num_key_value_heads=1))
    with pytest.raises(ConfigError, match="only one key-value head"):
        check("heads", single)


def test_numbers_that_the_config_refuses_are_named(tmp_path: Path) -> None:
    """LlamaConfig wants heads to divide the hidden size, whatever head_dim says."""
    spec = infer_spec(tiny_model(tmp_path / "mha", tokenizer=False, num_key_value_heads=4))
    with pytest.raises(ConfigError, match=r"leaves 3 heads.*hidden size of 64.*\[0\.5, 0\.75\]"):
        check("heads(ratio=0.25)", spec)
    mistral = infer_spec(
        tiny_model(tmp_path / "mistral", "mistral", tokenizer=False, num_key_value_heads=4)
    )
    assert check("heads(ratio=0.25)", mistral).heads == 3
