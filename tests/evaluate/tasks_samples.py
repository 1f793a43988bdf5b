"""What the tests of benchmarks share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from paredown.runtimes.torch.load import load
from paredown.runtimes.torch.scorer import CausalScorer
from paredown.runtimes.torch.session import TorchSession
from paredown.testing.tiny import tiny_model
from paredown.text.windows import load_tokenizer

DATA = Path(os.environ.get("PAREDOWN_DATA") or Path(__file__).parents[3] / "shared" / "data")
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no benchmark rows at {DATA}")


def tiny_chatter(folder: Path, family: str = "llama", **changes: Any) -> Path:
    """A tiny model with a context that benchmark prompts fit into, and an end-of-text token."""
    changes = {"max_position_embeddings": 4096, **changes}
    model = tiny_model(folder, family, dtype=torch.float32, **changes)
    tokenizer = load_tokenizer(model)
    tokenizer.add_special_tokens({"eos_token": "\x03", "pad_token": "\x03"})
    tokenizer.save_pretrained(model)
    return model


def session_of(folder: Path) -> TorchSession:
    """A session of a model folder."""
    return TorchSession(load(folder), folder=folder)


def scorer_of(folder: Path, **options: Any) -> CausalScorer:
    """A scorer of a model folder."""
    return CausalScorer(load(folder), load_tokenizer(folder), device="cpu", **options)
