"""Eight-bit linears against the same numbers in float, and against plain transformers' layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from paredown.artifact.checkpoint import Checkpoint
from paredown.artifact.eight_bit import EightBit, read_eight_bit
from paredown.blocks.eight_bit import write_eight_bit
from paredown.blocks.rewrite import probe_walk
from paredown.errors import ModelError, VerificationError
from paredown.ops.eight_bit import FP8, INT8, Number, quantize_rows
from paredown.runtimes.torch.eight_bit import (
    EightBitWeight,
    eight_bit_linears,
    unrounded_activations,
)
from paredown.runtimes.torch.load import load, load_dense
from paredown.runtimes.torch.proof import check_kernels
from paredown.store.atomic import write_json
from paredown.testing.tiny import tiny_model

HOW = [EightBit(INT8, True), EightBit(FP8, True), EightBit(FP8, False)]


def write(folder: Path, how: EightBit, family: str = "llama", **changes: Any) -> Path:
    source = Checkpoint(tiny_model(folder / "model", family, tokenizer=False, **changes))
    out = folder / "out"
    out.mkdir()
    write_eight_bit(
        source,
        out,
        walk=probe_walk(source, device="cpu", trust_remote_code=False),
        chosen=set(source.spec.structure.linears),
        how=how,
        prepare=lambda block, module, weights: {},
        progress=lambda share, message: None,
    )
    return out


def part(rows: int, seed: int, number: Number, *, bias: bool = False) -> Any:
    generator = torch.Generator().manual_seed(seed)
    codes, scale = quantize_rows(torch.randn(rows, 64, generator=generator), number)
    return codes, scale, torch.randn(rows, generator=generator) if bias else None


def slow(x: Tensor, made: Any, how: EightBit) -> Tensor:
    """Summed in float64, from numbers found in float32."""
    codes, scale, bias = made
    if how.activations:
        number = how.number
        steps = x.float().abs().amax(-1, keepdim=True) / number.reach
        found = (x.float() / steps).clamp(number.low, number.high)
        kept = found.round() if number is INT8 else found.to(number.dtype)
        x = kept.double() * steps
    y: Tensor = x.double() @ (codes.double() * scale.double()).T
    return y if bias is None else y + bias


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_are_those_of_the_numbers(how: EightBit, dtype: torch.dtype) -> None:
    parts = [part(24, 1, how.number, bias=True), part(7, 2, how.number)]
    linears = eight_bit_linears(parts, how, dtype=dtype, device="cpu")
    x = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(0)).to(dtype)
    for linear, made in zip(linears, parts, strict=True):
        y, exact = linear(x), slow(x, made, how)
        assert y.dtype == dtype
        limit = 1e-5 if dtype == torch.float32 else 0.015
        assert (y.double() - exact).norm() <= limit * exact.norm()


@pytest.mark.parametrize("how", HOW)
def test_layers_compute_what_plain_transformers_computes(tmp_path: Path, how: EightBit) -> None:
    out = write(tmp_path, how, "qwen2")
    ours, plain = load(out, dtype=torch.float32), load_dense(out, dtype=torch.float32)
    plain(torch.tensor([[1, 2]]))  # unpacks on the first call
    names = Checkpoint(out).spec.structure.linears
    assert len(names) == 14
    for name in names:
        x = torch.randn(1, 6, ours.get_submodule(name).in_features)
        one, two = ours.get_submodule(name)(x), plain.get_submodule(name)(x)
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)


def test_unrounded_activations_are_a_state_of_both(tmp_path: Path) -> None:
    out = write(tmp_path, HOW[0])
    name = "model.layers.0.mlp.up_proj"
    for model in (load(out, dtype=torch.float32), load_dense(out, dtype=torch.float32)):
        model(torch.tensor([[1, 2]]))
        layer = model.get_submodule(name)
        x = torch.randn(1, 4, 64, generator=torch.Generator().manual_seed(0))
        rounded = layer(x)
        with unrounded_activations(model):
            exact = layer(x.clone())
        error = (rounded - exact).norm() / exact.norm()
        assert 0.001 < error < 0.02
        assert torch.equal(layer(x.clone()), rounded)


def test_kernels_are_checked(tmp_path: Path) -> None:
    model = load(write(tmp_path, HOW[0]))
    assert model.paredown.packed == {"int8xint8": 14}
    assert check_kernels(model) < 0.01
    weight = next(m for m in model.modules() if isinstance(m, EightBitWeight))
    weight.multiply = lambda x: 1.1 * weight.exact(x)  # type: ignore[method-assign]
    with pytest.raises(VerificationError, match="int8xint8 kernel is off by 10"):
        check_kernels(model)


def test_memory_is_a_byte_per_weight() -> None:
    how = HOW[0]
    [linear] = eight_bit_linears([part(32, 0, INT8)], how, dtype=torch.bfloat16, device="cpu")
    nbytes = sum(b.numel() * b.element_size() for b in linear.buffers())
    assert nbytes == 32 * 64 + 4 * 32


def test_fp8_says_that_it_is_not_faster(tmp_path: Path) -> None:
    model = load(write(tmp_path, HOW[1]))
    assert model.paredown.packed == {"unpack": 14}
    assert "not faster" in model.paredown.notes[0]
    assert model.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("weights", "strategy"), "tensor"),
        (("weights", "symmetric"), False),
        (("input_activations", "dynamic"), False),
        (("input_activations", "strategy"), "tensor"),
    ],
)
def test_other_variants_are_refused(tmp_path: Path, path: tuple[str, str], value: object) -> None:
    out = write(tmp_path, HOW[0])
    config = Checkpoint(out).config
    config["quantization_config"]["config_groups"]["group_0"][path[0]][path[1]] = value
    write_json(out / "config.json", config)
    with pytest.raises(ModelError, match="one weight scale per row and dynamic"):
        read_eight_bit(Checkpoint(out))
