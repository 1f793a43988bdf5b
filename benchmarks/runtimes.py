"""What do engines with files of their own bring: exact numbers, speed, memory, cost of the export?

All subjects are alive at once, each in a process of its own with one thread, and read the same
prompts in turns: the base in transformers (bf16) and in llama.cpp (16 bits), the artifact in
`paredown.load` and in llama.cpp. Times are processor time of the serving process, which other
processes of the machine hardly change; ratios are paired, with 95 % intervals. Then: how many
weights differ between file and artifact; mean KL on Python's documentation of the engine from the
artifact in float32, and of the uncompressed model in the engine from itself, which is what the
engine's arithmetic does; seconds and memory of the export.

    python benchmarks/runtimes.py --model demo
    python benchmarks/runtimes.py --artifact DIR
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
from pathlib import Path
from typing import Any

from common import Server, ratio, run_child, table

RUNTIME = "llama.cpp"
BASE, BASE_HERE, LOADED, OURS = (
    "base, transformers", f"base, {RUNTIME}", "ours, paredown.load", f"ours, {RUNTIME}",
)  # fmt: skip


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
        }
        print(json.dumps(answer), flush=True)
    session.close()


def export(folder: str, out: str) -> None:
    """Child: write a folder's file; the last line says what that took."""
    from paredown.runtimes.registry import engine

    runs_in = engine(RUNTIME)
    from paredown.runtimes.llama_cpp import export as loaded  # what every export imports

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    start = time.perf_counter()
    package = runs_in.export(Path(folder), Path(out))
    print(
        json.dumps(
            {
                "seconds": time.perf_counter() - start,
                "nbytes": package.nbytes,
                "beyond_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before,
                "module": loaded.__name__,
            }
        )
    )


# --- What is compared -----------------------------------------------------------------------------


def measure_speed(base: Path, artifact: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds of every subject, in turns."""
    words = str(options.prompt), str(options.tokens)
    script = Path(__file__)
    servers = {
        name: Server(script, "--serve", runtime, str(folder), *words)
        for name, runtime, folder in (
            (BASE, "transformers", base),
            (BASE_HERE, RUNTIME, base),
            (LOADED, "torch", artifact),
            (OURS, RUNTIME, artifact),
        )
    }
    found: dict[str, dict[str, list[float]]] = {
        name: {"prefill_ms": [], "decode_ms": [], "peak_bytes": []} for name in servers
    }
    try:
        for repeat in range(options.repeats + 1):  # the first is a warm-up
            for name, server in servers.items():
                answer = server.ask("go")
                for key, values in found[name].items():
                    values += [answer[key]] if repeat else []
    finally:
        for server in servers.values():
            server.close()
    speed: dict[str, Any] = {
        name: {key: statistics.median(values) for key, values in kinds.items()}
        for name, kinds in found.items()
    }
    for other in (BASE, LOADED, BASE_HERE):
        speed[f"decode of {other} / {OURS}"] = asdict(
            ratio(found[other]["decode_ms"], found[OURS]["decode_ms"])
        )
        speed[f"first token of {other} / {OURS}"] = asdict(
            ratio(found[other]["prefill_ms"], found[OURS]["prefill_ms"])
        )
    return speed


def count_differing(artifact: Path, file: Path) -> tuple[int, int]:
    """(weights that differ, weights compared) of all packed layers, float32 against float32.

    Read by gguf's own code, in the order of rows that transformers has.
    """
    import numpy as np
    import torch
    from gguf import GGUFReader
    from gguf.quants import dequantize as read_blocks

    from paredown.artifact.checkpoint import Checkpoint
    from paredown.artifact.compressed_tensors import read_packed, read_schemes
    from paredown.blocks.skeleton import read_config
    from paredown.ops.affine import dequantize
    from paredown.runtimes.llama_cpp.architectures import ARCHITECTURES
    from paredown.runtimes.llama_cpp.export import tensor_names

    checkpoint = Checkpoint(artifact)
    config = read_config(artifact).get_text_config()
    architecture = ARCHITECTURES[checkpoint.spec.model_type]
    names = tensor_names(architecture, config)
    tensors = {tensor.name: tensor for tensor in GGUFReader(file).tensors}
    differing = compared = 0
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, scheme in read_schemes(checkpoint).items():
        tensor = tensors[f"{names.get_name(name)}.weight"]
        found = torch.from_numpy(np.array(read_blocks(tensor.data, tensor.tensor_type)))
        leaf = name.rpartition(".")[2]
        if architecture.interleaves and leaf in heads:
            rows = found.reshape(heads[leaf], -1, 2, found.shape[1])
            found = torch.cat((rows[:, :, 0], rows[:, :, 1]), 1).reshape(found.shape)
        expected = dequantize(*read_packed(checkpoint, name, scheme), torch.float32)
        differing += int((found != expected).sum())
        compared += expected.numel()
    return differing, compared


def texts(folder: Path, count: int, length: int) -> Any:
    """(count, length) tokens of Python's documentation."""
    from pydoc_data.topics import topics

    import torch

    from paredown.text.windows import load_tokenizer

    ids = load_tokenizer(folder).encode("\n\n".join(topics[name] for name in sorted(topics)))
    return torch.tensor(ids[: count * length]).reshape(count, length)


def kl_in_engine(folder: Path, windows: Any) -> float:
    """Mean KL of a model in the engine from itself in torch, float32; nats per token."""
    import torch

    from paredown.ops.divergence import kl_rows
    from paredown.runtimes.packages import open_model
    from paredown.runtimes.registry import engine
    from paredown.runtimes.torch.load import load

    session = open_model(engine(RUNTIME), folder, device="cpu")
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
    from paredown.runtimes.packages import package_of
    from paredown.runtimes.registry import engine

    base = locate(options.model)
    artifact = Path(options.artifact) if options.artifact else scratch / "artifact"
    if not options.artifact:
        api.compress(str(base), options.strategy, artifact, device="cpu", runtime=RUNTIME)
    package_of(engine(RUNTIME), base)  # so that the export below has nothing to prove but itself
    command = [sys.executable, __file__, "--export", str(artifact), str(scratch / "out")]
    exported = run_child(command).result
    differing, compared = count_differing(artifact, scratch / "out" / "model.gguf")
    windows = texts(base, options.windows, 256)
    return {
        "model": options.model,
        "strategy": options.artifact or options.strategy,
        "repeats": options.repeats,
        "speed": measure_speed(base, artifact, options),
        "differing": differing,
        "compared": compared,
        "kl_engine": kl_in_engine(artifact, windows),
        "kl_arithmetic": kl_in_engine(base, windows),
        "export": exported,
    }


def show(report: dict[str, Any], options: argparse.Namespace) -> None:
    """Print the report as tables."""
    speed = report["speed"]
    rows: list[tuple[str, ...]] = [
        ("processor time, one thread", "decode ms", f"first token ms ({options.prompt})", "peak MB")
    ]
    for name in (BASE, BASE_HERE, LOADED, OURS):
        r = speed[name]
        cells = f"{r['decode_ms']:.1f}", f"{r['prefill_ms']:.0f}", f"{r['peak_bytes'] / 1e6:.0f}"
        rows.append((name, *cells))
    print(f"{report['model']}: {report['strategy']}, {report['repeats']} repeats in turns")
    print(table(rows))
    for name, value in speed.items():
        if " / " in name:
            print(f"{name}: {value['value']:.2f} [{value['low']:.2f}, {value['high']:.2f}]")
    print(f"weights that differ: {report['differing']} of {report['compared']:,}")
    print(
        f"KL of the engine from the artifact: {report['kl_engine']:.4f}; of its own arithmetic "
        f"(16 bits): {report['kl_arithmetic']:.5f} nats per token"
    )
    made = report["export"]
    print(
        f"export: {made['seconds']:.1f} s for {made['nbytes'] / 1e6:.0f} MB "
        f"({made['seconds'] / (made['nbytes'] / 1e9):.0f} s per GB), "
        f"{made['beyond_bytes'] / 1e6:.0f} MB of memory"
    )


def main() -> None:
    """Parent."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="demo", help="demo, or a model folder")
    parser.add_argument("--strategy", default="gptq(bits=4, group_size=32, embedding_bits=8)")
    parser.add_argument("--artifact", help="a folder that is there already, of the same model")
    parser.add_argument("--repeats", type=int, default=12, help="turns, at least 2")
    parser.add_argument("--prompt", type=int, default=128, help="tokens of a prompt")
    parser.add_argument("--tokens", type=int, default=64, help="decoded per turn")
    parser.add_argument("--windows", type=int, default=8, help="of 256 tokens, for KL")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument("--serve", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--export", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        runtime, folder, prompt, tokens = options.serve
        serve(runtime, folder, int(prompt), int(tokens))
        return
    if options.export:
        export(*options.export)
        return
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
