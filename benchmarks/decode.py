"""Does a 4-bit artifact decode faster than its bf16 base, in a smaller process?

Two processes, one serving the base through plain transformers, one the artifact through
`paredown.load`, decode in turns, so that whatever slows the machine slows both. Printed: ms per
token, the ratio with its interval, peak memory of each process, and the share of the
memory-bandwidth limit reached (bytes of weights read per token / time, over the copy bandwidth
measured in the same run).

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
from pathlib import Path

from common import Server, ratio_with_interval


def serve(folder: str, plain: bool, tokens: int) -> None:
    """Child: load once, then decode `tokens` per request."""
    import torch

    from paredown.evaluate.footprint import peak_rss
    from paredown.evaluate.latency import _one
    from paredown.models.load import load, load_dense

    model = (load_dense if plain else load)(folder)
    stored = sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))
    vocabulary = model.get_input_embeddings().weight.shape[0]
    for number, _ in enumerate(sys.stdin):
        generator = torch.Generator().manual_seed(number)
        prompt = torch.randint(0, vocabulary, (1, 64), generator=generator)
        with torch.inference_mode():
            _, seconds = _one(model, prompt, tokens, "cpu")
        answer = {"ms": seconds * 1e3 / tokens, "peak": peak_rss(), "weights": stored}
        print(json.dumps(answer), flush=True)


def copy_bandwidth() -> float:
    """Bytes per second read by a sum over a large array with all threads; best of five."""
    import torch

    data = torch.ones(1 << 27)
    best = 0.0
    for _ in range(5):
        start = time.perf_counter()
        data.sum()
        best = max(best, data.numel() * 4 / (time.perf_counter() - start))
    return best


def main() -> None:
    """Parent."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo", help="demo, random-0.8b, or a folder")
    parser.add_argument("--strategy", default="rtn(bits=4, search_steps=0)")
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve[0], options.serve[1] == "plain", int(options.serve[2]))
        return
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with tempfile.TemporaryDirectory() as scratch:
        report = measure(options, Path(scratch))
    if options.json:
        print(json.dumps(report, indent=2))
        return
    for name in ("base", "artifact"):
        r = report[name]
        print(
            f"{name:9} {r['ms_per_token']:7.2f} ms/token  peak {r['peak_bytes'] / 1e6:7.0f} MB  "
            f"weights {r['weight_bytes'] / 1e6:6.0f} MB  {r['bandwidth_share']:.0%} of bandwidth"
        )
    low, high = report["interval"]
    print(f"artifact decodes {report['speedup']:.2f}x as fast [{low:.2f}, {high:.2f}]")


def measure(options: argparse.Namespace, scratch: Path) -> dict[str, object]:
    """Build the artifact, then let both processes decode in turns."""
    from models import random_llama

    from paredown import api
    from paredown.models.source import locate

    if options.model == "random-0.8b":
        base = random_llama(scratch / "base", layers=16, width=2048, mlp=5632, vocabulary=49152)
    else:
        base = locate(options.model)
    artifact = scratch / "artifact"
    api.compress(str(base), options.strategy, artifact)
    script = Path(__file__)
    servers = {
        "base": Server(script, "--serve", str(base), "plain", str(options.tokens)),
        "artifact": Server(script, "--serve", str(artifact), "packed", str(options.tokens)),
    }
    times: dict[str, list[float]] = {name: [] for name in servers}
    last = {}
    for repeat in range(options.repeats + 1):
        for name, server in servers.items():
            last[name] = server.ask("decode")
            if repeat:
                times[name].append(last[name]["ms"])
    for server in servers.values():
        server.close()
    bandwidth = copy_bandwidth()
    value, low, high = ratio_with_interval(times["base"], times["artifact"])
    report: dict[str, object] = {"speedup": value, "interval": [low, high]}
    for name, found in last.items():
        ms = statistics.median(times[name])
        report[name] = {
            "ms_per_token": ms,
            "peak_bytes": found["peak"],
            "weight_bytes": found["weights"],
            "bandwidth_share": found["weights"] / (ms / 1e3) / bandwidth,
        }
    return report


if __name__ == "__main__":
    main()
