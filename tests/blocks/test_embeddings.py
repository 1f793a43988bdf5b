"""Embedding and head rounded on what the head reads, instead of to nearest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from paredown.artifact.checkpoint import Checkpoint
from paredown.artifact.compressed_tensors import read_packed
from paredown.blocks.embeddings import INPUT_SHARE, reading_moments, round_rows
from paredown.blocks.hessians import HessianBank
from paredown.methods import registry
from paredown.ops.errors import row_powers
from paredown.ops.grids import dequantize
from paredown.runtimes.torch.load import load_dense
from paredown.spec.embeddings import find_head
from paredown.spec.scheme import Scheme
from paredown.store.cache import Cache
from paredown.testing.conformance import MethodConformance
from paredown.testing.tiny import tiny_model

TOKENS = torch.randint(0, 90, (4, 32), generator=torch.Generator().manual_seed(5))
SCHEME = Scheme(bits=3, group_size=32, symmetric=True)


def bank(source: Checkpoint, cache: Cache, **changes: Any) -> HessianBank:
    settings: dict[str, Any] = {
        "source_hash": "m",
        "tokens": TOKENS,
        "cache": cache,
        "device": "cpu",
        "head": True,
    }
    return HessianBank(source, **(settings | changes))


@torch.no_grad()
def read_by_head(folder: Path) -> Tensor:
    """Mean h h^T over what the head reads, by running the whole model."""
    model: Any = load_dense(folder, dtype=torch.float32)
    seen: list[Tensor] = []
    model.get_output_embeddings().register_forward_pre_hook(lambda m, a: seen.append(a[0]))
    for window in TOKENS:
        model(window[None])
    rows = torch.cat([hidden[0] for hidden in seen]).double()
    return (rows.T @ rows / len(rows)).float()


@pytest.mark.parametrize("family", ["llama", "gemma2", "opt"])
def test_the_moments_are_those_of_what_the_head_reads(family: str, tmp_path: Path) -> None:
    source = Checkpoint(tiny_model(tmp_path / "m", family, dtype=torch.float32, tokenizer=False))
    found = bank(source, Cache(tmp_path / "cache")).head
    assert found is not None
    torch.testing.assert_close(found, read_by_head(source.folder), rtol=1e-3, atol=1e-4)


def test_they_are_kept_with_all_others_in_one_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Checkpoint(tiny_model(tmp_path / "m", dtype=torch.float32, tokenizer=False))
    cache = Cache(tmp_path / "cache")
    first = bank(source, cache)
    assert first.walk.hidden == []  # the pass for the head has left nothing to be measured
    monkeypatch.setattr(HessianBank, "_pass_to_head", None)
    again = bank(source, cache).head
    assert first.head is not None
    assert again is not None
    assert torch.equal(again, first.head)
    assert bank(source, cache, head=False).head is None
    with pytest.raises(TypeError, match="not callable"):
        bank(source, cache, tokens=TOKENS[:2])


def test_blocks_that_are_kept_already_are_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Checkpoint(tiny_model(tmp_path / "m", dtype=torch.float32, tokenizer=False))
    cache = Cache(tmp_path / "cache")
    whole = bank(source, Cache(tmp_path / "other")).head
    blocks = bank(source, cache, head=False)
    for block, module in blocks.walk:
        blocks.of_block(block, module)
    monkeypatch.setattr(HessianBank, "_measure", None)
    found = bank(source, cache).head
    assert whole is not None
    assert found is not None
    assert torch.equal(found, whole)


def test_what_is_kept_of_each_matrix(tmp_path: Path) -> None:
    tied = Checkpoint(tiny_model(tmp_path / "t", "gemma2", tokenizer=False)).spec
    apart = Checkpoint(tiny_model(tmp_path / "a", tie_word_embeddings=False, tokenizer=False)).spec
    moments = torch.tensor([[1.0, 0.5], [0.5, 3.0]])
    name, head = "model.embed_tokens", find_head(apart)
    assert head is not None
    assert reading_moments(tied, name, None) is None
    assert reading_moments(apart, name, moments) is None  # rows are taken as they are: to nearest
    assert reading_moments(apart, head, moments) is moments
    both = reading_moments(tied, name, moments)  # the mean diagonal, 2, becomes 1
    assert both is not None
    expected = [[0.5 + INPUT_SHARE, 0.25], [0.25, 1.5 + INPUT_SHARE]]
    torch.testing.assert_close(both, torch.tensor(expected))


def test_logits_change_less_than_when_rounded_to_nearest() -> None:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(5000, 64, generator=generator)  # more rows than one slice
    mix = torch.randn(64, 64, generator=generator)
    moments = mix @ mix.T
    errors = {}
    for how, given in (("nearest", None), ("gptq", moments)):
        codes, grid = round_rows(weight, SCHEME, given, torch.float32)
        assert codes.shape == weight.shape
        errors[how] = row_powers(dequantize(codes, grid) - weight, moments)
    assert errors["gptq"].mean() < 0.75 * errors["nearest"].mean()
    assert errors["gptq"][4096:].mean() < 0.75 * errors["nearest"][4096:].mean()


@pytest.mark.parametrize("method", ["gptq", "awq"])
@pytest.mark.parametrize("tied", [True, False])
def test_methods_that_read_text_keep_the_logits(method: str, tied: bool, tmp_path: Path) -> None:
    model = tiny_model(
        tmp_path / "m", dtype=torch.float32, tie_word_embeddings=tied, tokenizer=False
    )
    source, context = Checkpoint(model), MethodConformance().context(tmp_path)
    context = replace(context, calibration=lambda: TOKENS)
    name = "model.embed_tokens" if tied else "lm_head"
    moments, original = read_by_head(source.folder), source.read(f"{name}.weight")
    errors = {}
    for which in (method, "rtn"):
        out = tmp_path / which
        out.mkdir()
        found = registry.load(which)
        settings = {"bits": 8, "group_size": 32, "symmetric": True, "embedding_bits": 4}
        found.apply(source, out, found.params_type.model_validate(settings), context)
        scheme = Scheme(bits=4, group_size=32, symmetric=True)
        weight = dequantize(*read_packed(Checkpoint(out), name, scheme))
        errors[which] = float(row_powers(weight - original, moments).sum())
    assert errors[method] < 0.9 * errors["rtn"]


def test_a_cache_that_keeps_nothing_gives_the_same_artifact(tmp_path: Path) -> None:
    source = Checkpoint(tiny_model(tmp_path / "m", dtype=torch.float32, tokenizer=False))
    method = registry.load("gptq")
    settings = method.params_type.model_validate({"group_size": 32, "embedding_bits": 4})
    made = []
    for name, limit in (("kept", 1e9), ("dropped", 1000.0)):
        out = tmp_path / name
        out.mkdir()
        cache = Cache(tmp_path / f"cache-{name}", limit)
        method.apply(source, out, settings, MethodConformance().context(tmp_path, cache=cache))
        made.append((out / "model.safetensors").read_bytes())
    assert made[0] == made[1]
