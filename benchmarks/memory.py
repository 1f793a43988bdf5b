"""Does the memory of compressing grow with the model? Three sizes of a random Llama.

Printed per size: bytes of the model, peak memory of the worker that compresses it, and that peak
less the peak for the smallest model. Compression works block by block, so twice the blocks must
not cost twice the memory.

    python benchmarks/memory.py --strategy "gptq(bits=4)"
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from common import run_child


def compress(folder: Path, strategy: str, scratch: Path) -> dict[str, object]:
    """Child: the compress job itself, in this process."""
    from paredown.evaluate.footprint import peak_rss
    from paredown.methods import registry
    from paredown.models.checkpoint import Checkpoint
    from paredown.pipeline.jobs import CompressJob, TextSpec, run

    before = peak_rss()
    job = CompressJob(
        device="cpu",
        model=folder,
        model_name="random",
        model_hash=str(folder),
        strategy=registry.canonical(strategy),
        out=scratch / "artifact",
        text=TextSpec(evaluation="pydoc", calibration=None, data_dir=None),
        samples=8,
        length=256,
        seed=0,
    )
    run(job, scratch)
    return {
        "peak": peak_rss(),
        "imports": before,
        "model": Checkpoint(folder).spec.weight_bytes,
    }


def main() -> None:
    """Parent."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--strategy", default="gptq(bits=4, search_steps=0)")
    parser.add_argument("--layers", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        folder, strategy, scratch = options.child
        print(json.dumps(compress(Path(folder), strategy, Path(scratch))))
        return
    from models import random_llama

    rows = []
    for layers in options.layers:
        with tempfile.TemporaryDirectory() as scratch:
            folder = random_llama(
                Path(scratch) / "model",
                layers=layers,
                width=options.width,
                mlp=options.width * 11 // 4,
                vocabulary=49152,
            )
            child = run_child(
                [sys.executable, __file__, "--child", str(folder), options.strategy, scratch],
                env={**os.environ, "PAREDOWN_HOME": f"{scratch}/home"},
            )
        rows.append({"layers": layers, "seconds": child.seconds, **child.result})
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    first = rows[0]
    print("layers  model MB  peak MB  more model MB  more peak MB  ratio")
    for row in rows:
        model, peak = row["model"] - first["model"], row["peak"] - first["peak"]
        share = f"{peak / model:.2f}" if model else "-"
        print(
            f"{row['layers']:6d}  {row['model'] / 1e6:8.0f}  {row['peak'] / 1e6:7.0f}  "
            f"{model / 1e6:13.0f}  {peak / 1e6:12.0f}  {share}"
        )


if __name__ == "__main__":
    main()
