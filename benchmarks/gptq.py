"""Our GPTQ against the solver of our first release, and against llm-compressor's.

The solver alone comes first: see `gptq_solver.py`. Where an environment for llm-compressor is
given, perplexity, wall time and peak memory of the whole method follow, in the same run.

There both get the same model, the same calibration windows of token ids, 4 bits, groups of 64,
symmetric, and otherwise their own defaults; both start with no results from earlier runs, in a
process of their own, without a GPU. Both artifacts are judged by plain transformers on the same
held-out windows. llm-compressor pins older libraries, so it gets a virtual environment of its own,
which this script sets up the first time.

    python benchmarks/gptq.py [--peer-venv DIR]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from common import Ratio, ratio, run_child, table
from gptq_solver import SHAPES, measure_solver, show_solver

PEER = (
    "llmcompressor==0.14.0.1",
    "transformers==5.17.0",
    "compressed-tensors==0.19.0",
    "accelerate==1.15.0",
    "datasets==5.2.0",
)
READY = ".paredown-benchmark-ready"
METRICS = ("perplexity", "seconds", "work_seconds", "peak_bytes")

OURS = """
import json, sys, time
from pathlib import Path
from safetensors.torch import load_file
import paredown.blocks.hessians, paredown.blocks.rewrite  # else imported while the clock runs
from paredown.methods.base import Context
from paredown.methods.gptq import Gptq, GptqParams
from paredown.artifact.checkpoint import Checkpoint
from paredown.store.cache import Cache
model, tokens, out, scratch = sys.argv[1:5]
windows = load_file(tokens)["calibration"]
Path(out).mkdir()
Path(scratch, "work").mkdir(parents=True)
start = time.perf_counter()
Gptq().apply(Checkpoint(Path(model)), Path(out), GptqParams(bits=4, group_size=64), Context(
    device="cpu", seed=0, source_hash="benchmark", scratch=Path(scratch, "work"),
    cache=Cache(Path(scratch, "cache")), calibration=lambda: windows,
    progress=lambda share, message: None))
print(json.dumps({"work_seconds": time.perf_counter() - start}))
"""

THEIRS = """
import json, sys, time
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import GPTQModifier
model, tokens, out, scratch = sys.argv[1:5]
windows = load_file(tokens)["calibration"]
data = Dataset.from_dict({
    "input_ids": windows.tolist(), "attention_mask": torch.ones_like(windows).tolist()})
scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(
    num_bits=4, type="int", symmetric=True, strategy="group", group_size=64))
start = time.perf_counter()
loaded = AutoModelForCausalLM.from_pretrained(model, dtype="auto")
oneshot(model=loaded, tokenizer=AutoTokenizer.from_pretrained(model), dataset=data,
    recipe=GPTQModifier(config_groups={"group_0": scheme}, ignore=["lm_head"]),
    pipeline="sequential", max_seq_length=windows.shape[1],
    num_calibration_samples=len(windows), shuffle_calibration_samples=False)
loaded.save_pretrained(out, save_compressed=True)
print()
print(json.dumps({"work_seconds": time.perf_counter() - start}))
"""

JUDGE = """
import json, math, sys
from pathlib import Path
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
folder, tokens = sys.argv[1:3]
windows = load_file(tokens)["held_out"]
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
total = 0.0
with torch.no_grad():
    for window in windows:
        logits = model(window[None], use_cache=False).logits[0, :-1].float()
        total += torch.nn.functional.cross_entropy(logits, window[1:]).item()
size = sum(f.stat().st_size for f in Path(folder).glob("*.safetensors"))
print(json.dumps({"perplexity": math.exp(total / len(windows)), "size_bytes": size}))
"""


def write_tokens(
    path: Path,
    model: Path,
    *,
    samples: int,
    length: int,
    held_out: int,
    text: str = "pydoc",
    data_dir: Path | None = None,
) -> None:
    """Calibration and held-out windows of a text, disjoint by document."""
    from safetensors.torch import save_file

    from paredown.runtimes.torch.writer import write_texts
    from paredown.store.cache import Cache
    from paredown.text.texts import Part
    from paredown.text.windows import TextRequest, windows

    counts: dict[Part, int] = {"calibration": samples, "evaluation": held_out}
    names = {"calibration": "calibration", "evaluation": "held_out"}
    tensors = {
        names[part]: windows(
            TextRequest(text, None, data_dir),
            part,
            model,
            count=count,
            length=length,
            seed=0,
            cache=Cache.default(),
            write=write_texts,
        )
        for part, count in counts.items()
    }
    save_file(tensors, path)


def peer_python(venv: Path, torch: str) -> Path:
    """The peer's interpreter; its environment is made the first time, or again if that failed."""
    python = venv.resolve() / "bin" / "python"
    wanted = "\n".join((torch, *PEER)) + "\n"
    ready = venv / READY
    if ready.exists() and ready.read_text() == wanted:
        return python
    print(f"setting up llm-compressor in {venv} (minutes)", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    subprocess.run([*pip, torch], check=True)
    subprocess.run([*pip, torch, *PEER], check=True)  # torch again: nothing may replace it
    ready.write_text(wanted)
    return python


def measure(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Run both, in turns, and judge both."""
    from paredown.artifact.source import locate

    model = locate(options.model)
    pythons = {"ours": sys.executable, "peer": str(peer_python(options.peer_venv, options.torch))}
    scripts = {"ours": OURS, "peer": THEIRS}
    tokens = scratch / "tokens.safetensors"
    write_tokens(
        tokens, model, samples=options.samples, length=options.length, held_out=options.held_out
    )
    # Neither may use a GPU or the hub; paredown's home is empty, so nothing is computed already.
    # They run in the scratch folder, because llm-compressor may write logs where it is started.
    env = {
        **os.environ,
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "PAREDOWN_HOME": str(scratch / "home"),
    }
    env.pop("PYTHONPATH", None)

    def judge(folder: Path) -> dict[str, Any]:
        return run_child([sys.executable, "-c", JUDGE, str(folder), str(tokens)], env=env).result

    report: dict[str, Any] = {"base": judge(model), "ours": [], "peer": []}
    for repeat in range(options.repeats):
        for who, script in scripts.items():
            out, work = scratch / f"{who}{repeat}", scratch / f"{who}{repeat}-work"
            words = [str(model), str(tokens), str(out), str(work)]
            built = run_child([pythons[who], "-c", script, *words], env=env, cwd=scratch)
            report[who].append(
                {
                    "seconds": built.seconds,
                    "peak_bytes": built.peak_bytes,
                    **built.result,
                    **judge(out),
                }
            )
    report["ratios"] = {name: asdict(found) for name, found in ratios(report).items()}
    return report


def ratios(report: dict[str, Any]) -> dict[str, Ratio]:
    """ours / peer per metric; below 1 is better in all of them."""
    return {
        metric: ratio([r[metric] for r in report["ours"]], [r[metric] for r in report["peer"]])
        for metric in METRICS
    }


def show(report: dict[str, Any]) -> None:
    """Print medians and ratios."""
    rows: list[tuple[str, ...]] = [("", "perplexity", "wall s", "without imports s", "peak MB")]
    rows.append(("base", f"{report['base']['perplexity']:.3f}", "", "", ""))
    for who in ("ours", "peer"):
        values = [statistics.median(r[metric] for r in report[who]) for metric in METRICS]
        perplexity, wall, work, peak = values
        rows.append((who, f"{perplexity:.3f}", f"{wall:.1f}", f"{work:.1f}", f"{peak / 1e6:.0f}"))
    rows.append(("ours / peer", *(str(found) for found in ratios(report).values())))
    print(table(rows))


def main() -> None:
    """Read options, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer-venv", type=Path, help="folder; made if missing")
    parser.add_argument("--shapes", default=SHAPES, help="of the solver's matrices, out x inp")
    parser.add_argument("--solver-repeats", type=int, default=5, help="of both solvers, in turns")
    parser.add_argument(
        "--torch",
        default=f"torch=={version('torch')}",
        help="what the peer's environment installs as torch [default: the same as here]",
    )
    parser.add_argument("--model", default="demo", help="demo, or a model folder")
    parser.add_argument("--samples", type=int, default=16, help="calibration windows")
    parser.add_argument("--length", type=int, default=512, help="tokens per window")
    parser.add_argument("--held-out", type=int, default=16, help="windows to judge on")
    parser.add_argument("--repeats", type=int, default=1, help="2 or more give intervals")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    options = parser.parse_args()
    report: dict[str, Any] = {"solver": measure_solver(options.shapes, options.solver_repeats)}
    if not options.json:
        show_solver(report["solver"])
    if options.peer_venv is not None:
        with tempfile.TemporaryDirectory() as scratch:
            report |= measure(options, Path(scratch))
        if not options.json:
            show(report)
    if options.json:
        print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
