"""Removing whole blocks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from paredown.artifact.checkpoint import Checkpoint
from paredown.blocks.probe import probe_tokens
from paredown.errors import ConfigError, StrategyError
from paredown.methods import registry
from paredown.runtimes.torch.load import load, load_dense
from paredown.runtimes.torch.proof import compare, probe
from paredown.spec.infer import infer_spec
from paredown.spec.model import ModelSpec
from paredown.spec.strategy import parse_strategy
from paredown.spec.target import Target
from paredown.testing.conformance import MethodConformance
from paredown.testing.tiny import VOCABULARY, tiny_model


class TestDepth(MethodConformance):
    method_name = "depth"
    params: ClassVar[dict[str, Any]] = {"ratio": 0.5}


class TestDepthGpt2(MethodConformance):
    """Conv1D layers, blocks under `transformer.h`, other words in the config."""

    method_name = "depth"
    params: ClassVar[dict[str, Any]] = {"ratio": 0.5}
    family = "gpt2"


@pytest.mark.slow
class TestDepthMixtral(MethodConformance):
    method_name = "depth"
    params: ClassVar[dict[str, Any]] = {"ratio": 0.5}
    family = "mixtral"


@pytest.mark.slow
class TestDepthLlava(MethodConformance):
    """The language model's own part of the config; the vision tower keeps its blocks."""

    method_name = "depth"
    params: ClassVar[dict[str, Any]] = {"ratio": 0.5}
    family = "llava"


@pytest.mark.slow
class TestDepthOpt(MethodConformance):
    method_name = "depth"
    params: ClassVar[dict[str, Any]] = {"ratio": 0.5}
    family = "opt"


def apply(source: Checkpoint, ratio: float, tmp_path: Path) -> tuple[Checkpoint, torch.Tensor]:
    method = registry.load("depth")
    out = tmp_path / "out"
    out.mkdir()
    params = method.params_type.model_validate({"ratio": ratio})
    logits = method.apply(source, out, params, MethodConformance().context(tmp_path))
    assert logits is not None
    return Checkpoint(out), logits


def edit(folder: Path, change: Callable[[str, torch.Tensor], torch.Tensor]) -> Checkpoint:
    """The model folder with its tensors changed in place."""
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    changed = {name: change(name, value) for name, value in load_file(file).items()}
    save_file(changed, file, metadata={"format": "pt"})
    return Checkpoint(folder)


def idle(folder: Path, *blocks: int) -> Checkpoint:
    """The model with blocks that add nothing to what goes through them."""

    def change(name: str, value: torch.Tensor) -> torch.Tensor:
        last = name.endswith(("o_proj.weight", "down_proj.weight"))
        return value * (not (last and any(f".layers.{i}." in name for i in blocks)))

    return edit(folder, change)


def test_idle_blocks_go_first_and_change_nothing(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model", tokenizer=False, num_hidden_layers=6)
    source = idle(folder, 1, 4)
    result, logits = apply(source, 2 / 6, tmp_path)
    assert result.config["num_hidden_layers"] == 4
    tokens = probe_tokens(VOCABULARY)
    whole = probe(load(source.folder, dtype=torch.float32), tokens)
    compare(whole, logits, "the walk", tolerance=1e-6)
    compare(whole, probe(load_dense(result.folder, dtype=torch.float32), tokens), "the artifact")
    for new, old in enumerate((0, 2, 3, 5)):
        name = "self_attn.q_proj.weight"
        kept = source.read(f"model.layers.{old}.{name}")
        assert torch.equal(result.read(f"model.layers.{new}.{name}"), kept)


_WINDOW = {"num_hidden_layers": 4, "sliding_window": 8}


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("gemma2", _WINDOW),
        ("gemma3_text", {**_WINDOW, "sliding_window_pattern": 2, "layer_types": None}),
        ("qwen2", {**_WINDOW, "use_sliding_window": True, "max_window_layers": 2}),
        ("smollm3", {"num_hidden_layers": 4, "no_rope_layer_interval": 2}),
    ],
)
def test_what_a_block_is_does_not_depend_on_its_new_number(
    family: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    """Each kept block keeps its own kind of attention or position, as the config says."""
    folder = tiny_model(tmp_path / "model", family, tokenizer=False, **changes)
    file = folder / "config.json"
    config = json.loads(file.read_text())
    for derived in ("layer_types", "no_rope_layers"):  # as older configs are
        config.pop(derived, None)
    file.write_text(json.dumps(config | changes))
    source = idle(folder, 0)
    result, logits = apply(source, 0.25, tmp_path)
    tokens = probe_tokens(VOCABULARY)
    whole = probe(load(source.folder, dtype=torch.float32), tokens)
    compare(whole, logits, "the walk", tolerance=1e-6)
    found = probe(load_dense(result.folder, dtype=torch.float32), tokens)
    compare(whole, found, "plain transformers", tolerance=1e-6)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    return infer_spec(
        tiny_model(tmp_path_factory.mktemp("llama"), tokenizer=False, num_hidden_layers=5)
    )


def check(strategy: str, spec: ModelSpec) -> ModelSpec:
    return registry.check(parse_strategy(strategy), spec, Target())


@pytest.mark.parametrize(("ratio", "left"), [(0.01, 4), (0.3, 3), (0.5, 3), (0.8, 1)])
def test_number_of_blocks(llama: ModelSpec, ratio: float, left: int) -> None:
    after = check(f"depth(ratio={ratio})", llama)
    assert after.layers == len(after.structure.blocks) == left
    assert [block.index for block in after.structure.blocks] == list(range(left))


def test_removing_all_blocks_is_refused(llama: ModelSpec) -> None:
    with pytest.raises(ConfigError, match=r"all 5 blocks; use a ratio below 0\.9"):
        check("depth(ratio=0.95)", llama)
    assert check("depth(ratio=0.89)", llama).layers == 1


def test_unequal_blocks_are_refused(llama: ModelSpec) -> None:
    wide = "model.layers.2.mlp.up_proj.weight"
    tensors = [
        t.model_copy(update={"shape": (96, 64)}) if t.name == wide else t for t in llama.tensors
    ]
    with pytest.raises(ConfigError, match="put depth before"):
        check("depth", llama.with_tensors(tensors))


def test_depth_then_quantization_is_predicted(llama: ModelSpec) -> None:
    after = check("depth(ratio=0.4) > rtn(group_size=32)", llama)
    assert after.layers == 3
    with pytest.raises(StrategyError, match="put depth before the quantization"):
        check("rtn(group_size=32) > depth", llama)
