"""Does a 4-bit artifact decode faster than its bf16 base, in a smaller process?

Two processes are alive at once: one serves the base through plain transformers, the other the
artifact through `paredown.load`. They decode in turns, so that whatever slows the machine slows
both. Printed: ms per token (median), peak memory of each process, the ratio with its interval, and
the share of the memory-bandwidth limit reached: bytes of weights that one token has to read / time,
over the bandwidth that torch reaches on a large array in the same run.

    python benchmarks/decode.py --model demo
    python benchmarks/decode.py --model random-0.8b
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

PROMPT_TOKENS = 64


def serve(folder: str, plain: bool, tokens: int) -> None:
    """Child: load once, then decode `tokens` tokens per request."""
    import torch

    from paredown.evaluate.footprint import peak_rss

    model = _load(folder, plain)
    vocabulary = model.config.vocab_size
    read_bytes = bytes_per_token(model)
    loaded = peak_rss()
    for number, _ in enumerate(sys.stdin):
        generator = torch.Generator().manual_seed(number)
        prompt = torch.randint(0, vocabulary, (1, PROMPT_TOKENS), generator=generator)
        seconds = decode(model, prompt, tokens)
        answer = {
            "ms": seconds * 1e3 / tokens,
            "peak_bytes": peak_rss(),
            "peak_bytes_loading": loaded,
            "read_bytes": read_bytes,
        }
        print(json.dumps(answer), flush=True)


def _load(folder: str, plain: bool) -> Any:
    if not plain:
        import paredown

        return paredown.load(folder)
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()


def bytes_per_token(model: Any) -> int:
    """Resident weights; an input embedding of its own gives one row only and does not count."""
    tensors = {t.data_ptr(): t for t in (*model.parameters(), *model.buffers())}
    embedding = getattr(model.get_input_embeddings(), "weight", None)  # None: packed, and tied
    head = getattr(model.get_output_embeddings(), "weight", None)
    if embedding is not None and (head is None or head.data_ptr() != embedding.data_ptr()):
        tensors.pop(embedding.data_ptr(), None)
    return sum(t.numel() * t.element_size() for t in tensors.values())


def decode(model: Any, prompt: Any, tokens: int) -> float:
    """Seconds for greedy decoding of `tokens` tokens after the prompt, batch 1, with the cache."""
    import torch

    with torch.inference_mode():
        output = model(prompt, use_cache=True)
        token = output.logits[:, -1:].argmax(-1)
        start = time.perf_counter()
        for _ in range(tokens):
            output = model(token, past_key_values=output.past_key_values, use_cache=True)
            token = output.logits[:, -1:].argmax(-1)
        return time.perf_counter() - start


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
    script, tokens = Path(__file__), str(options.tokens)
    servers = {
        "base": Server(script, "--serve", str(base), "plain", tokens),
        "artifact": Server(script, "--serve", str(artifact), "packed", tokens),
    }
    times: dict[str, list[float]] = {name: [] for name in servers}
    last: dict[str, dict[str, Any]] = {}
    try:
        for repeat in range(options.repeats + 1):  # the first is a warm-up
            for name, server in servers.items():
                last[name] = server.ask("decode")
                if repeat:
                    times[name].append(last[name]["ms"])
    finally:
        for server in servers.values():
            server.close()
    peak_bandwidth = max(peak_bandwidth, bandwidth())
    report: dict[str, Any] = {
        "model": options.model,
        "strategy": options.strategy,
        "repeats": options.repeats,
        "bandwidth_bytes_per_s": peak_bandwidth,
        "speedup": asdict(ratio(times["base"], times["artifact"])),
    }
    for name, found in last.items():
        ms = statistics.median(times[name])
        report[name] = {
            "ms_per_token": ms,
            "all_ms": times[name],
            "peak_bytes": found["peak_bytes"],
            "peak_bytes_loading": found["peak_bytes_loading"],
            "read_bytes_per_token": found["read_bytes"],
            "bandwidth_share": found["read_bytes"] / (ms / 1e3) / peak_bandwidth,
        }
    report["memory_ratio"] = report["artifact"]["peak_bytes"] / report["base"]["peak_bytes"]
    return report


def show(report: dict[str, Any]) -> None:
    """Print the report as a small table."""
    rows: list[tuple[str, ...]] = [("", "ms/token", "peak MB", "read MB/token", "of bandwidth")]
    for name in ("base", "artifact"):
        r = report[name]
        rows.append(
            (
                name,
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
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve[0], options.serve[1] == "plain", int(options.serve[2]))
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
