"""What a graph's file is made of."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

_EMBEDDINGS = ("model.embed_tokens.", "lm_head.")
_SCALES = (".scale", ".zero")


def bytes_by_kind(file: Path) -> dict[str, int]:
    """Bytes of the constants, by what they are for: `weights`, `scales` and `embeddings`."""
    found = {"weights": 0, "scales": 0, "embeddings": 0}
    for name, value in ir.load(file).graph.initializers.items():
        if value.const_value is None:
            continue
        kind = "scales" if name.endswith(_SCALES) else "weights"
        found["embeddings" if name.startswith(_EMBEDDINGS) else kind] += value.const_value.nbytes
    return found
