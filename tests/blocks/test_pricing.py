"""Gradients with drawn labels, prices from them, and the KL that they forecast."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from paredown.analysis.forecast import spearman
from paredown.artifact.checkpoint import Checkpoint
from paredown.blocks import fisher
from paredown.blocks.comparison import Comparison
from paredown.blocks.fisher import output_moments
from paredown.blocks.hessians import HessianBank
from paredown.blocks.pricing import LayerPrices, estimate
from paredown.blocks.rounding import GptqRounding, PlanRounding
from paredown.methods.gptq import GptqParams
from paredown.ops.grids import dequantize
from paredown.runtimes.torch.load import load_dense
from paredown.spec.scheme import Scheme
from paredown.store.cache import Cache
from paredown.testing.tiny import tiny_model

TOKENS = torch.randint(0, 90, (6, 32), generator=torch.Generator().manual_seed(5))
SCHEME = Scheme(bits=3, group_size=32, symmetric=False)


def moments(source: Checkpoint, tmp_path: Path, **changes: Any) -> dict[str, Tensor]:
    settings: dict[str, Any] = {
        "source_hash": "m", "seed": 0, "cache": Cache(tmp_path / "cache"), "device": "cpu",
        "scratch": tmp_path / "scratch",
    }  # fmt: skip
    return output_moments(source, TOKENS, **(settings | changes))


def prices(source: Checkpoint, tmp_path: Path) -> LayerPrices:
    cache = Cache(tmp_path / "cache")
    hessians = HessianBank(
        source, source_hash="m", tokens=TOKENS, cache=cache, device="cpu", head=True
    )
    rounding = GptqRounding(hessians, scale_dtype=torch.bfloat16)
    names = source.spec.structure.linears
    return LayerPrices(PlanRounding(source, rounding, names), moments(source, tmp_path))


@pytest.mark.parametrize("family", ["llama", "gemma2", "opt"])
def test_moments_are_those_of_a_backward_pass_of_the_whole_model(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the likeliest token for a label, which an independent computation can know, too."""
    model_folder = tiny_model(tmp_path / "m", family, dtype=torch.float32, tokenizer=False)
    monkeypatch.setattr(torch, "multinomial", lambda p, n, generator: p.argmax(-1, keepdim=True))
    monkeypatch.setattr(fisher, "BATCH_TOKENS", 64)  # three batches
    monkeypatch.setattr(fisher, "_HEAD_TOKENS", 20)
    source = Checkpoint(model_folder)
    found = moments(source, tmp_path)
    model: Any = load_dense(model_folder, dtype=torch.float32)
    outputs: dict[str, Tensor] = {}
    names = source.spec.structure.linears
    for name in names:
        place = name if family != "opt" else f"model.{name.removeprefix('model.')}"
        model.get_submodule(place).register_forward_hook(
            lambda m, a, out, name=name: outputs.__setitem__(name, out)
        )
    sums = {name: torch.zeros_like(found[name]) for name in names}
    for window in TOKENS:
        logits = model(window[None]).logits[0]
        loss = -logits.log_softmax(-1).amax(-1).sum()
        gradients = torch.autograd.grad(loss, [outputs[name] for name in names])
        for name, gradient in zip(names, gradients, strict=True):
            sums[name] += gradient.reshape(-1, gradient.shape[-1]).square().sum(0)
    for name in names:
        torch.testing.assert_close(found[name], sums[name] / TOKENS.numel(), rtol=2e-3, atol=1e-7)


def test_a_batch_that_is_kept_is_not_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Checkpoint(tiny_model(tmp_path / "m", dtype=torch.float32, tokenizer=False))
    monkeypatch.setattr(fisher, "BATCH_TOKENS", 64)
    whole = moments(source, tmp_path / "other")

    class Killed(Exception):
        pass

    batches: list[int] = []
    squares = fisher._SampledWalk.squares

    def dying(self: Any, progress: Any) -> dict[str, Tensor]:
        batches.append(1)
        if len(batches) == 3:
            raise Killed
        return squares(self, progress)

    monkeypatch.setattr(fisher._SampledWalk, "squares", dying)
    with pytest.raises(Killed):
        moments(source, tmp_path)
    again = moments(source, tmp_path)
    assert len(batches) == 4  # two, the one that was killed, and that once more
    assert all(torch.equal(again[name], whole[name]) for name in whole)
    other = moments(source, tmp_path, seed=1)
    assert any(not torch.equal(other[name], whole[name]) for name in whole)


def test_a_price_is_half_the_gradients_times_the_errors(tmp_path: Path) -> None:
    source = Checkpoint(tiny_model(tmp_path / "m", dtype=torch.float32, tokenizer=False))
    found = prices(source, tmp_path)
    name = "model.layers.1.self_attn.v_proj"
    found.fill({name: [SCHEME]})
    block = source.spec.structure.blocks[1]
    codes, grid = found.rounding.rounded(block, {name: SCHEME})[name]
    change = (dequantize(codes, grid) - source.read(f"{name}.weight")).double()
    hessian = found.rounding.rounding.hessians.of_kept_block(block)[name].double()
    rows = (change @ hessian * change).sum(1)
    expected = 0.5 * float((moments(source, tmp_path)[name].double() * rows).sum())
    assert found.cost(name, SCHEME) == pytest.approx(expected, rel=1e-4)
    finer = Scheme(bits=5, group_size=32, symmetric=False)
    assert not found.is_known(name, finer)
    assert found.cost(name, finer) == pytest.approx(expected / 16, rel=1e-4)


def test_prices_forecast_the_kl_of_each_layer_alone(tmp_path: Path) -> None:
    source = Checkpoint(tiny_model(tmp_path / "m", dtype=torch.float32, tokenizer=False))
    found = prices(source, tmp_path)
    names = source.spec.structure.linears
    found.fill({name: [SCHEME] for name in names})
    comparison = Comparison(source, TOKENS, device="cpu")
    measured = []
    for name in names:
        plan = {name: SCHEME}
        measured.append(
            comparison.kl(
                layers=lambda block, plan=plan: found.rounding.rounded(  # type: ignore[misc]
                    block, {n: s for n, s in plan.items() if n in block.linears}
                )
            )
        )
    forecast = [found.cost(name, SCHEME) for name in names]
    correlation = spearman(forecast, measured)
    assert correlation is not None
    assert correlation > 0.8
    ratios = torch.tensor(measured) / torch.tensor(forecast)
    assert 0.7 < float(ratios.median()) < 1.4  # no scale is missing


@torch.no_grad()
def test_the_kl_is_that_of_a_whole_model_with_the_same_weights(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "m", "gemma2", dtype=torch.float32, tokenizer=False)
    source = Checkpoint(folder)
    found = prices(source, tmp_path)
    plan = {name: SCHEME for name in source.spec.structure.linears if "mlp" in name}
    embedding = "model.embed_tokens"
    weight = source.read(f"{embedding}.weight")
    from paredown.ops.gptq import round_to_nearest

    rows = round_to_nearest(
        weight, bits=4, group_size=32, symmetric=True, scale_dtype=torch.float32, steps=0
    )
    comparison = Comparison(source, TOKENS, device="cpu")
    measured = comparison.kl(
        layers=lambda block: found.rounding.rounded(block, plan), embeddings={embedding: rows}
    )
    base: Any = load_dense(folder, dtype=torch.float32)
    made: Any = load_dense(folder, dtype=torch.float32)
    for block in source.spec.structure.blocks:
        for name, part in found.rounding.rounded(block, plan).items():
            made.get_submodule(name).weight.data = dequantize(*part)
    made.get_submodule(embedding).weight.data = dequantize(*rows)
    made.tie_weights()
    wanted, got = (m(TOKENS).logits.log_softmax(-1) for m in (base, made))
    kl = float((wanted.exp() * (wanted - got)).sum(-1).mean())
    assert measured == pytest.approx(kl, rel=1e-3)
    assert comparison.kl() == pytest.approx(0.0, abs=1e-6)


def test_an_estimate_takes_the_nearest_width() -> None:
    known = {Scheme(3, 64, False): 8.0, Scheme(4, 64, False): 1.0}
    assert estimate(known, Scheme(2, 64, False)) == 32.0
    assert estimate(known, Scheme(4, 64, False)) == 1.0  # as it is known, not by the rule
    assert estimate(known, Scheme(6, 64, False)) == 1.0 / 16


def test_the_bank_is_shared_with_gptq() -> None:
    usual = GptqParams()
    import inspect

    defaults = inspect.signature(GptqRounding.__init__).parameters
    assert defaults["act_order"].default == usual.act_order
    assert defaults["damping"].default == usual.damping
    assert defaults["steps"].default == usual.search_steps
