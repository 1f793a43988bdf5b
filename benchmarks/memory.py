"""Does memory grow with the model? Three depths of a random Llama, one width.

The compress job of each strategy runs in a process of its own on each size, and so does `judge`,
which measures perplexity without loading the model. Both work block by block, so their peak should
be: what is always there (Python, torch), embedding and head, one block in float32, and the
activations of the text; not the model. Printed per size are those parts and the measured peak; and
at the end by how much the peak grew per byte that the model grew.

    python benchmarks/memory.py
    python benchmarks/memory.py --layers 8 16 32 --width 2048
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import run_child, table

JUDGE = "judge"
STRATEGIES = ("rtn(bits=4, search_steps=0)", "gptq(bits=4, search_steps=0)", JUDGE)
FLOAT32_BYTES = 4


def compress(
    folder: Path, strategy: str, scratch: Path, samples: int, length: int
) -> dict[str, Any]:
    """Child: the compress job itself, in this process."""
    import torch
    import transformers  # noqa: F401

    from paredown.artifact.checkpoint import Checkpoint
    from paredown.evaluate.footprint import peak_rss
    from paredown.methods import registry
    from paredown.pipeline.messages import CompressJob, TextSpec
    from paredown.pipeline.work.compress import compress

    imports = peak_rss()
    spec = Checkpoint(folder).spec
    job = CompressJob(
        device="cpu",
        model=folder,
        model_name="random",
        model_hash=str(folder),
        strategy=registry.canonical(strategy),
        out=scratch / "artifact",
        text=TextSpec(evaluation="pydoc", calibration=None, data_dir=None),
        samples=samples,
        length=length,
        seed=0,
    )
    compress(job, scratch, lambda share, message: None)
    needs_data = any(method.needs_data for method, _ in registry.resolve(job.strategy))
    return {
        **_parts(folder),
        "peak_bytes": peak_rss(),
        "imports_bytes": imports,
        "activation_bytes": FLOAT32_BYTES * samples * length * (spec.hidden_size or 0)
        if needs_data
        else 0,
        "threads": torch.get_num_threads(),
    }


def judge(folder: Path, samples: int, length: int) -> dict[str, Any]:
    """Child: perplexity, block by block from disk, in this process."""
    import torch

    from paredown.artifact.checkpoint import Checkpoint
    from paredown.evaluate.footprint import peak_rss
    from paredown.evaluate.quality import measure_quality
    from paredown.runtimes.torch.streamed import StreamedSession

    imports = peak_rss()
    spec = Checkpoint(folder).spec
    tokens = torch.randint(0, spec.vocabulary or 2, (samples, length))
    measure_quality(StreamedSession(folder), tokens, None, protocol="random tokens")
    return {
        **_parts(folder),
        "peak_bytes": peak_rss(),
        "imports_bytes": imports,
        "activation_bytes": FLOAT32_BYTES * samples * length * (spec.hidden_size or 0),
        "threads": torch.get_num_threads(),
    }


def _parts(folder: Path) -> dict[str, Any]:
    from paredown.artifact.checkpoint import Checkpoint

    spec = Checkpoint(folder).spec
    block = spec.structure.blocks[0].prefix + "."
    inside = tuple(f"{b.prefix}." for b in spec.structure.blocks)
    return {
        "model_bytes": spec.weight_bytes,
        "outside_bytes": sum(t.nbytes for t in spec.tensors if not t.name.startswith(inside)),
        "block_bytes": FLOAT32_BYTES
        * sum(t.numel for t in spec.tensors if t.name.startswith(block)),
    }


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every strategy on every size, each in a fresh process with an empty cache."""
    from models import random_llama

    rows = []
    for layers in options.layers:
        with tempfile.TemporaryDirectory() as name:
            scratch = Path(name)
            folder = random_llama(
                scratch / "model",
                layers=layers,
                width=options.width,
                mlp=options.width * 11 // 4,
                vocabulary=49152,
            )
            for i, strategy in enumerate(options.strategy):
                work = scratch / f"{i}"
                work.mkdir()
                words = [folder, strategy, work, options.samples, options.length]
                child = run_child(
                    [sys.executable, __file__, "--child", *map(str, words)],
                    env={**os.environ, "PAREDOWN_HOME": str(work / "home")},
                )
                rows.append(
                    {
                        "strategy": strategy,
                        "layers": layers,
                        "seconds": child.seconds,
                        **child.result,
                    }
                )
    return rows


def growth(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Per strategy: bytes of peak memory gained per byte that the model gained."""
    found = {}
    for strategy in dict.fromkeys(row["strategy"] for row in rows):
        mine = sorted((r for r in rows if r["strategy"] == strategy), key=lambda r: r["layers"])
        model = mine[-1]["model_bytes"] - mine[0]["model_bytes"]
        if model > 0:
            found[strategy] = (mine[-1]["peak_bytes"] - mine[0]["peak_bytes"]) / model
    return found


def show(rows: list[dict[str, Any]]) -> None:
    """Print the sizes and peaks in MB, and the growth."""
    columns = ("model", "imports", "outside", "block", "activation", "peak")
    lines: list[tuple[str, ...]] = [("strategy", "layers", *(f"{c} MB" for c in columns), "s")]
    for row in rows:
        sizes = (f"{row[f'{c}_bytes'] / 1e6:.0f}" for c in columns)
        lines.append((row["strategy"], str(row["layers"]), *sizes, f"{row['seconds']:.0f}"))
    print(table(lines))
    print("outside: embedding, head, last norm. block: one block in float32. activation: hidden")
    print("states of the calibration windows in float32.")
    for strategy, share in growth(rows).items():
        print(f"{strategy}: the peak grew by {share:.2f} bytes per byte that the model grew")


def main() -> None:
    """Parent."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--strategy", nargs="+", default=list(STRATEGIES))
    parser.add_argument("--layers", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--width", type=int, default=1024, help="hidden size, a multiple of 256")
    parser.add_argument("--samples", type=int, default=8, help="calibration windows")
    parser.add_argument("--length", type=int, default=256, help="tokens per window")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        folder, strategy, scratch, samples, length = options.child
        sizes = int(samples), int(length)
        done = (
            judge(Path(folder), *sizes)
            if strategy == JUDGE
            else compress(Path(folder), strategy, Path(scratch), *sizes)
        )
        print(json.dumps(done))
        return
    rows = measure(options)
    if options.json:
        print(json.dumps({"rows": rows, "growth": growth(rows)}, indent=2))
    else:
        show(rows)


if __name__ == "__main__":
    main()
