"""Giving freed memory back to the system."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any


@cache
def _libc() -> Any:
    try:
        libc = ctypes.CDLL(None)
    except (OSError, TypeError):  # Windows has no such handle
        return None
    return libc if hasattr(libc, "malloc_trim") else None


def release() -> None:
    """Return what was freed to the system, where the C library (glibc) can.

    Tensors come and go in pieces of megabytes; without this, glibc keeps the gaps between those
    that stay, which can take more memory than the packed weights themselves.
    """
    libc = _libc()
    if libc is not None:
        libc.malloc_trim(0)
