"""How vLLM is started, for measuring and for serving alike. Standard library only."""

from __future__ import annotations

import os

LONGEST = 16384
"""Tokens of context, at most: all of it is set aside in memory at once."""


def set_variables(threads: int | None) -> None:
    """What vLLM reads when it is imported."""
    os.environ.update({
        # By default its CPU kernel rounds inputs of 4-bit layers to 8 bits without a word: log-
        # probabilities then differ by 0.19 a token instead of 0.036 (SmolLM2-135M).
        "VLLM_CPU_INT4_W4A8": "0",
        "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1",
        # Everything in one process, which is then weighed and timed.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        # Bound to cores, processes that are measured in turns would share one.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    })  # fmt: skip
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)
