"""What a model's file is made of."""

from __future__ import annotations

from pathlib import Path

import openvino as ov


def bytes_by_kind(file: Path) -> dict[str, int]:
    """Bytes of the constants, by what they are for: `weights`, `scales` and `embeddings`."""
    found = {"weights": 0, "scales": 0, "embeddings": 0}
    embedding: set[str] = set()
    model = ov.Core().read_model(file)
    for node in model.get_ordered_ops():
        if node.get_friendly_name() in {"lm_head", "model.embed_tokens"}:
            embedding |= _constants_of(node, 1 if node.get_type_name() == "MatMul" else 0)
    for node in model.get_ordered_ops():
        if node.get_type_name() != "Constant":
            continue
        if node.get_friendly_name() in embedding:
            kind = "embeddings"
        else:
            shape = node.get_output_shape(0)
            is_scale = len(shape) == 3 and shape[-1] == 1 and shape[0] * shape[1] > 1
            kind = "scales" if is_scale else "weights"
        found[kind] += node.get_byte_size()
    return found


def _constants_of(node: object, index: int) -> set[str]:
    """Names of the constants behind an input."""
    names, left = set(), [node.input_value(index).get_node()]  # type: ignore[attr-defined]
    while left:
        place = left.pop()
        if place.get_type_name() == "Constant":
            names.add(place.get_friendly_name())
        left += [value.get_node() for value in place.input_values()]
    return names
