"""Names in files and in memory, and tensors that only the file has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from paredown.artifact.checkpoint import Checkpoint
from paredown.blocks.calls import Call
from paredown.blocks.names import find_part, know_block, module_name
from paredown.blocks.skeleton import empty_model
from paredown.blocks.walk import BlockWalk
from paredown.errors import ModelError
from paredown.methods import registry
from paredown.runtimes.torch.load import load, load_dense
from paredown.runtimes.torch.proof import EXACT, compare
from paredown.spec.infer import infer_spec
from paredown.testing.conformance import MethodConformance
from paredown.testing.tiny import VOCABULARY, tiny_config, tiny_model


def skeleton(family: str) -> Any:
    return empty_model(tiny_config(family), torch.float32)


@pytest.mark.parametrize(
    ("family", "stored", "inside"),
    [
        ("gpt_neox", "embed_out.weight", "lm_head.weight"),
        ("gpt_neox", "embed_out", "lm_head"),
        ("qwen2_vl", "model.embed_tokens.weight", "model.language_model.embed_tokens.weight"),
        ("qwen2_vl", "model.layers.1", "model.language_model.layers.1"),
        ("llava", "language_model.model.norm.weight", "model.language_model.norm.weight"),
        (
            "mixtral",
            "model.layers.0.block_sparse_moe.experts.3.w2.weight",
            "model.layers.0.mlp.experts.3.down_proj.weight",
        ),
        (
            "mixtral",
            "model.layers.0.block_sparse_moe.experts.2.w3",
            "model.layers.0.mlp.experts.2.up_proj",
        ),
        (
            "phimoe",
            "model.layers.1.block_sparse_moe.gate.weight",
            "model.layers.1.mlp.router.weight",
        ),
        (
            "jamba",
            "model.layers.1.feed_forward.experts.0.gate_proj.weight",
            "model.layers.1.feed_forward.experts.0.gate_proj.weight",
        ),
        # Without the prefix of the base model, as some files have them.
        ("llama", "layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight"),
    ],
)
def test_stored_names_find_their_part(family: str, stored: str, inside: str) -> None:
    assert module_name(skeleton(family), stored) == inside


def test_a_block_knows_the_names_that_files_give_its_parts() -> None:
    model = skeleton("mixtral")
    know_block(model, "model.layers.1", "model.layers.1")
    block = model.get_submodule("model.layers.1")
    assert module_name(block, "block_sparse_moe.experts.0.w1") == "mlp.experts.0.gate_proj"
    assert find_part(block, "block_sparse_moe.experts.9.w1") is None


def test_what_a_model_has_not_is_told() -> None:
    with pytest.raises(ModelError, match=r"LlamaForCausalLM .* no part .model\.layers\.7\.mlp"):
        module_name(skeleton("llama"), "model.layers.7.mlp")


def with_tensors(folder: Path, more: dict[str, torch.Tensor]) -> Path:
    file = folder / "model.safetensors"
    save_file(load_file(file) | more, file, metadata={"format": "pt"})
    return folder


def test_tensors_that_only_the_file_has_are_kept(tmp_path: Path) -> None:
    """A head of another use, and a block that foretells further tokens, as in DeepSeek-V3."""
    extra = {
        "score.weight": torch.ones(2, 64),
        "model.layers.2.eh_proj.weight": torch.ones(64, 128),
        "model.layers.2.mlp.experts.0.gate_proj.weight": torch.ones(96, 64),
        "mtp.layers.0.self_attn.q_proj.weight": torch.ones(64, 64),
    }
    folder = with_tensors(tiny_model(tmp_path / "model", "deepseek_v3", tokenizer=False), extra)
    assert len(infer_spec(folder).structure.blocks) == 2
    ((method, params),) = registry.resolve(registry.canonical("rtn(bits=8, group_size=32)"))
    out = tmp_path / "out"
    out.mkdir()
    method.apply(Checkpoint(folder), out, params, MethodConformance().context(tmp_path / "work"))
    made = Checkpoint(out)
    assert all(torch.equal(made.read(name), value) for name, value in extra.items())
    tokens = torch.arange(1, 9)[None]
    with torch.no_grad():
        ours, plain = (open_(out, dtype=torch.float32)(tokens) for open_ in (load, load_dense))
    # Plain transformers rounds what it unpacks to 16 bits.
    assert compare(plain.logits[0], ours.logits[0], "paredown") < EXACT


def test_a_missing_weight_is_told(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model", "gpt_neox", tokenizer=False)
    file = folder / "model.safetensors"
    tensors = load_file(file)
    lost = "gpt_neox.layers.1.mlp.dense_h_to_4h.bias"
    del tensors[lost]
    save_file(tensors, file, metadata={"format": "pt"})
    walk = BlockWalk(Checkpoint(folder), probe=torch.arange(8)[None])
    with pytest.raises(ModelError, match=r"1 weights are missing.*dense_h_to_4h\.bias"):
        list(walk)


@pytest.mark.parametrize(("family", "expected"), [("gemma3n_text", True), ("gemma2", False)])
def test_whether_calls_depend_on_the_tokens_is_found(
    tmp_path: Path, family: str, expected: bool
) -> None:
    folder = tiny_model(tmp_path, family, tokenizer=False)
    assert BlockWalk(Checkpoint(folder), probe=torch.arange(8)[None])._by_tokens is expected


@pytest.mark.parametrize("family", ["gemma3n_text", "gptj", "mllama", "bloom", "falcon_h1"])
def test_a_walk_makes_the_model(tmp_path: Path, family: str) -> None:
    """Blocks one after the other, on windows of two sizes, give what the whole model gives."""
    folder = tiny_model(tmp_path, family, tokenizer=False)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(1, VOCABULARY - 2, (3, 12), generator=generator)
    probe = torch.randint(1, VOCABULARY - 2, (1, 7), generator=generator)
    walk = BlockWalk(Checkpoint(folder), probe=probe, tokens=tokens)
    for block, module in walk:
        walk.advance(block, module)
        walk.advance_probe(block, module)
    model = load_dense(folder, dtype=torch.float32)
    with torch.no_grad():
        whole, short = model(tokens).logits, model(probe).logits[0]
    for found, expected in zip(walk.window_logits(), whole, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(walk.logits(), short, rtol=1e-3, atol=1e-3)


def test_calls_are_compared_by_what_a_block_would_compute() -> None:
    one = Call((torch.ones(2), None), {"mask": torch.zeros(1, 3), "use_cache": False})
    same = Call((torch.ones(2), None), {"mask": torch.zeros(1, 3), "use_cache": False})
    assert one.is_like(same)
    assert not one.is_like(Call((torch.ones(2), None), {"mask": torch.ones(1, 3)}))
    assert not one.is_like(Call((torch.ones(3), None), one.kwargs))
