"""Tiny models of every family in llama.cpp: log-probabilities, bytes, numbers, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from paredown.artifact.checkpoint import Checkpoint
from paredown.artifact.compressed_tensors import read_packed, read_schemes
from paredown.errors import ConfigError
from paredown.ops.divergence import kl_rows
from paredown.ops.grids import dequantize
from paredown.runtimes.llama_cpp.architectures import ARCHITECTURES, numbers
from paredown.runtimes.packages import open_model
from paredown.runtimes.registry import engine
from paredown.runtimes.torch.load import load
from paredown.spec.infer import infer_spec
from paredown.testing.runtimes import make
from paredown.testing.tiny import VOCABULARY, tiny_config, tiny_model
from paredown.text.ascii import write_byte_tokenizer
from tests.runtimes.llama_cpp.files import numbers as read_numbers
from tests.runtimes.llama_cpp.files import weights

pytest.importorskip("xllamacpp")
pytest.importorskip("gguf")

GEMMA = {"query_pre_attn_scalar": 16, "sliding_window": 24}
YARN = {
    "rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
}  # fmt: skip
LONG = {
    "rope_type": "longrope", "rope_theta": 1e4, "long_factor": [1.5] * 8, "short_factor": [1.1] * 8,
    "original_max_position_embeddings": 512,
}  # fmt: skip
SIX_TO_ONE = {
    "num_hidden_layers": 7,
    "layer_types": [*["sliding_attention"] * 5, "full_attention", "sliding_attention"],
    "rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    },
}


def base_of(folder: Path, family: str, **changes: Any) -> Path:
    base = tiny_model(folder / "base", family, tokenizer=False, **changes)
    write_byte_tokenizer(base)
    return base


FAST: list[tuple[str, dict[str, Any]]] = [
    ("llama", {"rope_parameters": LLAMA3, "head_dim": 32}),
    ("qwen2", {}),
    ("gemma3_text", GEMMA | SIX_TO_ONE),
    ("phi3", {"rope_parameters": LONG, "max_position_embeddings": 1024}),
    ("gpt2", {}),
    ("qwen2_moe", {}),
]
PARTIAL = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
OTHERS: list[tuple[str, dict[str, Any]]] = [
    ("llama", {}),
    ("llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    ("llama", {"rope_parameters": YARN}),
    ("llama", {"dtype": torch.float16}),
    ("mistral", {}),
    ("qwen3", {"rope_parameters": YARN}),
    ("gemma", {}),
    ("gemma2", GEMMA),
    ("gemma3_text", GEMMA),
    ("phi3", {"rope_parameters": PARTIAL}),
    ("mixtral", {}),
    ("qwen3_moe", {"norm_topk_prob": True}),
]


@pytest.mark.parametrize(
    ("family", "changes"),
    [*FAST, *(pytest.param(*case, marks=pytest.mark.slow) for case in OTHERS)],
)
def test_a_family_answers_as_in_torch(tmp_path: Path, family: str, changes: dict[str, Any]) -> None:
    """Longer than the windows of Gemma, so that a wrong pattern shows."""
    base = base_of(tmp_path, family, **changes)
    package = engine("llama.cpp").export(base, tmp_path / "out")
    session = engine("llama.cpp").open(package.folder, device="cpu")
    window = torch.randint(1, VOCABULARY, (1, 80), generator=torch.Generator().manual_seed(0))
    (found,) = session.logprobs(window)
    with torch.no_grad():
        expected = load(base, dtype=torch.float32)(window).logits[0, :-1].log_softmax(-1)
    # 16-bit activations: 1e-5 here. A window of another width, or another base of the positions,
    # gives 0.05 and more. Where two experts are nearly as good, rounding may choose the other one,
    # so that single tokens differ: most do not.
    kl = kl_rows(expected, found)
    assert float(kl.median()) < 1e-4
    assert float(kl.mean()) < (5e-3 if "moe" in family or family == "mixtral" else 1e-4)
    factors = 4 * sum(len(w) for name, w in weights(package.folder).items() if "rope" in name)
    foretold = engine("llama.cpp").weights_bytes(infer_spec(base))
    assert session.weights_bytes() == foretold + factors
    session.close()


def test_the_header_of_gemma_3_by_hand() -> None:
    config = tiny_config("gemma3_text", query_pre_attn_scalar=16, sliding_window=24)
    found = numbers(config, ARCHITECTURES["gemma3_text"])
    assert found["gemma3.attention.sliding_window"] == 24
    assert found["gemma3.attention.sliding_window_pattern"] == 2
    assert found["gemma3.rope.freq_base"] == 1_000_000.0
    assert found["gemma3.rope.freq_base_swa"] == 10_000.0
    assert found["gemma3.attention.key_length"] == 16
    assert "gemma3.final_logit_softcapping" not in found


def test_the_file_says_what_it_mostly_is(tmp_path: Path) -> None:
    package = engine("llama.cpp").export(base_of(tmp_path, "llama"), tmp_path / "out")
    said = read_numbers(package.folder)
    assert said["general.file_type"] == 32  # LLAMA_FTYPE_MOSTLY_BF16
    assert said["general.architecture"] == "llama"
    assert said["llama.context_length"] == 256


@pytest.mark.parametrize(
    ("family", "changes", "why"),
    [
        ("gemma2", {}, "query_pre_attn_scalar is 256"),
        ("gemma2", {**GEMMA, "attn_logit_softcapping": None}, "no cap"),
        ("gemma3_text", {**GEMMA, "num_hidden_layers": 3, "layer_types": [
            "sliding_attention", "sliding_attention", "full_attention",
        ], "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4},
        }}, "sliding window"),
        ("gemma3_text", {**GEMMA, "num_hidden_layers": 3, "layer_types": [
            "full_attention", "sliding_attention", "full_attention",
        ]}, "alternate"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
         "'dynamic'"),
        ("llama", {"rope_parameters": {**YARN, "attention_factor": 2.0}}, "YaRN"),
        ("llama", {"hidden_act": "gelu"}, "'gelu' is not"),
        ("qwen2", {"head_dim": 32}, "make 128 of 64"),
        ("opt", {}, "family opt"),
        ("qwen3_moe", {"norm_topk_prob": False}, "norm_topk_prob = True"),
        ("qwen3_moe", {"norm_topk_prob": True, "mlp_only_layers": [0]}, "without experts"),
    ],
)  # fmt: skip
def test_what_would_be_computed_otherwise_is_refused(
    tmp_path: Path, family: str, changes: dict[str, Any], why: str
) -> None:
    with pytest.raises(ConfigError, match=why):
        engine("llama.cpp").export(base_of(tmp_path, family, **changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_window_that_is_not_computed_bounds_the_context() -> None:
    config = tiny_config("mistral", sliding_window=32)
    found = numbers(config, ARCHITECTURES["mistral"])
    assert found["llama.context_length"] == 32
    wider = numbers(tiny_config("mistral", sliding_window=512), ARCHITECTURES["mistral"])
    assert wider["llama.context_length"] == 256


def test_experts_are_held_one_behind_the_other(tmp_path: Path) -> None:
    """Number by number: expert i of the file is expert i of the artifact."""
    artifact = make("rtn(bits=4, group_size=32)", tmp_path, "mixtral")
    package = engine("llama.cpp").export(artifact, tmp_path / "out")
    found = weights(package.folder)
    checkpoint = Checkpoint(artifact)
    schemes = read_schemes(checkpoint)
    for mine, theirs in (("w1", "gate"), ("w2", "down"), ("w3", "up")):
        stacked = found[f"blk.1.ffn_{theirs}_exps.weight"]
        assert len(stacked) == 4
        for i in range(4):
            name = f"model.layers.1.block_sparse_moe.experts.{i}.{mine}"
            expected = dequantize(*read_packed(checkpoint, name, schemes[name]), torch.float32)
            assert torch.equal(stacked[i], expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "family"),
    [
        ("heads(ratio=0.5)", "llama"), ("depth(ratio=0.5)", "llama"),
        ('l2_structured(ratio=0.2, scope="layer")', "llama"), ("wanda(ratio=0.5)", "llama"),
        ("experts(ratio=0.25)", "qwen2_moe"), ("experts(ratio=0.25)", "mixtral"),
    ],
)  # fmt: skip
def test_what_pruning_leaves_answers_as_in_torch(
    tmp_path: Path, strategy: str, family: str
) -> None:
    artifact = make(strategy, tmp_path, family)
    session = open_model(engine("llama.cpp"), artifact, device="cpu")
    window = torch.randint(1, VOCABULARY, (1, 40), generator=torch.Generator().manual_seed(0))
    (found,) = session.logprobs(window)
    session.close()
    with torch.no_grad():
        expected = load(artifact, dtype=torch.float32)(window).logits[0, :-1].log_softmax(-1)
    assert float(kl_rows(expected, found).mean()) < 1e-4
