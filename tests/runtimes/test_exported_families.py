"""Tiny models of every family in engines with graphs of their own: log-probabilities, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from paredown.errors import ConfigError
from paredown.ops.divergence import kl_rows
from paredown.runtimes.registry import engine
from paredown.runtimes.torch.load import load
from paredown.testing.tiny import VOCABULARY, tiny_model
from paredown.text.ascii import write_byte_tokenizer

pytest.importorskip("onnxruntime_genai")
pytest.importorskip("openvino")
pytestmark = pytest.mark.slow

GEMMA = {"query_pre_attn_scalar": 16, "sliding_window": 24}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
}  # fmt: skip
YARN = {
    "rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64,
}  # fmt: skip
SIX_TO_ONE = {
    "num_hidden_layers": 7,
    "layer_types": [*["sliding_attention"] * 5, "full_attention", "sliding_attention"],
}


def base_of(folder: Path, family: str, **changes: Any) -> Path:
    base = tiny_model(folder / "base", family, tokenizer=False, **changes)
    write_byte_tokenizer(base)
    return base


@pytest.mark.parametrize(
    ("runtime", "family", "changes"),
    [
        ("onnxruntime", "llama", {"rope_parameters": LLAMA3, "tie_word_embeddings": True}),
        ("onnxruntime", "mistral", {"head_dim": 32, "sliding_window": None}),
        ("onnxruntime", "qwen2", {}),
        ("onnxruntime", "qwen3", {}),
        ("onnxruntime", "gemma", {}),
        ("onnxruntime", "gemma2", GEMMA),
        ("onnxruntime", "gemma3_text", GEMMA | SIX_TO_ONE),
        ("onnxruntime", "phi3", {"original_max_position_embeddings": 256}),
        ("openvino", "llama", {"rope_parameters": LLAMA3, "tie_word_embeddings": True}),
        ("openvino", "llama", {"rope_parameters": YARN, "attention_bias": True, "mlp_bias": True}),
        ("openvino", "mistral", {"head_dim": 32, "sliding_window": None}),
        ("openvino", "qwen2", {}),
        ("openvino", "qwen3", {}),
    ],
)
def test_a_family_answers_as_in_torch(
    tmp_path: Path, runtime: str, family: str, changes: dict[str, Any]
) -> None:
    """Longer than the windows, so that a wrong pattern shows."""
    base = base_of(tmp_path, family, **changes)
    package = engine(runtime).export(base, tmp_path / "out")
    session = engine(runtime).open(package.folder, device="cpu")
    window = torch.randint(1, VOCABULARY, (1, 80), generator=torch.Generator().manual_seed(0))
    (found,) = session.logprobs(window)
    session.close()
    with torch.no_grad():
        expected = load(base, dtype=torch.float32)(window).logits[0, :-1].log_softmax(-1)
    # Other positions or windows give 0.05 and more.
    assert float(kl_rows(expected, found).mean()) < 1e-4


@pytest.mark.parametrize(
    ("runtime", "family", "changes", "why"),
    [
        ("onnxruntime", "llama", {"rope_parameters": YARN}, "'yarn'"),
        ("onnxruntime", "opt", {}, "family opt"),
        ("onnxruntime", "mistral", {"sliding_window": 24}, "windows of 24"),
        ("onnxruntime", "phi3", {"original_max_position_embeddings": 64}, "beyond the 64"),
        ("openvino", "mistral", {"sliding_window": 24}, "windows of 24"),
        ("openvino", "llama", {"hidden_act": "gelu"}, "'gelu'"),
        ("openvino", "gemma2", GEMMA, "family gemma2"),
    ],
)
def test_what_would_be_computed_otherwise_is_refused(
    tmp_path: Path, runtime: str, family: str, changes: dict[str, Any], why: str
) -> None:
    with pytest.raises(ConfigError, match=why):
        engine(runtime).export(base_of(tmp_path, family, **changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()
