"""The walk is the model: hidden states and logits equal those of plain transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from paredown.artifact.checkpoint import Checkpoint
from paredown.blocks.probe import probe_tokens
from paredown.blocks.skeleton import (
    as_stored,
    empty_model,
    fill,
    read_config,
    read_matrix,
    require_filled,
)
from paredown.blocks.walk import BlockWalk, submodule
from paredown.runtimes.torch.load import load_dense
from paredown.runtimes.torch.proof import probe
from paredown.spec.structure import matrix_shape
from paredown.testing.tiny import VOCABULARY, tiny_model

FAMILIES = [
    "llama", "mistral", "gemma2", "gemma3_text", "opt", "gpt2", "qwen2", "qwen3", "phi3",
    "mixtral", "qwen2_moe", "qwen3_moe", "llava",
]  # fmt: skip


def model_of(folder: Path, family: str) -> Path:
    """A tiny model whose window, where it has one, is shorter than the text."""
    changes = {"sliding_window": 8} if family in {"gemma2", "gemma3_text", "mistral"} else {}
    return tiny_model(folder / family, family, dtype=torch.float32, tokenizer=False, **changes)


def windows(samples: int, length: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, VOCABULARY, (samples, length), generator=generator)


@pytest.mark.parametrize("family", FAMILIES)
def test_states_and_logits_are_those_of_the_model(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paredown.blocks.walk.BATCH_TOKENS", 64)  # 2 windows a batch, then 1
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


def rewrite_names(folder: Path, rename: Callable[[str], str], **more: torch.Tensor) -> None:
    """Give the stored tensors of a folder other names, and add some."""
    file = folder / "model.safetensors"
    tensors = {rename(name): value for name, value in load_file(file).items()}
    extra = {name.replace("__", "."): value for name, value in more.items()}
    save_file({**tensors, **extra}, file, metadata={"format": "pt"})


def walked_logits(folder: Path, asked: torch.Tensor) -> torch.Tensor:
    walk = BlockWalk(Checkpoint(folder), probe=asked)
    for block, module in walk:
        walk.advance_probe(block, module)
    return walk.logits()


def test_files_without_base_prefix_and_with_old_masks(tmp_path: Path) -> None:
    """As GPT-2 was published: no `transformer.`, and a causal mask in each block."""
    folder, asked = model_of(tmp_path, "gpt2"), probe_tokens(VOCABULARY)
    expected = probe(load_dense(folder), asked)
    mask = torch.ones(1, 1, 256, 256)
    rewrite_names(folder, lambda n: n.removeprefix("transformer."), h__0__attn__bias=mask)
    assert "h.0.attn.bias" in Checkpoint(folder).names
    torch.testing.assert_close(walked_logits(folder, asked), expected, rtol=1e-4, atol=1e-4)


def test_files_with_the_older_names_of_llava(tmp_path: Path) -> None:
    folder, asked = model_of(tmp_path, "llava"), probe_tokens(VOCABULARY)
    expected = probe(load_dense(folder), asked)
    rewrite_names(folder, lambda n: n.replace("vision_tower.", "vision_tower.vision_model."))
    torch.testing.assert_close(walked_logits(folder, asked), expected, rtol=1e-4, atol=1e-4)
    model = empty_model(read_config(folder), torch.float32)
    checkpoint = Checkpoint(folder)
    fill(model, checkpoint, checkpoint.names)
    require_filled(model, folder)


def test_files_with_the_names_that_llava_has_in_memory(tmp_path: Path) -> None:
    folder, asked = model_of(tmp_path, "llava"), probe_tokens(VOCABULARY)
    expected = probe(load_dense(folder), asked)

    def rename(name: str) -> str:
        if name.startswith("language_model.lm_head"):
            return name.removeprefix("language_model.")
        return f"model.{name.replace('language_model.model.', 'language_model.')}"

    rewrite_names(folder, rename)
    torch.testing.assert_close(walked_logits(folder, asked), expected, rtol=1e-4, atol=1e-4)


def test_the_vision_tower_stays_on_disk(tmp_path: Path) -> None:
    walk = BlockWalk(Checkpoint(model_of(tmp_path, "llava")), probe=probe_tokens(VOCABULARY))
    tower = [p for n, p in walk.model.named_parameters() if "vision_tower" in n]
    assert tower
    assert all(p.is_meta or p.numel() == 0 for p in tower)


@pytest.mark.parametrize("family", FAMILIES)
def test_matrices_are_read_as_the_model_holds_them(family: str, tmp_path: Path) -> None:
    """(out, inp), whatever the file says; `as_stored` is the way back."""
    checkpoint = Checkpoint(model_of(tmp_path, family))
    walk = BlockWalk(checkpoint, probe=probe_tokens(VOCABULARY))
    for block, module in walk:
        for name in block.linears:
            matrix = read_matrix(checkpoint, name)
            assert torch.equal(matrix, submodule(module, block, name).weight)
            back = as_stored(checkpoint, name, matrix)
            assert torch.equal(back, checkpoint.read(f"{name}.weight"))
            assert matrix.shape == matrix_shape(checkpoint.spec, name)


def test_an_embedding_factor_that_does_not_fit_16_bits(tmp_path: Path) -> None:
    """sqrt(40), as the sqrt(640) of Gemma 3 270M, is 0.2 % off in bfloat16; sqrt(64) is exact."""
    folder = tiny_model(
        tmp_path, "gemma3_text", hidden_size=40, head_dim=16, intermediate_size=80,
        num_attention_heads=2, num_key_value_heads=1,
    )  # fmt: skip
    asked = windows(1, 24)
    loaded = load_dense(folder, dtype=torch.float32)
    with torch.no_grad():
        hidden = loaded.get_input_embeddings()(asked)
        logits = loaded(asked, use_cache=False).logits[0]
    walk = BlockWalk(Checkpoint(folder), probe=asked)
    assert torch.equal(walk.probe, hidden)
    torch.testing.assert_close(walked_logits(folder, asked), logits, rtol=1e-4, atol=1e-4)
