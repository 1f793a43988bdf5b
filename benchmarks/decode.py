"""Does a 4-bit artifact decode faster than its bf16 base, in a smaller process?

Two processes are alive at once: one serves the base through plain transformers, the other the
artifact through `paredown.load`. They read a prompt and decode in turns, so that whatever slows the
machine slows both. Printed: ms for the prompt and per token (medians), peak memory of each process,
the ratios with their intervals, and the share of the memory-bandwidth limit reached: bytes of
weights that one token has to read / time, over the bandwidth that torch reaches on a large array in
the same run.

    python benchmarks/decode.py --model demo
    python benchmarks/decode.py --model random-0.8b

A processor without instructions for bfloat16 reads prompts many times slower in that dtype than in
float32; `--base-dtype float32` is the base at its best there.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common import Server, ratio, table

_PACKED = "packed"


def serve(folder: str, dtype: str | None, tokens: int, prompt_tokens: int) -> None:
    """Child: load once, then read a prompt and decode `tokens` tokens per request.

    Args:
        dtype: of the base in plain transformers; None: the artifact, packed.
    """
    import torch

    from paredown.evaluate.footprint import peak_rss

    model = _load(folder, dtype)
    vocabulary = model.config.vocab_size
    read_bytes = bytes_per_token(model)
    loaded = peak_rss()
    for number, _ in enumerate(sys.stdin):
        generator = torch.Generator().manual_seed(number)
        prompt = torch.randint(0, vocabulary, (1, prompt_tokens), generator=generator)
        reading, decoding = decode(model, prompt, tokens)
        answer = {
            "prompt_ms": reading * 1e3,
            "ms": decoding * 1e3 / tokens,
            "peak_bytes": peak_rss(),
            "peak_bytes_loading": loaded,
            "read_bytes": read_bytes,
        }
        print(json.dumps(answer), flush=True)


def _load(folder: str, dtype: str | None) -> Any:
    if dtype is None:
        import paredown

        return paredown.load(folder)
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


def bytes_per_token(model: Any) -> int:
    """Resident weights; an input embedding of its own gives one row only and does not count."""
    tensors = {t.data_ptr(): t for t in (*model.parameters(), *model.buffers())}
    embedding = getattr(model.get_input_embeddings(), "weight", None)  # None: packed, and tied
    head = getattr(model.get_output_embeddings(), "weight", None)
    if embedding is not None and (head is None or head.data_ptr() != embedding.data_ptr()):
        tensors.pop(embedding.data_ptr(), None)
    return sum(t.numel() * t.element_size() for t in tensors.values())


def decode(model: Any, prompt: Any, tokens: int) -> tuple[float, float]:
    """Seconds for reading a prompt, and for decoding `tokens` tokens behind it: greedy, batch 1."""
    import torch

    with torch.inference_mode():
        begin = time.perf_counter()
        # As `generate` does: of a prompt only the last position is turned into logits.
        output = model(prompt, use_cache=True, logits_to_keep=1)
        token = output.logits[:, -1:].argmax(-1)
        start = time.perf_counter()
        for _ in range(tokens):
            output = model(token, past_key_values=output.past_key_values, use_cache=True)
            token = output.logits[:, -1:].argmax(-1)
        return start - begin, time.perf_counter() - start


def bandwidth() -> float:
    """Bytes per second that all threads read or copy from a 512 MB array; the best of five each."""
    import torch

    source = torch.ones(1 << 27)
    target = torch.empty_like(source)
    size = source.numel() * source.element_size()
    best = 0.0
    for _ in range(5):
        start = time.perf_counter()
        source.sum()
        middle = time.perf_counter()
        target.copy_(source)
        end = time.perf_counter()
        best = max(best, size / (middle - start), 2 * size / (end - middle))
    return best


def processor() -> str:
    """Its name, and whether it computes in bfloat16."""
    import cpuinfo
    import torch

    from paredown.runtimes.torch.packed import dense_dtype

    kind = "with" if dense_dtype("cpu") == torch.bfloat16 else "without"
    return f"{cpuinfo.get_cpu_info().get('brand_raw', 'a processor')} {kind} bfloat16"


def measure(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Build the artifact, then let both processes decode in turns."""
    from models import random_llama

    from paredown import api
    from paredown.artifact.source import locate

    if options.model == "random-0.8b":
        base = random_llama(scratch / "base", layers=16, width=2048, mlp=5632, vocabulary=49152)
    else:
        base = locate(options.model)
    artifact = scratch / "artifact"
    api.compress(str(base), options.strategy, artifact, device="cpu")
    peak_bandwidth = bandwidth()
    script, counts = Path(__file__), (str(options.tokens), str(options.prompt))
    servers = {
        "base": Server(script, "--serve", str(base), options.base_dtype, *counts),
        "artifact": Server(script, "--serve", str(artifact), _PACKED, *counts),
    }
    times: dict[str, list[float]] = {name: [] for name in servers}
    reading: dict[str, list[float]] = {name: [] for name in servers}
    last: dict[str, dict[str, Any]] = {}
    try:
        for repeat in range(options.repeats + 1):  # the first is a warm-up
            for name, server in servers.items():
                last[name] = server.ask("decode")
                if repeat:
                    times[name].append(last[name]["ms"])
                    reading[name].append(last[name]["prompt_ms"])
    finally:
        for server in servers.values():
            server.close()
    peak_bandwidth = max(peak_bandwidth, bandwidth())
    report: dict[str, Any] = {
        "model": options.model,
        "strategy": options.strategy,
        "repeats": options.repeats,
        "bandwidth_bytes_per_s": peak_bandwidth,
        "base_dtype": options.base_dtype,
        "prompt_tokens": options.prompt,
        "processor": processor(),
        "speedup": asdict(ratio(times["base"], times["artifact"])),
        "prompt_ratio": asdict(ratio(reading["artifact"], reading["base"])),
    }
    for name, found in last.items():
        ms = statistics.median(times[name])
        report[name] = {
            "ms_per_token": ms,
            "all_ms": times[name],
            "prompt_ms": statistics.median(reading[name]),
            "peak_bytes": found["peak_bytes"],
            "peak_bytes_loading": found["peak_bytes_loading"],
            "read_bytes_per_token": found["read_bytes"],
            "bandwidth_share": found["read_bytes"] / (ms / 1e3) / peak_bandwidth,
        }
    report["memory_ratio"] = report["artifact"]["peak_bytes"] / report["base"]["peak_bytes"]
    return report


def show(report: dict[str, Any]) -> None:
    """Print the report as a small table."""
    rows: list[tuple[str, ...]] = [
        ("", "prompt ms", "ms/token", "peak MB", "read MB/token", "of bandwidth")
    ]
    for name in ("base", "artifact"):
        r = report[name]
        rows.append(
            (
                name,
                f"{r['prompt_ms']:.0f}",
                f"{r['ms_per_token']:.2f}",
                f"{r['peak_bytes'] / 1e6:.0f}",
                f"{r['read_bytes_per_token'] / 1e6:.1f}",
                f"{r['bandwidth_share']:.0%}",
            )
        )
    print(table(rows))
    speed = report["speedup"]
    print(
        f"the artifact decodes {speed['value']:.2f} times as fast "
        f"[{speed['low']:.2f}, {speed['high']:.2f}] "
        f"in {report['memory_ratio']:.2f} of the memory; "
        f"bandwidth {report['bandwidth_bytes_per_s'] / 1e9:.1f} GB/s"
    )
    prompt = report["prompt_ratio"]
    print(
        f"it reads a prompt of {report['prompt_tokens']} tokens in {prompt['value']:.2f} "
        f"[{prompt['low']:.2f}, {prompt['high']:.2f}] of the time of the base in "
        f"{report['base_dtype']}, on {report['processor']}"
    )


def main() -> None:
    """Parent."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="demo", help="demo, random-0.8b, or a model folder")
    parser.add_argument(
        "--strategy",
        default="rtn(bits=4, search_steps=0)",
        help="speed does not depend on search_steps; 0 makes the artifact faster",
    )
    parser.add_argument("--repeats", type=int, default=12, help="pairs, at least 2")
    parser.add_argument("--tokens", type=int, default=32, help="decoded per repeat")
    parser.add_argument("--prompt", type=int, default=128, help="tokens of the prompt")
    parser.add_argument("--base-dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument("--serve", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        folder, dtype, *counts = options.serve
        serve(folder, None if dtype == _PACKED else dtype, *map(int, counts))
        return
    if options.repeats < 2:
        parser.error("--repeats: an interval needs at least 2")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # the waiting process must not spin
    with tempfile.TemporaryDirectory() as scratch:
        report = measure(options, Path(scratch))
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        show(report)


if __name__ == "__main__":
    main()
