"""The layer bank: errors and bytes kept beside the codes, readable without computing anything."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from paredown.artifact.checkpoint import Checkpoint
from paredown.artifact.compressed_tensors import read_packed
from paredown.blocks import bank as bank_module
from paredown.blocks.bank import LayerBank, Solved
from paredown.blocks.hessians import HessianBank
from paredown.methods import registry
from paredown.methods.base import Context
from paredown.methods.gptq import NUMERICS
from paredown.methods.shared.groups import hessians_on
from paredown.ops.affine import Grid
from paredown.ops.errors import OutputError
from paredown.ops.grids import dequantize
from paredown.runtimes.torch.load import load_dense
from paredown.spec.scheme import Scheme
from paredown.spec.structure import Block
from paredown.testing.conformance import MethodConformance
from paredown.testing.tiny import tiny_model

SCHEME = Scheme(bits=3, group_size=32, symmetric=True)
OTHER = Scheme(bits=4, group_size=32, symmetric=True)


class Made:
    """A model rounded by a method, with what its bank knows."""

    def __init__(self, folder: Path, method: str, **params: Any) -> None:
        self.source = Checkpoint(tiny_model(folder / "model", dtype=torch.float32, tokenizer=False))
        self.out = folder / "out"
        self.out.mkdir()
        self.context: Context = MethodConformance().context(folder)
        found = registry.load(method)
        settings = found.params_type.model_validate({"bits": 3, "group_size": 32, **params})
        found.apply(self.source, self.out, settings, self.context)
        self.made = Checkpoint(self.out)
        self.hessians: HessianBank = hessians_on(self.source, self.context)
        self.bank = LayerBank(self.hessians, settings.model_dump(include=NUMERICS))

    @property
    def blocks(self) -> tuple[Block, ...]:
        return tuple(self.source.spec.structure.blocks)

    def groups(self, block: Block) -> list[list[str]]:
        return self.hessians.sharing(block, list(block.linears))


@torch.no_grad()
def outputs_of(made: Made, name: str) -> tuple[float, float]:
    """(mean |(W' - W) x|^2, mean |W x|^2) over what layer `name` sees of the calibration text in
    the uncompressed model, by running it."""
    model: Any = load_dense(made.source.folder)
    seen: list[torch.Tensor] = []
    model.get_submodule(name).register_forward_pre_hook(lambda m, a: seen.append(a[0]))
    for window in made.context.calibration():
        model(window[None])
    x = torch.cat([states.flatten(0, -2) for states in seen]).double()
    weight = made.source.read(f"{name}.weight").double()
    change = dequantize(*read_packed(made.made, name, SCHEME)).double() - weight
    return tuple(float((x @ m.T).square().sum(1).mean()) for m in (change, weight))  # type: ignore[return-value]


@pytest.fixture(scope="module")
def gptq(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("gptq"), "gptq")


def test_errors_are_those_of_the_stored_layers_outputs(gptq: Made) -> None:
    for block in gptq.blocks:
        for names in gptq.groups(block):
            entries = gptq.bank.entries(block, names, [SCHEME])[SCHEME]
            assert list(entries) == names
            for name in names:
                squared, power = outputs_of(gptq, name)
                assert entries[name].error.squared == pytest.approx(squared, rel=1e-3)
                assert entries[name].error.power == pytest.approx(power, rel=1e-3)
            whole = gptq.bank.error(block, names, SCHEME)
            assert whole is not None
            assert whole.squared == pytest.approx(sum(e.error.squared for e in entries.values()))
            assert 0 < whole.relative < 0.2


def test_bytes_are_those_of_the_checkpoint(gptq: Made) -> None:
    stored = gptq.made.spec.by_name
    for block in gptq.blocks:
        for names in gptq.groups(block):
            for name, entry in gptq.bank.entries(block, names, [SCHEME])[SCHEME].items():
                leaves = ("weight_packed", "weight_scale", "weight_shape")
                tensors = [gptq.made.read(f"{name}.{leaf}") for leaf in leaves]
                assert entry.nbytes == sum(tensor.nbytes for tensor in tensors)
                assert f"{name}.weight_zero_point" not in stored


def test_what_was_not_computed_is_not_known(gptq: Made) -> None:
    block = gptq.blocks[0]
    names = next(group for group in gptq.groups(block) if len(group) > 1)
    assert gptq.bank.error(block, names, OTHER) is None
    assert list(gptq.bank.entries(block, names, [OTHER, SCHEME])) == [SCHEME]
    assert gptq.bank.error(block, names[:1], SCHEME) is None  # solved together, kept together
    others = LayerBank(gptq.hessians, {"damping": 0.5})
    assert others.error(block, names, SCHEME) is None
    text = replace(gptq.context, calibration=lambda: torch.ones(4, 32).long())
    elsewhere = LayerBank(hessians_on(gptq.source, text), gptq.bank.params)
    assert elsewhere.error(block, names, SCHEME) is None


def test_an_error_falls_by_about_four_per_bit(gptq: Made, tmp_path: Path) -> None:
    finer = Made(tmp_path, "gptq", bits=4)
    ratios = []
    for block in gptq.blocks:
        for names in gptq.groups(block):
            coarse, fine = (
                gptq.bank.error(block, names, SCHEME),
                finer.bank.error(block, names, OTHER),
            )
            assert coarse is not None
            assert fine is not None
            ratios.append(coarse.squared / fine.squared)
    assert 3.0 < sum(ratios) / len(ratios) < 8.0


def solved(value: int) -> dict[str, Solved]:
    grid = Grid(3, 32, torch.ones(2, 1), None)
    codes = torch.full((2, 32), value, dtype=torch.int8)
    return {"layer": Solved(codes, grid, OutputError(float(value), 8.0), torch.ones(2))}


def test_an_entry_is_read_not_computed_and_an_old_one_is_computed_again(
    gptq: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank, block = LayerBank(gptq.hessians, {"of": "this test"}), gptq.blocks[0]

    def get(value: int, content: str = "") -> int:
        layers = bank.of_layers(block, ["layer"], SCHEME, lambda: solved(value), content=content)
        codes, grid = layers["layer"]
        assert isinstance(grid, Grid)
        assert (grid.bits, grid.group_size, grid.zero) == (3, 32, None)
        return int(codes[0, 0])

    assert [get(1), get(2)] == [1, 1]
    assert get(2, content="scaled") == 2
    assert bank.error(block, ["layer"], SCHEME) == OutputError(1.0, 8.0)
    assert bank.error(block, ["layer"], SCHEME, content="scaled") == OutputError(2.0, 8.0)
    monkeypatch.setattr(bank_module, "VERSION", bank_module.VERSION + 1)
    assert bank.error(block, ["layer"], SCHEME) is None
    assert get(3) == 3


@pytest.mark.parametrize("rounding", ["gptq", "nearest"])
def test_awq_reads_its_rounding_from_the_bank(
    rounding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The factors are searched again, the scaled layers are not rounded again."""
    first = Made(tmp_path, "awq", rounding=rounding, symmetric=True)
    files = list(tmp_path.rglob("layers/*.safetensors"))
    assert len(files) == sum(len(block.linears) for block in first.blocks)
    monkeypatch.setattr("paredown.methods.awq._Rounding.final", None)
    out = tmp_path / "again"
    out.mkdir()
    method = registry.load("awq")
    settings = {"bits": 3, "group_size": 32, "rounding": rounding, "symmetric": True}
    method.apply(first.source, out, method.params_type.model_validate(settings), first.context)
    again = Checkpoint(out)
    assert all(torch.equal(again.read(n), first.made.read(n)) for n in first.made.names)
    other = method.params_type.model_validate(settings | {"damping": 0.5})
    (tmp_path / "other").mkdir()
    with pytest.raises(TypeError, match="not callable"):
        method.apply(first.source, tmp_path / "other", other, first.context)
