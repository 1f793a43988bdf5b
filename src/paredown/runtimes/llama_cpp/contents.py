"""What a GGUF file is made of. No torch."""

from __future__ import annotations

from pathlib import Path

from gguf import GGUFReader

from paredown.runtimes.llama_cpp.tensor_types import ALL_TYPES, scale_bytes

_EMBEDDINGS = ("token_embd.", "output.", "position_embd.")


def bytes_by_kind(file: Path) -> dict[str, int]:
    """Bytes of the tensors, by what they are for: `weights`, `scales` and `embeddings`."""
    kinds = {kind.number: kind for kind in ALL_TYPES}
    found = {"weights": 0, "scales": 0, "embeddings": 0}
    for tensor in GGUFReader(file).tensors:
        if tensor.name.startswith(_EMBEDDINGS):
            found["embeddings"] += tensor.n_bytes
            continue
        kind = kinds.get(int(tensor.tensor_type))
        shape = tuple(int(n) for n in tensor.shape)
        scales = 0 if kind is None else scale_bytes(kind, shape)
        found["scales"] += scales
        found["weights"] += tensor.n_bytes - scales
    return found
