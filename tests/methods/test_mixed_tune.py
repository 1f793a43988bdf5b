"""Scales and norm gains tuned at fixed codes: what changes, what stays, and when nothing does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from paredown.artifact.checkpoint import Checkpoint
from paredown.blocks.probe import probe_tokens
from paredown.errors import ConfigError
from paredown.methods import registry
from paredown.methods.base import Context
from paredown.methods.mixed import Mixed, MixedParams
from paredown.methods.shared import tuned_plan
from paredown.ops.affine import Grid, dequantize
from paredown.runtimes.torch.load import load
from paredown.runtimes.torch.proof import compare, probe
from paredown.spec.infer import infer_spec
from paredown.spec.packed import weights_bytes
from paredown.spec.plan import PLAN_FILE, PlanRecord, TunedRecord
from paredown.spec.strategy import parse_strategy
from paredown.spec.target import Target
from paredown.testing.conformance import MethodConformance
from paredown.testing.tiny import tiny_model
from paredown.train.scales import ScaledCodes, as_stored

PLAN = {"*": "3a32"}
TOKENS = 8192


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return Checkpoint(tiny_model(tmp_path_factory.mktemp("m") / "model"))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Context:
    return MethodConformance().context(tmp_path_factory.mktemp("shared"))


def made(
    source: Checkpoint, out: Path, context: Context, tune: int | None
) -> tuple[TunedRecord | None, Checkpoint]:
    """Apply `mixed`: what it says of tuning, and the artifact, reloaded as it was claimed to be."""
    out.mkdir(parents=True)
    context = replace(context, scratch=out.parent / f"{out.name}-scratch")
    claimed = Mixed().apply(source, out, MixedParams(plan=PLAN, tune=tune), context)
    compare(claimed, probe(load(out, dtype=torch.float32), probe_tokens(128)), "paredown")
    return PlanRecord.read(out / PLAN_FILE).tuned, Checkpoint(out)


@pytest.fixture(scope="module")
def plain(
    source: Checkpoint, shared: Context, tmp_path_factory: pytest.TempPathFactory
) -> Checkpoint:
    """Without tuning."""
    none, found = made(source, tmp_path_factory.mktemp("plain") / "out", shared, None)
    assert none is None
    return found


def test_a_matrix_is_its_codes_times_its_scales() -> None:
    integers = torch.tensor([[1, -2, 3, 0], [4, 0, -1, 2]], dtype=torch.int16)
    scale = torch.tensor([[0.5, 2.0], [1.0, 0.25]])
    codes = ScaledCodes(integers, scale)
    change = codes.right_inverse(torch.empty(2, 4)).requires_grad_()
    grid = Grid(4, 2, scale, None)
    assert torch.equal(codes(change), dequantize(integers.to(torch.int8), grid))
    # d/dchange of sum(a W) = scale * sum over the group of a times the integers.
    weight = torch.tensor([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]])
    (weight * codes(change)).sum().backward()
    assert change.grad is not None
    assert change.grad.tolist() == [[-1.5, 18.0], [20.0, 2.25]]


def test_what_is_trained_is_what_is_stored() -> None:
    value = torch.tensor([1.001, 0.3], requires_grad=True)
    stored = as_stored(value, torch.bfloat16)
    assert stored.tolist() == value.detach().bfloat16().float().tolist() != value.tolist()
    stored.sum().backward()
    assert value.grad is not None
    assert value.grad.tolist() == [1.0, 1.0]


@pytest.mark.slow
def test_tuning_keeps_codes_and_bytes_and_loses_less(
    source: Checkpoint, plain: Checkpoint, shared: Context, tmp_path: Path
) -> None:
    tuned, changed = made(source, tmp_path / "tuned", shared, TOKENS)
    assert tuned is not None
    assert tuned.kept
    assert tuned.kl_after < 0.98 * tuned.kl_before
    assert weights_bytes(plain.folder) == weights_bytes(changed.folder)
    assert plain.names == changed.names
    differ = {n for n in plain.names if not torch.equal(plain.read(n), changed.read(n))}
    inner = {f"{n}.weight_scale" for n in source.spec.structure.linears}
    norms = {n for n in source.names if "norm" in n}
    assert differ <= inner | norms
    assert differ & inner
    assert differ & norms
    for name in differ:
        assert plain.read(name).dtype == changed.read(name).dtype
        apart = (changed.read(name).float() / plain.read(name).float() - 1).abs()
        assert float(apart.nan_to_num().max()) < 0.2


@pytest.mark.slow
def test_what_helps_nobody_is_not_kept(
    source: Checkpoint,
    plain: Checkpoint,
    shared: Context,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tuned_plan, "LEARNING_RATE", 0.9)
    tuned, changed = made(source, tmp_path / "tuned", shared, TOKENS)
    assert tuned is not None
    assert not tuned.kept
    assert tuned.kl_after == tuned.kl_before
    one, two = (f / "model.safetensors" for f in (plain.folder, changed.folder))
    assert one.read_bytes() == two.read_bytes()


def test_models_whose_scales_are_not_tuned_are_refused(tmp_path: Path) -> None:
    spec = infer_spec(tiny_model(tmp_path / "m", "gpt2", tokenizer=False))
    with pytest.raises(ConfigError, match="Conv1D layers are not tuned yet"):
        registry.check(parse_strategy("mixed(bpw=9, tune=1024)"), spec, Target())


def test_short_scales_stay_short_and_keep_their_gradient() -> None:
    """Their multiples are half-precision numbers after tuning, as before."""
    start = torch.tensor([[0.1015625]], dtype=torch.bfloat16)
    codes = ScaledCodes(torch.ones(1, 32, dtype=torch.int16), start, bits=7)
    change = torch.full((1, 1), 0.013, requires_grad=True)
    scale = codes.scales(change)
    products = scale.double() * torch.arange(16)
    assert torch.equal(products.half().double(), products)
    assert float(scale) == pytest.approx(0.1015625 * 1.013, rel=2**-7)
    scale.sum().backward()
    assert float(change.grad) == pytest.approx(0.1015625)  # type: ignore[arg-type]
