"""What this machine's processor reaches: `python -m paredown.runtimes.torch.calibrate OUT`.

Each figure is the best of several repeats: on a machine that others use too, the best is nearest to
what it can do. For the same reason a single thread is timed by the processor time that it gets, and
only several by the clock. Arrays are larger than caches, except where the point is what nothing
costs.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor, nn

from paredown.ops.affine import Grid
from paredown.runtimes.torch.packed import PackedWeight
from paredown.store.atomic import write_json

WIDTH = 1024
DENSE, PACKED = 64, 96
"""Matrices of `WIDTH` squared: 134 MB in 16 bits, 57 MB in 4."""
FEW = 4
"""Rows of a small batch."""
ROWS, FEWER = 256, 128
"""Of prompts; the difference is what rows cost, and what is left what a matrix costs."""
GROUP = 64
LONG, SHORT = 1536, 16
"""Tokens behind which a step is timed, to tell the cache's share."""
REPEATS = 7


def now() -> float:
    """Seconds: of this process with one thread, else of the clock."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def best_s(once: Callable[[], object], repeats: int = REPEATS) -> float:
    """Seconds of the fastest repeat, after one that warms up."""
    once()
    found = []
    for _ in range(repeats):
        start = now()
        once()
        found.append(now() - start)
    return min(found)


def copy_bytes_s() -> float:
    """Bytes per second read and written by a copy of 256 MB."""
    source = torch.ones(1 << 26)
    target = torch.empty_like(source)
    return 2 * source.nbytes / best_s(lambda: target.copy_(source))


def dense_rates() -> tuple[float, float, float]:
    """Bytes per second with one row, and operations per second with `FEW` and with `ROWS`."""
    weights = [torch.randn(WIDTH, WIDTH).bfloat16() for _ in range(DENSE)]
    row, rows = torch.randn(1, WIDTH).bfloat16(), torch.randn(ROWS, WIDTH).bfloat16()
    one = best_s(lambda: [nn.functional.linear(row, w) for w in weights])
    few = best_s(lambda: [nn.functional.linear(rows[:FEW], w) for w in weights], 3) / DENSE
    many = best_s(lambda: nn.functional.linear(rows, weights[0]), 3)
    once = 2 * WIDTH * WIDTH
    return sum(w.nbytes for w in weights) / one, FEW * once / few, ROWS * once / many


def packed_rates(bits: int) -> tuple[float, float, float, float]:
    """Bytes per second of packed weights with one row, operations per second with `FEW`, and with a
    prompt's rows the operations per second and the weights per second that are unpacked before."""
    limit = 1 << (bits - 1)
    codes = torch.randint(-limit, limit, (WIDTH, WIDTH), dtype=torch.int8)
    scale = torch.full((WIDTH, WIDTH // GROUP), 0.01)
    grid = Grid(bits=bits, group_size=GROUP, scale=scale, zero=None)
    layers: list[Any] = [
        PackedWeight(codes, grid, dtype=torch.bfloat16, device="cpu") for _ in range(PACKED)
    ]
    row, rows = torch.randn(1, WIDTH).bfloat16(), torch.randn(ROWS, WIDTH).bfloat16()
    one = best_s(lambda: [layer.multiply(row) for layer in layers])
    few = best_s(lambda: [layer.multiply(rows[:FEW]) for layer in layers], 3) / PACKED
    fewer = best_s(lambda: layers[0].multiply(rows[:FEWER]), 3)
    many = max(best_s(lambda: layers[0].multiply(rows), 3), 1.01 * fewer)
    per_row = (many - fewer) / (ROWS - FEWER)
    nbytes = PACKED * WIDTH * WIDTH * (4.5 if bits <= 4 else 9.0) / 8
    # Unpacking takes some time at least, whatever the noise says.
    unpacking = max(many - ROWS * per_row, 0.01 * many)
    once = 2 * WIDTH * WIDTH
    return nbytes / one, FEW * once / few, once / per_row, WIDTH * WIDTH / unpacking


def _model(layers: int, hidden: int) -> Any:
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(
        vocab_size=256, hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=4096,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()


@torch.inference_mode()
def step_s(model: Any, tokens: int, steps: int = 8) -> float:
    """Seconds of decoding one token behind `tokens`, the median of the faster half of steps."""
    output = model(torch.ones(1, tokens, dtype=torch.int64), use_cache=True)
    token: Tensor = output.logits[:, -1:].argmax(-1)
    found = []
    for _ in range(3 * steps):
        start = now()
        output = model(token, past_key_values=output.past_key_values, use_cache=True)
        token = output.logits[:, -1:].argmax(-1)
        found.append(now() - start)
    return sorted(found)[steps // 2]


def fixed_costs() -> dict[str, float]:
    """What layers and steps of no size take, what the cache adds, and the process's memory."""
    few, many = _model(2, 64), _model(14, 64)
    short = step_s(few, SHORT)
    process = float(psutil.Process().memory_info().rss)
    layer = max((step_s(many, SHORT) - short) / 12, 0.0)
    # Two key-value heads of 64 numbers, 16 bits, keys and values, 8 layers.
    wide = _model(8, 256)
    kept = 8 * 2 * 2 * 64 * 2 * (LONG - SHORT)
    longer = max(step_s(wide, LONG) - step_s(wide, SHORT), 1e-9)
    return {
        "layer_s": layer,
        "step_s": max(short - 2 * layer, 0.0),
        "cache_bytes_s": kept / longer,
        "process_bytes": process,
    }


def main(out: Path) -> None:
    """Measure and write; memory of the process comes first, before any array."""
    found: dict[str, Any] = {"threads": torch.get_num_threads(), "torch": torch.__version__}
    found |= fixed_costs()
    found["copy_bytes_s"] = copy_bytes_s()
    found["row_bytes_s"], found["few_ops_s"], found["dense_ops_s"] = dense_rates()
    four, found["few_packed_ops_s"], found["packed_ops_s"], found["unpack_s"] = packed_rates(4)
    eight, _, _, _ = packed_rates(8)
    found["packed_bytes_s"] = dict.fromkeys((2, 3, 4), four) | dict.fromkeys((5, 6, 7, 8), eight)
    write_json(out, found)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
