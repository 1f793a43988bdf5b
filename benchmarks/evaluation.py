"""Our adapter against lm-eval's own `hf` model: the same items, the same scores, less time.

    python benchmarks/evaluation.py --data-dir DATA [--model demo] [--items 200]

Both compute in float32, in one process with the same threads and batches of the same number of
tokens. They take turns, a handful of items each, so that whatever slows the machine slows both.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import ratio
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from paredown.artifact.source import locate
from paredown.evaluate.harness import HarnessModel
from paredown.evaluate.items import Responses, draw
from paredown.evaluate.task_data import task_files
from paredown.runtimes.torch.load import load
from paredown.runtimes.torch.session import TorchSession
from paredown.spec.benchmarks import BENCHMARKS
from paredown.text.windows import load_tokenizer

_CHUNK = 5
"""Items per turn."""
_BATCH = 8
"""Sequences per batch of lm-eval's model; ours gets as many tokens."""


def main() -> None:
    """Print the comparison, and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--task", default="hellaswag", choices=sorted(BENCHMARKS))
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--data-dir", type=Path, required=True)
    args = parser.parse_args()
    folder = locate(args.model)
    with tempfile.TemporaryDirectory() as scratch:
        requests = build_requests(args.task, args.data_dir, args.items, Path(scratch))
        found = compare(folder, requests, Path(scratch))
    print(json.dumps({"task": args.task, "items": args.items, **found}))


def build_requests(name: str, data: Path, items: int, scratch: Path) -> list[list[Any]]:
    """lm-eval's requests, item by item."""
    (file,) = task_files(BENCHMARKS[name], data)
    (scratch / "task.yaml").write_text(file.yaml())
    manager = TaskManager(include_path=str(scratch), include_defaults=False)
    task = manager.load([file.task])["tasks"][file.task]
    task.set_config(key="num_fewshot", value=0)
    rows = draw({"all": len(task.eval_docs)}, items, seed=1234)["all"]
    task.build_all_requests(samples=rows)
    grouped: dict[int, list[Any]] = {}
    for request in task.instances:
        grouped.setdefault(request.doc_id, []).append(request)
    return list(grouped.values())


def compare(folder: Path, items: list[list[Any]], scratch: Path) -> dict[str, Any]:
    """Both models on all items in turns; times, and the largest difference of a score."""
    theirs = HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=_BATCH)
    tokenizer = load_tokenizer(folder)
    lengths = [len(tokenizer.encode("".join(r.args))) for item in items for r in item]
    session = TorchSession(
        load(folder, dtype=torch.float32),
        folder=folder,
        batch_tokens=round(_BATCH * sum(lengths) / len(lengths)),
    )
    ours = HarnessModel(
        lambda: session, tokenizer, Responses(scratch / "responses.jsonl"), lambda share, text: None
    )
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    cpu: dict[str, list[float]] = {"ours": [], "theirs": []}
    scores: dict[str, list[tuple[float, bool]]] = {"ours": [], "theirs": []}
    for start in range(0, len(items), _CHUNK):
        chunk = [request for item in items[start : start + _CHUNK] for request in item]
        turns: list[tuple[str, Callable[..., Any]]] = [
            ("ours", ours.loglikelihood),
            ("theirs", lambda requests: theirs.loglikelihood(requests, disable_tqdm=True)),
        ]
        for name, answer in turns if start // _CHUNK % 2 == 0 else reversed(turns):
            wall, used = time.perf_counter(), time.process_time()
            scores[name] += answer(chunk)
            seconds[name].append(time.perf_counter() - wall)
            cpu[name].append(time.process_time() - used)
        print(
            f"{min(start + _CHUNK, len(items))} of {len(items)} items: ours "
            f"{sum(seconds['ours']):.1f} s, lm-eval's {sum(seconds['theirs']):.1f} s",
            flush=True,
        )
    return summary(scores, seconds, cpu)


def summary(
    scores: dict[str, list[tuple[float, bool]]],
    seconds: dict[str, list[float]],
    cpu: dict[str, list[float]],
) -> dict[str, Any]:
    """The verdict, printed and returned."""
    worst = max(abs(a - b) for (a, _), (b, _) in zip(scores["ours"], scores["theirs"], strict=True))
    greedy = sum(a[1] != b[1] for a, b in zip(scores["ours"], scores["theirs"], strict=True))
    wall = ratio(seconds["ours"], seconds["theirs"])
    print(f"time, ours over lm-eval's, turn by turn: {wall}; of the processor: {_ratio(cpu):.3f}")
    print(
        f"largest difference of a log-likelihood: {worst:.2e}; greedy flags that differ: {greedy}"
    )
    return {
        "seconds": {name: round(sum(values), 2) for name, values in seconds.items()},
        "cpu_seconds": {name: round(sum(values), 2) for name, values in cpu.items()},
        "time_ratio": round(_ratio(seconds), 4),
        "cpu_ratio": round(_ratio(cpu), 4),
        "max_difference": worst,
        "greedy_differ": greedy,
        "threads": torch.get_num_threads(),
    }


def _ratio(values: dict[str, list[float]]) -> float:
    return sum(values["ours"]) / sum(values["theirs"])


if __name__ == "__main__":
    main()
