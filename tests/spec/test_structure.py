"""Blocks, linears and MLPs are found by name in every family; experts and images are told apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from paredown.blocks.skeleton import read_matrix
from paredown.spec.infer import infer_spec, spec_from
from paredown.spec.model import ModelSpec, TensorInfo
from paredown.spec.scheme import Scheme, needs_own_format
from paredown.spec.sizes import bytes_at, memory_to_quantize
from paredown.spec.structure import (
    find_structure,
    fused_experts,
    is_expert,
    is_vision,
    matrix_shape,
    stored_transposed,
)
from paredown.testing.tiny import MLP_WIDTH, WIDTH, tiny_model

FAMILIES = {
    "llama": (7, 1, ("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj", MLP_WIDTH),
    "gemma3_text": (7, 1, ("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj", MLP_WIDTH),
    "phi3": (4, 2, ("mlp.gate_up_proj",), "mlp.down_proj", MLP_WIDTH),
    "opt": (6, 1, ("fc1",), "fc2", MLP_WIDTH),
    "gpt2": (4, 1, ("mlp.c_fc",), "mlp.c_proj", 4 * WIDTH),
    "llava": (7, 1, ("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj", MLP_WIDTH),
}
"""Linears of a block, parts of the MLP's inputs, inputs, output, width."""
MOE = {"mixtral": 4 + 4 * 3, "qwen2_moe": 4 + 4 * 3 + 3, "qwen3_moe": 4 + 4 * 3}
"""Linears of a block: attention, 4 experts, and the shared expert."""


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelSpec]:
    root = tmp_path_factory.mktemp("structure")
    return {
        name: infer_spec(tiny_model(root / name, name, tokenizer=False))
        for name in (*FAMILIES, *MOE)
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_mlps_of_dense_families(family: str, specs: dict[str, ModelSpec]) -> None:
    linears, parts, inputs, output, width = FAMILIES[family]
    structure = specs[family].structure
    assert [len(block.linears) for block in structure.blocks] == [linears] * 2
    for block, mlp in zip(structure.blocks, structure.mlps, strict=True):
        assert mlp.block == block.index
        assert mlp.inputs == tuple(f"{block.prefix}.{tail}" for tail in inputs)
        assert mlp.output == f"{block.prefix}.{output}"
        assert (mlp.width, mlp.parts) == (width, parts)
        for name in mlp.inputs:
            assert matrix_shape(specs[family], name) == (parts * width, WIDTH)
        assert matrix_shape(specs[family], mlp.output) == (WIDTH, width)


@pytest.mark.parametrize("family", MOE)
def test_every_expert_has_linears_of_its_own(family: str, specs: dict[str, ModelSpec]) -> None:
    structure = specs[family].structure
    assert [len(block.linears) for block in structure.blocks] == [MOE[family]] * 2
    assert sum(is_expert(name) for name in structure.linears) == 2 * 4 * 3
    assert not any(name.endswith((".gate", "expert_gate")) for name in structure.linears)
    assert structure.mlps == ()


def test_the_vision_tower_has_its_own_mlps_and_nothing_else(specs: dict[str, ModelSpec]) -> None:
    spec = specs["llava"]
    structure = spec.structure
    assert not any(is_vision(name) for name in structure.linears)
    assert [m.block for m in structure.vision_mlps] == [0, 1]
    for mlp in structure.vision_mlps:
        assert matrix_shape(spec, mlp.inputs[0]) == (mlp.width, 32)
        assert mlp.output.endswith("mlp.fc2")
        assert mlp.width == 128
    assert all(specs[name].structure.vision_mlps == () for name in specs if name != "llava")


def test_only_gpt2_is_stored_transposed(specs: dict[str, ModelSpec]) -> None:
    for family, spec in specs.items():
        found = {stored_transposed(spec, name) for name in spec.structure.linears}
        assert found == {family == "gpt2"}
    spec = specs["gpt2"]
    assert not stored_transposed(spec, "transformer.wte")
    assert not stored_transposed(spec, "transformer.h.0.attn.c_attn.bias")


def fuse(spec: ModelSpec) -> ModelSpec:
    """The same model with all experts of a block in one tensor per projection."""
    tensors = [t for t in spec.tensors if not is_expert(t.name)]
    for block in spec.structure.blocks:
        experts = f"{block.prefix}.mlp.experts"
        for leaf, shape in (("gate_up_proj", (4, 192, WIDTH)), ("down_proj", (4, WIDTH, 96))):
            tensors.append(TensorInfo(name=f"{experts}.{leaf}", dtype=spec.dtype, shape=shape))
    config = {"model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2}
    return spec_from(
        config | {"vocab_size": 128, "hidden_size": WIDTH, "num_attention_heads": 4},
        tensors,
        name="fused",
    )


def test_fused_experts_count_like_separate_ones(specs: dict[str, ModelSpec]) -> None:
    apart = specs["qwen3_moe"]
    fused = fuse(apart)
    assert len(fused_experts(fused)) == 4
    assert fused_experts(apart) == ()
    assert (fused.parameters, fused.active_parameters) == (
        apart.parameters,
        apart.active_parameters,
    )
    assert fused.experts == 4
    assert bytes_at(fused, "int4", 32) == bytes_at(apart, "int4", 32)
    assert bytes_at(fused, "int8", -1) == bytes_at(apart, "int8", -1)
    assert memory_to_quantize(fused, 1000) == memory_to_quantize(apart, 1000)


def scheme(bits: int = 4, *, symmetric: bool = True) -> Scheme:
    return Scheme(bits, 32, symmetric)


@pytest.mark.parametrize(
    ("family", "own"),
    [("llama", False), ("phi3", False), ("llava", False), ("mixtral", False), ("gpt2", True)],
)
def test_one_scheme_for_all_linears_is_standard(
    family: str, own: bool, specs: dict[str, ModelSpec]
) -> None:
    schemes = dict.fromkeys(specs[family].structure.linears, scheme())
    assert needs_own_format(specs[family], schemes) is own


@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_experts_that_differ_cannot_be_standard(family: str, specs: dict[str, ModelSpec]) -> None:
    spec = specs[family]
    linears = spec.structure.linears
    own = family == "mixtral"
    mixed = dict.fromkeys(linears, scheme()) | {linears[0]: scheme(8)}
    assert needs_own_format(spec, mixed) is own
    assert needs_own_format(spec, dict.fromkeys(linears[1:], scheme())) is own
    uneven = dict.fromkeys(linears, scheme(symmetric=False))
    assert needs_own_format(spec, uneven) is own
    attention = [n for n in linears if "self_attn" in n]
    rest = {n: scheme() for n in linears if n not in attention}
    assert needs_own_format(spec, rest) is False  # all experts alike, attention left out
    assert needs_own_format(spec, dict.fromkeys(linears, scheme()) | {head(spec): scheme(8)})


def head(spec: ModelSpec) -> str:
    (name,) = (t.name for t in spec.tensors if t.name.startswith("lm_head"))
    return name.removesuffix(".weight")


def test_a_fused_mlp_whose_rows_do_not_divide_is_none() -> None:
    def tensor(name: str, *shape: int) -> TensorInfo:
        return TensorInfo(name=f"model.layers.0.mlp.{name}.weight", dtype="BF16", shape=shape)

    config: dict[str, Any] = {"model_type": "phi3"}
    stored = [tensor("gate_up_proj", 21, 8), tensor("down_proj", 8, 10)]
    assert find_structure(spec_from(config, stored, name="odd")).mlps == ()


def test_neuron_i_of_a_fused_mlp_is_row_i_of_each_part(tmp_path: Path) -> None:
    """What `Mlp.parts` says is what the model computes."""
    from paredown.artifact.checkpoint import Checkpoint
    from paredown.runtimes.torch.load import load_dense

    folder = tiny_model(tmp_path / "phi3", "phi3", dtype=torch.float32, tokenizer=False)
    assert json.loads((folder / "config.json").read_text())["hidden_act"] == "silu"
    checkpoint = Checkpoint(folder)
    mlp = checkpoint.spec.structure.mlps[0]
    x = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(0))
    gate, up = read_matrix(checkpoint, mlp.inputs[0]).split(mlp.width)
    hidden = torch.nn.functional.silu(x @ gate.T) * (x @ up.T)
    expected = load_dense(folder).model.layers[0].mlp(x)
    torch.testing.assert_close(hidden @ read_matrix(checkpoint, mlp.output).T, expected)
