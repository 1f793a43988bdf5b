"""Are predictions of memory and speed right on this machine?

The machine is calibrated (`paredown match --calibrate`), then every model is served in a fresh
process: it loads, reads prompts, decodes behind them. Printed are predicted and measured peak
memory and decode time, the errors, and what is asked of them: memory within 10 % in the median and
within 25 % everywhere, decode within a factor of 1.5.

    OMP_NUM_THREADS=1 python benchmarks/sizing.py
    OMP_NUM_THREADS=1 python benchmarks/sizing.py --model /folders/of/gemma --runtime llama.cpp
    OMP_NUM_THREADS=1 python benchmarks/sizing.py --keep rows.json    # goes on where it was killed

What was measured is kept, what is predicted is predicted anew. With one thread, seconds are those
of the engine's process, so that others on the machine do not count.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common import run_child, table

STRATEGY = "rtn(bits=4, group_size=32, search_steps=0)"
"""What is served packed: size and speed do not depend on how codes were chosen. Groups of 32 are
what every engine here holds."""
RUNTIMES = ("torch", "transformers", "llama.cpp", "onnxruntime", "openvino")
MEDIAN, WORST, FACTOR = 0.10, 0.25, 1.5
DECODED = 12


@dataclass(frozen=True)
class Case:
    """One model in one engine, and what is asked of it."""

    name: str
    folder: str
    runtime: str
    batch: int
    prompt: int

    @property
    def context(self) -> int:
        """Tokens of a sequence at the end."""
        return self.prompt + DECODED


SHAPES: dict[str, dict[str, Any]] = {
    "grouped, tied": {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 8,
                      "num_attention_heads": 16, "num_key_value_heads": 4, "vocab_size": 49152},
    "every head, untied": {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12,
                           "num_attention_heads": 12, "num_key_value_heads": 12,
                           "vocab_size": 32000, "tie_word_embeddings": False},
    "large vocabulary": {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 6,
                         "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 151936},
    "wide": {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 6,
             "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32000},
}  # fmt: skip
"""Random Llamas."""
LOADS = {"grouped, tied": ((1, 64), (4, 64), (1, 1024)), "every head, untied": ((1, 64), (4, 256)),
         "large vocabulary": ((1, 128), (2, 256)), "wide": ((1, 64),)}  # fmt: skip
"""Batch and prompt."""


def serve(case: Case) -> dict[str, Any]:
    """Child: load, read, decode; the faster of two decodings behind one prompt."""
    import torch

    from paredown.evaluate.footprint import peak_rss
    from paredown.runtimes.packages import open_model
    from paredown.runtimes.registry import engine

    session = open_model(engine(case.runtime), Path(case.folder), device="cpu")
    now, own = _clock(session), session.pid == os.getpid()
    generator = torch.Generator().manual_seed(0)
    size = (case.batch, case.prompt)
    # Ordinary tokens alone: of a padded vocabulary the last have no text.
    prompts = torch.randint(1, min(session.vocabulary, 100), size, generator=generator)
    start = now()
    state = session.prefill(prompts)
    read, times = now() - start, []
    peak = peak_rss() if own else 0
    for _ in range(2):
        # A copy of the state would count as the model's memory where it lies in this process.
        start = now()
        session.decode(session.fork(state) if not own else state, DECODED)
        times.append((now() - start) / DECODED)
        if own:
            peak = max(peak, peak_rss())
            state = session.prefill(prompts)
    if not own:
        peak = _peak_of(session.pid)
    session.close()
    return {"peak_bytes": peak, "prefill_s": read, "decode_s": min(times)}


def _clock(session: Any) -> Any:
    """Seconds of the engine's process with one thread, else of the clock."""
    import torch

    from paredown.hardware.clock import cpu_s

    if torch.get_num_threads() > 1:
        return time.perf_counter
    if session.pid == os.getpid():
        return time.process_time
    return lambda: cpu_s(session.pid)


def _peak_of(pid: int) -> int:
    """Largest resident memory of another process, bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("VmHWM:"))
    return 1024 * int(line.split()[1])


def random_model(folder: Path, shape: dict[str, Any]) -> Path:
    """Write a random bf16 Llama, with a tokenizer that every engine has."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    from paredown.text.ascii import write_byte_tokenizer

    config = LlamaConfig(**{"tie_word_embeddings": True, "max_position_embeddings": 4096, **shape})
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    write_byte_tokenizer(folder)
    return folder


def cases(options: argparse.Namespace, scratch: Path) -> Iterator[Case]:
    """Every model in every engine; artifacts in 4 bits where weights stay packed."""
    from paredown import api
    from paredown.artifact.source import locate

    folders: dict[str, tuple[Path, tuple[tuple[int, int], ...]]] = {
        name: (locate(name), ((1, 64), (4, 128))) for name in options.model
    }
    for name in options.shape:
        folders[name] = (random_model(scratch / name, SHAPES[name]), LOADS[name])
    for name, (folder, loads) in folders.items():
        called = Path(name).name or name
        for runtime in options.runtime:
            for batch, prompt in loads:
                yield Case(called, str(folder), runtime, batch, prompt)
        served = [runtime for runtime in options.runtime if runtime != "transformers"]
        if name in options.packed and served:
            packed = scratch / f"{called}-4"
            api.compress(str(folder), STRATEGY, packed, device="cpu")
            for runtime in served:
                for batch, prompt in loads:
                    yield Case(f"{called}, 4 bits", str(packed), runtime, batch, prompt)


def predict(case: Case) -> dict[str, Any]:
    """What `paredown match` says of it."""
    from paredown.coordinate.versions import stored_version
    from paredown.hardware.detect import detect
    from paredown.hardware.engines import habits
    from paredown.hardware.here import on_processor
    from paredown.hardware.memory import Work
    from paredown.runtimes.calibration import kept
    from paredown.spec.infer import infer_spec

    machine = detect()
    known = kept(machine, case.runtime)
    if known is None:
        raise SystemExit("the calibration was not kept")
    here = on_processor(
        stored_version(infer_spec(Path(case.folder))),
        Work(batch=case.batch, context=case.context, prompt=case.prompt),
        habits(case.runtime),
        machine.available_bytes,
        rates=known.rates,
        process_bytes=known.process_bytes,
    )
    if here.memory.total is None or here.tpot_s is None or here.ttft_s is None:
        raise SystemExit(f"{case.name}: {here.memory.unknown}")
    parts = {
        n: getattr(here.memory, n).value for n in ("weights", "cache", "activations", "logits")
    }
    return {
        "peak_bytes": here.memory.total.value, "prefill_s": here.ttft_s.value,
        "decode_s": here.tpot_s.value, "parts": parts,
    }  # fmt: skip


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Predicted and measured, a row per case."""
    from paredown.hardware.detect import detect
    from paredown.runtimes.calibration import calibrate, kept

    for runtime in options.runtime:
        if options.calibrate or kept(detect(), runtime) is None:
            calibrate(detect(), runtime)
    rows = []
    seen = json.loads(options.keep.read_text()) if options.keep and options.keep.exists() else {}
    with tempfile.TemporaryDirectory() as name:
        for case in cases(options, Path(name)):
            key = f"{case.name}, {case.runtime}, {case.batch}x{case.prompt}"
            if key not in seen:
                command = [sys.executable, __file__, "--child", json.dumps(asdict(case))]
                seen[key] = run_child(command).result
                if options.keep:
                    options.keep.write_text(json.dumps(seen, indent=2))
            rows.append({"case": asdict(case), "predicted": predict(case), "measured": seen[key]})
            print(_line(rows[-1]), file=sys.stderr, flush=True)
    return rows


def _line(row: dict[str, Any]) -> str:
    case, said, seen = row["case"], row["predicted"], row["measured"]
    return f"{case['name']} {case['runtime']} {case['batch']}x{case['prompt']}: " + ", ".join(
        f"{key} {said[key]:.4g} against {seen[key]:.4g} ({said[key] / seen[key] - 1:+.0%})"
        for key in ("peak_bytes", "decode_s", "prefill_s")
    )


def verdict(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Errors of memory and factors of speed, and whether they are within what is asked."""

    def ratios(key: str) -> list[float]:
        return [row["predicted"][key] / row["measured"][key] for row in rows]

    memory = [abs(ratio - 1) for ratio in ratios("peak_bytes")]
    speed = [max(ratio, 1 / ratio) for ratio in ratios("decode_s")]
    prefill = [max(ratio, 1 / ratio) for ratio in ratios("prefill_s")]
    return {
        "memory_median_error": statistics.median(memory),
        "memory_worst_error": max(memory),
        "decode_median_factor": statistics.median(speed),
        "decode_worst_factor": max(speed),
        "prefill_median_factor": statistics.median(prefill),
        "prefill_worst_factor": max(prefill),
        "holds": statistics.median(memory) <= MEDIAN and max(memory) <= WORST
        and max(speed) <= FACTOR,
    }  # fmt: skip


def show(rows: list[dict[str, Any]], found: dict[str, Any]) -> None:
    """Print the table and the verdict."""
    lines: list[tuple[str, ...]] = [
        ("model", "runtime", "load", "peak MB", "predicted", "error", "ms/token", "predicted",
         "factor", "prompt ms", "predicted")
    ]  # fmt: skip
    for row in rows:
        case, said, seen = row["case"], row["predicted"], row["measured"]
        lines.append((
            case["name"], case["runtime"], f"{case['batch']}x{case['prompt']}",
            f"{seen['peak_bytes'] / 1e6:.0f}", f"{said['peak_bytes'] / 1e6:.0f}",
            f"{said['peak_bytes'] / seen['peak_bytes'] - 1:+.0%}",
            f"{1e3 * seen['decode_s']:.1f}", f"{1e3 * said['decode_s']:.1f}",
            f"{said['decode_s'] / seen['decode_s']:.2f}",
            f"{1e3 * seen['prefill_s']:.0f}", f"{1e3 * said['prefill_s']:.0f}",
        ))  # fmt: skip
    print(table(lines))
    print(
        f"memory: median error {found['memory_median_error']:.1%}, worst "
        f"{found['memory_worst_error']:.1%}; decode: median factor "
        f"{found['decode_median_factor']:.2f}, worst {found['decode_worst_factor']:.2f}; prompts: "
        f"median factor {found['prefill_median_factor']:.2f}, worst "
        f"{found['prefill_worst_factor']:.2f}; "
        + ("within" if found["holds"] else "NOT within")
        + f" {MEDIAN:.0%} in the median, {WORST:.0%} everywhere, and a factor of {FACTOR}"
    )


def main() -> None:
    """Parent; ends with 1 where a prediction does not hold."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", nargs="*", default=["demo"], help="names or folders")
    parser.add_argument("--shape", nargs="*", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--packed", nargs="*", default=["demo"], help="of them, also in 4 bits")
    parser.add_argument("--runtime", nargs="+", default=list(RUNTIMES), choices=RUNTIMES)
    parser.add_argument("--calibrate", action="store_true", help="also where it was done before")
    parser.add_argument("--keep", type=Path, help="file of what was measured, read and written")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(serve(Case(**json.loads(options.child)))))
        return
    rows = measure(options)
    found = verdict(rows)
    if options.json:
        print(json.dumps({"rows": rows, "verdict": found}, indent=2))
    else:
        show(rows, found)
    sys.exit(0 if found["holds"] else 1)


if __name__ == "__main__":
    main()
