"""The walk is the model: hidden states and logits equal those of plain transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from paredown.models.checkpoint import Checkpoint
from paredown.models.load import load_dense
from paredown.models.probe import probe, probe_tokens
from paredown.models.walk import BlockWalk, submodule
from paredown.testing.tiny import VOCABULARY, tiny_model

FAMILIES = ["llama", "mistral", "gemma2", "opt", "qwen2", "qwen3"]


def model_of(folder: Path, family: str) -> Path:
    """A tiny model whose window, where it has one, is shorter than the text."""
    changes = {"sliding_window": 8} if family in {"gemma2", "mistral"} else {}
    return tiny_model(folder / family, family, dtype=torch.float32, tokenizer=False, **changes)


def windows(samples: int, length: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, VOCABULARY, (samples, length), generator=generator)


@pytest.mark.parametrize("family", FAMILIES)
def test_states_and_logits_are_those_of_the_model(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paredown.models.walk.BATCH_TOKENS", 64)  # 2 windows a batch, then 1
    folder = model_of(tmp_path, family)
    tokens, asked = windows(3, 32), probe_tokens(VOCABULARY)
    model = load_dense(folder)
    states = model(tokens, output_hidden_states=True, use_cache=False).hidden_states
    walk = BlockWalk(Checkpoint(folder), probe=asked, tokens=tokens)
    assert [len(batch) for batch in walk.hidden] == [2, 1]
    torch.testing.assert_close(torch.cat(walk.hidden), states[0])
    last = len(walk.blocks) - 1
    for block, module in walk:
        walk.advance(block, module)
        walk.advance_probe(block, module)
        if block.index < last:  # transformers norms the last one
            torch.testing.assert_close(
                torch.cat(walk.hidden), states[block.index + 1], rtol=1e-4, atol=1e-4
            )
    torch.testing.assert_close(walk.logits(), probe(model, asked), rtol=1e-4, atol=1e-4)


def test_masks_of_both_kinds_matter(tmp_path: Path) -> None:
    """The case above would be void if a window of 8 changed nothing."""
    folder = model_of(tmp_path, "gemma2")
    short = load_dense(folder)
    long = load_dense(
        tiny_model(tmp_path / "long", "gemma2", dtype=torch.float32, sliding_window=256)
    )
    asked = probe_tokens(VOCABULARY)
    assert (probe(short, asked) - probe(long, asked)).abs().max() > 1e-3


def test_the_probe_sees_the_changed_block_and_the_text_the_unchanged(tmp_path: Path) -> None:
    folder = model_of(tmp_path, "llama")
    tokens, asked = windows(2, 16), probe_tokens(VOCABULARY)
    model = load_dense(folder)
    with torch.no_grad():
        states = model(tokens, output_hidden_states=True, use_cache=False).hidden_states
    walk = BlockWalk(Checkpoint(folder), probe=asked, tokens=tokens)
    for block, module in walk:
        walk.advance(block, module)
        if block.index == 0:
            torch.testing.assert_close(torch.cat(walk.hidden), states[1], rtol=1e-4, atol=1e-4)
        submodule(module, block, f"{block.prefix}.mlp.down_proj").weight.data.mul_(0.5)
        walk.advance_probe(block, module)
    for layer in model.model.layers:
        layer.mlp.down_proj.weight.data.mul_(0.5)
    torch.testing.assert_close(walk.logits(), probe(model, asked), rtol=1e-4, atol=1e-4)


def test_one_block_is_in_memory_at_a_time(tmp_path: Path) -> None:
    walk = BlockWalk(Checkpoint(model_of(tmp_path, "llama")), probe=probe_tokens(VOCABULARY))
    for block, _ in walk:
        held = {
            int(name.split(".")[2])
            for name, p in walk.model.named_parameters()
            if ".layers." in name and not p.is_meta
        }
        assert held == {block.index}


def test_without_calibration_text_there_are_no_states(tmp_path: Path) -> None:
    walk = BlockWalk(Checkpoint(model_of(tmp_path, "llama")), probe=probe_tokens(VOCABULARY))
    assert walk.hidden == []


def test_tied_head_and_bfloat16(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "tied", tie_word_embeddings=True)
    asked = probe_tokens(VOCABULARY)
    walk = BlockWalk(Checkpoint(folder), probe=asked)
    for block, module in walk:
        walk.advance_probe(block, module)
    exact = probe(load_dense(folder, dtype=torch.float32), asked)
    torch.testing.assert_close(walk.logits(), exact, rtol=1e-4, atol=1e-4)
