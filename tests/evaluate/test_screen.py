"""A first look on few tokens, against plain transformers, and what it stops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from paredown.blocks.hessians import tensor_hash
from paredown.evaluate.quality import BaseOutputs, measure_quality
from paredown.evaluate.screen import FEWEST, LENGTH, WINDOWS, why_screened
from paredown.runtimes.torch.load import load_dense
from paredown.runtimes.torch.session import TorchSession
from paredown.store.cache import Cache
from paredown.testing.tiny import tiny_model


def _tokens(count: int, length: int) -> torch.Tensor:
    return torch.randint(3, 90, (count, length), generator=torch.Generator().manual_seed(0))


def _opened(folder: Path, tokens: torch.Tensor, cache: Path) -> tuple[Any, BaseOutputs]:
    outputs = BaseOutputs(
        folder, tokens=tokens, tokens_hash=tensor_hash(tokens),
        cache=Cache(cache), device="cpu",
    )  # fmt: skip
    return load_dense(folder, device="cpu", dtype=torch.float32), outputs


def _nll(model: Any, tokens: torch.Tensor) -> float:
    """Nats per token by transformers' own loss; all windows are equally long."""
    with torch.no_grad():
        return float(torch.stack([model(t[None], labels=t[None]).loss for t in tokens]).mean())


def test_the_beginnings_of_windows_are_compared_with_the_base(tmp_path: Path) -> None:
    tokens = _tokens(3, 48)
    model, base = _opened(tiny_model(tmp_path / "model"), tokens, tmp_path / "cache")
    before = _nll(model, tokens[:2, :20])
    with torch.no_grad():
        model.lm_head.weight.mul_(30.0)  # confident, and mostly wrong
    expected = torch.tensor(_nll(model, tokens[:2, :20]) - before).exp()
    found = {
        m.name: m
        for m in measure_quality(TorchSession(model), tokens[:2, :20], base, protocol="test")
    }
    assert found["perplexity_ratio"].value == pytest.approx(float(expected), rel=1e-3)
    assert found["perplexity_ratio"].value > 1.5
    assert found["kl"].n == 2


def test_what_is_surely_ruined_is_refused_and_what_is_not_is_let_through(tmp_path: Path) -> None:
    tokens = _tokens(10, 2 * LENGTH)
    model, base = _opened(tiny_model(tmp_path / "model"), tokens, tmp_path / "cache")
    said: dict[str, Any] = {"protocol": "test"}
    assert (
        why_screened(TorchSession(model), tokens, base, worst=1.01, **said) is None
    )  # the base itself
    with torch.no_grad():
        model.lm_head.weight.mul_(30.0)
    few = tokens[:WINDOWS, :LENGTH]
    (ratio,) = (
        m
        for m in measure_quality(TorchSession(model), few, base, **said)
        if m.name.endswith("_ratio")
    )
    why = why_screened(TorchSession(model), tokens, base, worst=1.1, **said)
    assert why is not None
    assert f"first {WINDOWS * LENGTH} tokens, surely beyond 1.1 times" in why
    assert ratio.stderr
    doubtful = ratio.value - ratio.stderr  # beyond, but not surely
    assert why_screened(TorchSession(model), tokens, base, worst=doubtful, **said) is None
    assert why_screened(TorchSession(model), tokens[: FEWEST - 1], base, worst=1.1, **said) is None
    assert why_screened(TorchSession(model), tokens[:FEWEST], base, worst=1.1, **said) is not None


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_outputs_of_the_base_belong_to_its_content(tmp_path: Path, name: str) -> None:
    """Under the same path, other weights or another config are another base."""
    tokens = _tokens(1, 16)
    model = tiny_model(tmp_path / "model")
    _, before = _opened(model, tokens, tmp_path / "cache")
    file = model / name
    data = file.read_bytes()
    _, same = _opened(model, tokens, tmp_path / "cache")
    assert len(list(tmp_path.glob("cache/base-outputs/*.safetensors"))) == 1
    if name == "config.json":
        file.write_bytes(data.replace(b'"rms_norm_eps": 1e-06', b'"rms_norm_eps": 1e-01'))
    else:
        file.write_bytes(data[:-200] + bytes(200))
    assert file.read_bytes() != data
    _, after = _opened(model, tokens, tmp_path / "cache")
    assert torch.equal(before.logits(0), same.logits(0))
    assert not torch.equal(before.logits(0), after.logits(0))
