"""Bytes of weights files, told beforehand: data and headers. No torch."""

from __future__ import annotations

import json
from collections.abc import Iterable

from paredown.spec.model import ModelSpec, TensorInfo

_FRAME = len('{"__metadata__":{"format":"pt"}}') + 8 + 7
"""Of a file without tensors: its header, the header's length, and padding to whole 8 bytes."""
SHARD_BYTES = 5_000_000_000
"""Data of one file, at most, unless a single tensor is larger."""


def stored_bytes(tensor: TensorInfo, digits: int) -> int:
    """Of one tensor with its entry in a safetensors header, whose offsets have so many digits."""
    shape = json.dumps([*tensor.shape], separators=(",", ":"))
    entry = f',{json.dumps(tensor.name)}:{{"dtype":"{tensor.dtype}","shape":{shape},'
    return tensor.nbytes + len(entry) + len('"data_offsets":[,]}') + 2 * digits


def frame_bytes(nbytes: int) -> int:
    """Of all files of a checkpoint with so many bytes of tensors, besides the tensors' own."""
    # A shard ends with the tensor that would not fit any more, so it may be little over half full.
    return _FRAME * (1 + 2 * (nbytes // SHARD_BYTES))


def most_bytes(spec: ModelSpec, tensors: Iterable[TensorInfo] | None = None) -> int:
    """Bytes of the weights files of a model, at most; too much by a few per tensor at most.

    Args:
        tensors: those that are stored; None: all of the spec.
    """
    every = spec.tensors if tensors is None else tuple(tensors)
    digits = len(str(spec.weight_bytes))
    return frame_bytes(spec.weight_bytes) + sum(stored_bytes(t, digits) for t in every)
