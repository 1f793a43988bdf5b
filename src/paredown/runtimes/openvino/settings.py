"""How models are compiled and computed. No torch, no engine."""

from __future__ import annotations

from typing import Any


def properties(threads: int) -> dict[str, Any]:
    """Settings of the CPU plugin, all of them stated.

    Args:
        threads: of the processor.
    """
    return {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        # Else inputs of packed products become 8-bit numbers.
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
        # Else keys and values become 8-bit numbers.
        "KV_CACHE_PRECISION": "f16",
    }
