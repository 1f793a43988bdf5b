"""Quantization that other libraries do while transformers loads a model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from paredown.models.checkpoint import TORCH_DTYPES, Checkpoint


def quantize_on_load(
    source: Checkpoint, quantization_config: Any, *, device: str, trust_remote_code: bool
) -> Any:
    """The model of `source`, quantized by transformers as `quantization_config` says."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        source.folder,
        dtype=TORCH_DTYPES[source.spec.dtype],
        quantization_config=quantization_config,
        device_map=device,
        use_safetensors=True,
        trust_remote_code=trust_remote_code,
    ).eval()


def copy_side_files(source: Checkpoint, out: Path) -> None:
    """Tokenizer and other small files that the library did not write itself."""
    for file in source.folder.iterdir():
        wanted = file.suffix in {".json", ".txt", ".model", ".jinja", ".py"}
        if wanted and not file.name.startswith(("paredown", "model.safetensors", ".")):
            target = out / file.name
            if not target.exists():
                shutil.copyfile(file, target)
