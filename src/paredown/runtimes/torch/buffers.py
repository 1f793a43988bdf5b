"""Memory for unpacked slices of layers, used over and over."""

from __future__ import annotations

import math
import threading

import torch
from torch import Tensor


class _Buffers(threading.local):
    """Fresh memory for each layer would cost page faults each time, and leave the C library with
    gaps of megabytes that count as memory of the process."""

    def __init__(self) -> None:
        self.held: dict[tuple[int, torch.dtype, torch.device], Tensor] = {}


_buffers = _Buffers()


def buffer(
    shape: tuple[int, ...] | torch.Size,
    dtype: torch.dtype,
    device: torch.device,
    *,
    slot: int | None,
) -> Tensor:
    """Uninitialised memory of `shape`.

    Args:
        slot: the same memory for every call with this number, from one thread; None: new memory.
    """
    if slot is None:
        return torch.empty(shape, dtype=dtype, device=device)
    size, key = math.prod(shape), (slot, dtype, device)
    if key not in _buffers.held or _buffers.held[key].numel() < size:
        with torch.inference_mode(False):  # else it could not be written outside of that mode
            _buffers.held[key] = torch.empty(size, dtype=dtype, device=device)
    return _buffers.held[key][:size].view(shape)
