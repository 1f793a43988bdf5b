"""Whether a model fits in the memory that this process may use."""

from __future__ import annotations

import os

import psutil

from paredown.spec.target import Device

WORKER_BYTES = "PAREDOWN_WORKER_BYTES"
"""Environment variable with the memory that a worker may use, where the user has limited it."""
WORKER_THREADS = "PAREDOWN_WORKER_THREADS"
"""Environment variable with the threads that a worker may use beside others."""
_LOADED = 1.25
"""Memory over the bytes of the files: activations, and what is held twice while it is read."""


def room(device: Device) -> float:
    """Bytes that are free for a model."""
    if device == "cuda":
        import torch

        return float(torch.cuda.mem_get_info()[0])
    free = float(psutil.virtual_memory().available)
    limit = os.environ.get(WORKER_BYTES)
    if limit is None:
        return free
    return min(free, float(limit) - psutil.Process().memory_info().rss)


def has_room(nbytes: int, device: Device) -> bool:
    """Whether a model of so many bytes of weights can be loaded."""
    return _LOADED * nbytes < room(device)
