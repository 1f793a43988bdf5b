"""Our GPTQ against llm-compressor's, in the same run: perplexity, wall time, peak memory.

Same model, the same 16 x 512 calibration tokens, 4 bits, groups of 64, symmetric; both artifacts
are judged by plain transformers on the same held-out windows. llm-compressor pins older libraries,
so it gets a virtual environment of its own, which this script sets up.

    python benchmarks/gptq.py --peer-venv /path/for/the/peer
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from common import run_child

PEER = ["llmcompressor==0.14.0.1", "transformers==5.17.0", "compressed-tensors==0.19.0"]
SAMPLES, LENGTH, HELD_OUT = 16, 512, 16

OURS = """
import json, sys
from pathlib import Path
import torch
from safetensors.torch import load_file
from paredown.methods.base import Context
from paredown.methods.gptq import Gptq, GptqParams
from paredown.models.checkpoint import Checkpoint
from paredown.store.cache import Cache
model, tokens, out, cache = sys.argv[1:5]
windows = load_file(tokens)["calibration"]
Path(out).mkdir()
Gptq().apply(Checkpoint(Path(model)), Path(out), GptqParams(bits=4, group_size=64), Context(
    device="cpu", seed=0, source_hash="benchmark", scratch=Path(out), cache=Cache(Path(cache)),
    calibration=lambda: windows, progress=lambda share, message: None))
print(json.dumps({}))
"""

THEIRS = """
import json, sys
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import GPTQModifier
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
model, tokens, out = sys.argv[1:4]
windows = load_file(tokens)["calibration"]
data = Dataset.from_dict({
    "input_ids": windows.tolist(), "attention_mask": torch.ones_like(windows).tolist()})
loaded = AutoModelForCausalLM.from_pretrained(model, dtype="auto")
scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(
    num_bits=4, type="int", symmetric=True, strategy="group", group_size=64))
oneshot(model=loaded, tokenizer=AutoTokenizer.from_pretrained(model), dataset=data,
    recipe=GPTQModifier(config_groups={"group_0": scheme}, ignore=["lm_head"]),
    pipeline="sequential", max_seq_length=windows.shape[1],
    num_calibration_samples=len(windows))
loaded.save_pretrained(out, save_compressed=True)
print(json.dumps({}))
"""

JUDGE = """
import json, math, sys
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
print(json.dumps({"perplexity": math.exp(total / len(windows))}))
"""


def write_tokens(path: Path, model: Path) -> None:
    """Calibration and held-out windows from the Python reference, disjoint."""
    from safetensors.torch import save_file

    from paredown.models.calibration import TextRequest, windows
    from paredown.store.cache import Cache

    def cut(part: str, count: int):
        return windows(
            TextRequest("pydoc", None, None), part, model, count=count, length=LENGTH,
            seed=0, cache=Cache.default(), model_hash="",
        )  # fmt: skip

    save_file(
        {"calibration": cut("calibration", SAMPLES), "held_out": cut("evaluation", HELD_OUT)}, path
    )


def peer_python(venv: Path) -> str:
    """The peer's interpreter, its environment made the first time."""
    python = venv / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        subprocess.run([*pip, os.environ.get("TORCH", "torch==2.13.0+cpu")], check=True)
        subprocess.run([*pip, *PEER], check=True)
    return str(python)


def main() -> None:
    """Run both, judge both, print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-venv", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    from paredown.models.source import locate

    model = locate("demo")
    peer = peer_python(options.peer_venv)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        tokens = scratch / "tokens.safetensors"
        write_tokens(tokens, model)
        base = run_child([sys.executable, "-c", JUDGE, str(model), str(tokens)]).result
        for repeat in range(options.repeats):
            row = {}
            for who, python, script in (("ours", sys.executable, OURS), ("peer", peer, THEIRS)):
                out = scratch / f"{who}{repeat}"
                words = [str(model), str(tokens), str(out), str(scratch / f"cache{repeat}")]
                built = run_child([python, "-c", script, *words])
                judged = run_child([sys.executable, "-c", JUDGE, str(out), str(tokens)])
                row[who] = {
                    "seconds": built.seconds, "peak_bytes": built.peak_bytes, **judged.result,
                }  # fmt: skip
            rows.append(row)
    if options.json:
        print(json.dumps({"base": base, "rows": rows}, indent=2))
        return
    print(f"base perplexity {base['perplexity']:.3f}")
    for row in rows:
        for who in ("ours", "peer"):
            r = row[who]
            print(
                f"{who:5} perplexity {r['perplexity']:.3f}  {r['seconds']:6.1f} s  "
                f"peak {r['peak_bytes'] / 1e6:.0f} MB"
            )
        ratios = (
            f"{k} {row['ours'][k] / row['peer'][k]:.3f}"
            for k in ("perplexity", "seconds", "peak_bytes")
        )
        print("ours / peer:", ", ".join(ratios))


if __name__ == "__main__":
    main()
