"""What do engines with files of their own bring: exact numbers, speed, memory, cost of the export?

All subjects are alive at once, each in a process of its own with one thread, and read the same
prompts in turns: the base in transformers (bf16) and in every engine (unquantized), the artifact in
`paredown.load` and in every engine. Times are processor time of the serving process, which other
processes of the machine hardly change; ratios are paired, with 95 % intervals. Then: how many
weights differ between file and artifact; mean KL on Python's documentation of the engine from the
artifact in float32, and of the uncompressed model in the engine from itself, which is what the
engine's arithmetic does; seconds and memory of the export. Beside the time of a token stands the
share of the memory bandwidth that its weights, read once, amount to; the bandwidth is that of a sum
over a large array, one thread, in the same turns.

    python benchmarks/runtimes.py --model demo
    python benchmarks/runtimes.py --model random-0.8b --strategy "rtn(bits=4, group_size=32)"
    python benchmarks/runtimes.py --artifact DIR --runtimes onnxruntime,openvino
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from common import Server, ratio, run_child, table
from engine_files import count_differing
from models import random_llama

BASE, LOADED = "base, transformers", "ours, paredown.load"


# --- A subject ------------------------------------------------------------------------------------


def serve(runtime: str, folder: str, prompt_tokens: int, tokens: int) -> None:
    """Child: open a folder in an engine; per request read a prompt and decode behind it."""
    import psutil
    import torch

    from paredown.evaluate.footprint import peak_rss
    from paredown.runtimes.packages import open_model
    from paredown.runtimes.registry import engine

    torch.set_num_threads(1)
    session = open_model(engine(runtime), Path(folder), device="cpu")
    process = psutil.Process(session.pid)

    def spent() -> float:
        times = process.cpu_times()
        return float(times.user + times.system)

    for number, _ in enumerate(sys.stdin):
        generator = torch.Generator().manual_seed(number)
        prompt = torch.randint(0, session.vocabulary, (1, prompt_tokens), generator=generator)
        start = spent()
        state = session.prefill(prompt)
        middle = spent()
        session.decode(state, tokens)
        answer = {
            "prefill_ms": (middle - start) * 1e3,
            "decode_ms": (spent() - middle) * 1e3 / tokens,
            "peak_bytes": peak_rss(session.pid),
            "weights_bytes": session.weights_bytes(),
        }
        print(json.dumps(answer), flush=True)
    session.close()


def export(runtime: str, folder: str, out: str) -> None:
    """Child: write a folder's files; the last line says what that took."""
    from paredown.runtimes.registry import engine

    runs_in = engine(runtime)
    import_module(EXPORTERS[runtime])  # what every export imports
    before = _peak_bytes()
    start = time.perf_counter()
    package = runs_in.export(Path(folder), Path(out))
    answer = {
        "seconds": time.perf_counter() - start,
        "processor_s": sum(os.times()[:4]),
        "nbytes": package.nbytes,
        "beyond_bytes": _peak_bytes() - before,
    }
    print(json.dumps(answer))


def _peak_bytes() -> int:
    """Of this process or of the largest that it started."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return max(resource.getrusage(kind).ru_maxrss for kind in kinds) * 1024


# --- What is compared -----------------------------------------------------------------------------


def measure_speed(base: Path, artifact: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds of every subject, in turns; ratios of each to ours in every engine."""
    words = str(options.prompt), str(options.tokens)
    script = Path(__file__)
    subjects = {BASE: ("transformers", base), LOADED: ("torch", artifact)}
    for runtime in options.runtimes:
        subjects |= {f"base, {runtime}": (runtime, base), f"ours, {runtime}": (runtime, artifact)}
    servers = {
        name: Server(script, "--serve", runtime, str(folder), *words)
        for name, (runtime, folder) in subjects.items()
    }
    kinds = ("prefill_ms", "decode_ms", "peak_bytes", "weights_bytes")
    found: dict[str, dict[str, list[float]]] = {name: {k: [] for k in kinds} for name in servers}
    bandwidths = []
    try:
        for repeat in range(options.repeats + 1):  # the first is a warm-up
            bandwidths += [bandwidth()] if repeat else []
            for name, server in servers.items():
                answer = server.ask("go")
                for key, values in found[name].items():
                    values += [answer[key]] if repeat else []
    finally:
        for server in servers.values():
            server.close()
    speed: dict[str, Any] = {
        name: {key: statistics.median(values) for key, values in told.items()}
        for name, told in found.items()
    }
    reached = statistics.median(bandwidths)
    for told in speed.values():
        told["share"] = told["weights_bytes"] / (told["decode_ms"] / 1e3) / reached
    speed["bandwidth / s"] = {"value": reached}
    for runtime in options.runtimes:
        ours = f"ours, {runtime}"
        for other in (BASE, LOADED, f"base, {runtime}"):
            for kind, key in (("decode", "decode_ms"), ("first token", "prefill_ms")):
                pair = found[other][key], found[ours][key]
                speed[f"{kind} of {other} / {ours}"] = asdict(ratio(*pair))
    return speed


def bandwidth() -> float:
    """Bytes per second of processor time at which one thread reads a large array."""
    import torch

    torch.set_num_threads(1)
    array = torch.ones(1 << 26)  # 256 MB: more than any cache
    array.sum()
    start = time.process_time()
    array.sum()
    return array.numel() * array.element_size() / (time.process_time() - start)


EXPORTERS = {
    "llama.cpp": "paredown.runtimes.llama_cpp.export",
    "onnxruntime": "paredown.runtimes.onnxruntime.export",
    "openvino": "paredown.runtimes.openvino.export",
}


def texts(folder: Path, count: int, length: int) -> Any:
    """(count, length) tokens of Python's documentation."""
    from pydoc_data.topics import topics

    import torch

    from paredown.text.windows import load_tokenizer

    ids = load_tokenizer(folder).encode("\n\n".join(topics[name] for name in sorted(topics)))
    return torch.tensor(ids[: count * length]).reshape(count, length)


def kl_in_engine(runtime: str, folder: Path, windows: Any) -> float:
    """Mean KL of a model in an engine from itself in torch, float32; nats per token."""
    import torch

    from paredown.ops.divergence import kl_rows
    from paredown.runtimes.packages import open_model
    from paredown.runtimes.registry import engine
    from paredown.runtimes.torch.load import load

    session = open_model(engine(runtime), folder, device="cpu")
    exact = load(folder, dtype=torch.float32)

    def means() -> Iterator[float]:
        for window, found in zip(windows, session.logprobs(windows), strict=True):
            with torch.no_grad():
                expected = exact(window[None]).logits[0, :-1].log_softmax(-1)
            yield float(kl_rows(expected, found).mean())

    mean = statistics.mean(means())
    session.close()
    return mean


def measure(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Make the artifact and export it, then compare."""
    from paredown import api
    from paredown.artifact.source import locate

    if options.model == "random-0.8b":
        shape = {"layers": 20, "width": 1792, "mlp": 4864, "vocabulary": 49152}
        base = random_llama(scratch / "base", **shape)
    else:
        base = locate(options.model)
    artifact = Path(options.artifact) if options.artifact else scratch / "artifact"
    if not options.artifact:
        api.compress(
            str(base), options.strategy, artifact, device="cpu", runtime=options.runtimes[0]
        )
    windows = texts(base, options.windows, 256)
    return {
        "model": options.model,
        "strategy": options.artifact or options.strategy,
        "repeats": options.repeats,
        "engines": {
            runtime: measure_files(runtime, base, artifact, windows, scratch)
            for runtime in options.runtimes
        },
        "speed": measure_speed(base, artifact, options),
    }


def measure_files(
    runtime: str, base: Path, artifact: Path, windows: Any, scratch: Path
) -> dict[str, Any]:
    """What an engine's files hold, what it makes of them, and what they cost."""
    from paredown.runtimes.packages import package_of
    from paredown.runtimes.registry import engine

    package_of(engine(runtime), base)  # so that the export below has nothing to prove but itself
    out = scratch / runtime
    exported = run_child([sys.executable, __file__, "--export", runtime, str(artifact), str(out)])
    differing, compared = count_differing(artifact, runtime, out)
    return {
        "differing": differing,
        "compared": compared,
        "kl_engine": kl_in_engine(runtime, artifact, windows),
        "kl_arithmetic": kl_in_engine(runtime, base, windows),
        "export": exported.result,
    }


def show(report: dict[str, Any], options: argparse.Namespace) -> None:
    """Print the report as tables."""
    speed = report["speed"]
    rows: list[tuple[str, ...]] = [
        (
            *("processor time, one thread", "decode ms", f"first token ms ({options.prompt})"),
            *("peak MB", "weights MB", "of bandwidth"),
        )
    ]
    for name, r in speed.items():
        if " / " not in name:
            memory = (f"{r[key] / 1e6:.0f}" for key in ("peak_bytes", "weights_bytes"))
            times = (f"{r['decode_ms']:.1f}", f"{r['prefill_ms']:.0f}")
            rows.append((name, *times, *memory, f"{100 * r['share']:.0f} %"))
    print(f"{report['model']}: {report['strategy']}, {report['repeats']} repeats in turns")
    print(table(rows))
    print(f"memory bandwidth of one thread: {speed['bandwidth / s']['value'] / 1e9:.1f} GB/s")
    for name, value in speed.items():
        if " / " in name and "low" in value:
            print(f"{name}: {value['value']:.2f} [{value['low']:.2f}, {value['high']:.2f}]")
    for runtime, found in report["engines"].items():
        made = found["export"]
        print(f"{runtime}: weights that differ: {found['differing']} of {found['compared']:,}")
        print(
            f"  KL of the engine from the artifact: {found['kl_engine']:.4f}; of its own "
            f"arithmetic (unquantized): {found['kl_arithmetic']:.5f} nats per token"
        )
        print(
            f"  export: {made['seconds']:.1f} s ({made['processor_s']:.1f} of the processor) for "
            f"{made['nbytes'] / 1e6:.0f} MB, {made['beyond_bytes'] / 1e6:.0f} MB of memory"
        )


def main() -> None:
    """Parent."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="demo", help="demo, random-0.8b, or a model folder")
    parser.add_argument("--runtimes", default="llama.cpp", help="engines, comma between them")
    parser.add_argument("--strategy", default="gptq(bits=4, group_size=32, embedding_bits=8)")
    parser.add_argument("--artifact", help="a folder that is there already, of the same model")
    parser.add_argument("--repeats", type=int, default=12, help="turns, at least 2")
    parser.add_argument("--prompt", type=int, default=128, help="tokens of a prompt")
    parser.add_argument("--tokens", type=int, default=64, help="decoded per turn")
    parser.add_argument("--windows", type=int, default=8, help="of 256 tokens, for KL")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument("--serve", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--export", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        runtime, folder, prompt, tokens = options.serve
        serve(runtime, folder, int(prompt), int(tokens))
        return
    if options.export:
        export(*options.export)
        return
    options.runtimes = options.runtimes.split(",")
    if unknown := [name for name in options.runtimes if name not in EXPORTERS]:
        parser.error(f"--runtimes: {unknown[0]} is none of {', '.join(EXPORTERS)}")
    if options.repeats < 2:
        parser.error("--repeats: an interval needs at least 2")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # the waiting process must not spin
    with tempfile.TemporaryDirectory() as scratch:
        report = measure(options, Path(scratch))
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        show(report, options)


if __name__ == "__main__":
    main()
