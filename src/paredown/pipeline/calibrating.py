"""What an engine with a process of its own reaches here: `python -m paredown.pipeline.calibrating`.

An engine's kernels cannot be called one by one, so small random models are opened in it, and each
rate follows from the difference between two of them, or between two loads of one. As in torch's own
calibration the best of several repeats counts, and a single thread is timed by the processor time
that its process gets.

    python -m paredown.pipeline.calibrating RUNTIME OUT
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, final

import psutil
import torch

from paredown.hardware.clock import cpu_s
from paredown.hardware.engines import ENGINES
from paredown.methods import registry
from paredown.pipeline.messages import CompressJob, TextSpec
from paredown.pipeline.work.compress import compress
from paredown.runtimes.registry import engine
from paredown.runtimes.session import Session
from paredown.spec.progress import unheard
from paredown.store.atomic import write_json
from paredown.text.ascii import CHARACTERS, write_byte_tokenizer

VOCABULARY = CHARACTERS
FEW_LAYERS, MANY_LAYERS = 2, 14
"""Of models of no size: the difference is what a layer costs."""
WIDE = {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 4,
        "num_attention_heads": 16, "num_key_value_heads": 4}  # fmt: skip
"""A model larger than the caches of processors: 86 MB in 16 bits, 24 MB in 4."""
SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4,
         "num_key_value_heads": 2}  # fmt: skip
READING = {"hidden_size": 256, "intermediate_size": 128, "num_hidden_layers": 8,
           "num_attention_heads": 4, "num_key_value_heads": 4}  # fmt: skip
"""A model of small weights and heads of the usual width: behind many tokens a step reads their
cache and little else. With narrow heads a number of the cache costs several times as much."""
SHORT, LONG, FEW = 16, 1024, 4
"""Tokens behind which a step is timed, and rows of a small batch."""
PROMPTS = (32, 96)
"""Tokens of prompts; the difference is what tokens cost, and what is left what the weights do."""
STEPS, REPEATS = 8, 3
_PACKED = "rtn(bits={bits}, group_size=32, search_steps=0)"


@final
class Timed:
    """A session with its clock."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def now(self) -> float:
        """Seconds: of the engine's process with one thread, else of the clock."""
        if torch.get_num_threads() > 1:
            return time.perf_counter()
        return cpu_s(self.session.pid)

    def best_s(self, once: Callable[[], object], repeats: int = REPEATS) -> float:
        """Seconds of the fastest repeat, after one that warms up."""
        once()
        found = []
        for _ in range(repeats):
            start = self.now()
            once()
            found.append(self.now() - start)
        return max(min(found), 1e-6)

    def step_s(self, tokens: int, rows: int = 1) -> float:
        """Seconds of decoding one token of every row behind a prompt."""
        state = self.session.prefill(torch.ones(rows, tokens, dtype=torch.int64))
        fork, decode = self.session.fork, self.session.decode
        return self.best_s(lambda: decode(fork(state), STEPS)) / STEPS

    def prefill_s(self, tokens: int) -> float:
        """Seconds of reading a prompt."""
        prompt = torch.ones(1, tokens, dtype=torch.int64)
        return self.best_s(lambda: self.session.prefill(prompt))


def measure(runtime: str, scratch: Path) -> dict[str, Any]:
    """Every figure of a `Calibration` that an engine's sessions tell."""
    few = _opened(runtime, _model(scratch / "few", num_hidden_layers=FEW_LAYERS, **SMALL))
    short = few.step_s(SHORT)
    process = float(psutil.Process(few.session.pid).memory_info().rss)
    few.session.close()
    many = _opened(runtime, _model(scratch / "many", num_hidden_layers=MANY_LAYERS, **SMALL))
    layer = max((many.step_s(SHORT) - short) / (MANY_LAYERS - FEW_LAYERS), 0.0)
    many.session.close()
    reading = _opened(runtime, _model(scratch / "reading", **READING))
    one = reading.step_s(SHORT)
    behind = max(reading.step_s(LONG) - one, 0.01 * one)
    reading.session.close()
    fixed = short + (WIDE["num_hidden_layers"] - FEW_LAYERS) * layer
    base = _model(scratch / "wide", **WIDE)
    whole = _dense_bits(runtime)
    dense = _rates(_opened(runtime, base), bytes_read(whole, whole), fixed)
    four = _rates(_packed(runtime, base, 4), bytes_read(4.5, whole), fixed)
    eight = _rates(_packed(runtime, base, 8), bytes_read(8.5, whole), fixed)
    return {
        "threads": torch.get_num_threads(), "torch": torch.__version__, "runtime": runtime,
        "copy_bytes_s": dense["bytes_s"], "row_bytes_s": dense["bytes_s"],
        "packed_bytes_s": dict.fromkeys((2, 3, 4), four["bytes_s"])
        | dict.fromkeys((5, 6, 7, 8), eight["bytes_s"]),
        "cache_bytes_s": _cache_bytes(runtime) / behind, "few_ops_s": dense["few_s"],
        "few_packed_ops_s": four["few_s"], "dense_ops_s": dense["ops_s"],
        "packed_ops_s": four["ops_s"], "unpack_s": four["unpack_s"], "layer_s": layer,
        "step_s": max(short - FEW_LAYERS * layer, 0.0), "process_bytes": process,
    }  # fmt: skip


def _rates(timed: Timed, nbytes: float, fixed_s: float) -> dict[str, float]:
    """What a wide model reaches, its fixed costs taken off."""
    one, few = timed.step_s(SHORT), timed.step_s(SHORT, FEW)
    fewer, more = (timed.prefill_s(tokens) for tokens in PROMPTS)
    timed.session.close()
    weights = _multiplied()
    per_token = max(more - fewer, 0.02 * more) / (PROMPTS[1] - PROMPTS[0])
    # What a prompt costs beside its tokens: unpacking, where codes are unpacked for it.
    once = max(fewer - PROMPTS[0] * per_token - fixed_s, 0.01 * fewer)
    return {
        "bytes_s": nbytes / max(one - fixed_s, 0.05 * one),
        "few_s": FEW * 2 * weights / max(few - fixed_s, 0.05 * few),
        "ops_s": 2 * weights / per_token,
        "unpack_s": weights / once,
    }


def _cache_bytes(runtime: str) -> float:
    """Of keys and values that lie between the two lengths in the model that reads them."""
    number = ENGINES[runtime].cache_bytes if runtime in ENGINES else 2
    numbers = 2 * READING["num_hidden_layers"] * READING["hidden_size"]
    return numbers * number * (LONG - SHORT)


def _multiplied() -> int:
    """Weights that a token is multiplied with in the wide model."""
    width, mlp = WIDE["hidden_size"], WIDE["intermediate_size"]
    share = 2 * WIDE["num_key_value_heads"] / WIDE["num_attention_heads"]
    block = int((2 + share) * width * width) + 3 * width * mlp
    return WIDE["num_hidden_layers"] * block + VOCABULARY * width


def _dense_bits(runtime: str) -> float:
    """Bits in which an engine holds what is not packed, as predictions count it."""
    number = ENGINES[runtime].dense_bytes if runtime in ENGINES else None
    return 16.0 if number is None else 8.0 * number


def bytes_read(bits: float, dense_bits: float) -> float:
    """Bytes of the weights that a step of the wide model reads; its head is not packed."""
    head = VOCABULARY * WIDE["hidden_size"]
    return ((_multiplied() - head) * bits + head * dense_bits) / 8


def _model(folder: Path, **shape: Any) -> Path:
    """Write a random bf16 Llama with a tokenizer that engines have as well."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, max_position_embeddings=4096, tie_word_embeddings=False, **shape
    )
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    write_byte_tokenizer(folder)
    return folder


def _packed(runtime: str, base: Path, bits: int) -> Timed:
    """The wide model in codes of so many bits; those of a machine's choice cost what any cost."""
    strategy = registry.canonical(_PACKED.format(bits=bits))
    out = base.with_name(f"{base.name}-{bits}")
    work = base.with_name(f"work-{bits}")
    work.mkdir()
    job = CompressJob(
        device="cpu", model=base, model_name="random", model_hash="random", strategy=strategy,
        out=out, text=TextSpec(evaluation="pydoc", calibration=None, data_dir=None), samples=1,
        length=16, seed=0,
    )  # fmt: skip
    compress(job, work, unheard)
    return _opened(runtime, out)


def _opened(runtime: str, model: Path) -> Timed:
    found = engine(runtime)
    package = found.export(model, model.with_name(f"{model.name}-package"))
    return Timed(found.open(package.folder, device="cpu"))


def main(runtime: str, out: Path) -> None:
    """Measure and write."""
    with tempfile.TemporaryDirectory(prefix="paredown-calibrating-") as scratch:
        write_json(out, measure(runtime, Path(scratch)))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
