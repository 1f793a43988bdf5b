"""What a GGUF file holds, read by gguf's own reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


def reader(folder: Path) -> Any:
    from gguf import GGUFReader

    return GGUFReader(folder / "model.gguf")


def weights(folder: Path) -> dict[str, Tensor]:
    """Every tensor of the file as float32, by its name there."""
    from gguf.quants import dequantize

    return {
        tensor.name: torch.from_numpy(
            np.array(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        )
        for tensor in reader(folder).tensors
    }


def numbers(folder: Path) -> dict[str, Any]:
    """The header of the file, without the long arrays of the tokenizer."""
    return {
        name: field.contents()
        for name, field in reader(folder).fields.items()
        if not name.startswith(("GGUF.", "tokenizer.ggml.tokens"))
    }


def halves(weight: Tensor, heads: int) -> Tensor:
    """Rows of q or k as transformers has them: a head's even rows first, then the odd ones."""
    by_head = weight.reshape(heads, -1, 2, *weight.shape[1:])
    return torch.cat((by_head[:, :, 0], by_head[:, :, 1]), dim=1).reshape(weight.shape)
