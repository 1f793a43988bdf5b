"""What several workers bring, and what they cost.

    python benchmarks/workers.py                    # all three parts
    python benchmarks/workers.py --part compress    # two workers against one, each single-threaded
    python benchmarks/workers.py --part node        # a Ray node killed in the middle of a run
    python benchmarks/workers.py --part policy      # 64 workers on recorded trials; the driver

`compress` also says what an executor adds to the same jobs done in one process. `node` starts two
Ray nodes on this machine and ends them (needs `paredown[ray]`). `policy` replays recorded trials,
by their recorded prices, so that 64 workers need one processor.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common import fresh_home, ratio, run_child, table

REPOSITORY = Path(__file__).resolve().parents[1]
PARTS = ("compress", "node", "policy")


# --- compress: run in a process of its own, with an empty cache -----------------------------------


def compress_jobs(model: str, count: int, scratch: Path) -> list[Any]:
    """Jobs of about the same length that have nothing to share in the cache."""
    from paredown.artifact.decoded import base_folder
    from paredown.coordinate.setup import open_base
    from paredown.methods import registry
    from paredown.pipeline.messages import CompressJob, TextSpec
    from paredown.spec.infer import infer_spec

    folder = base_folder(model, lambda share, message: None)
    base = open_base(model, folder, infer_spec(folder, name=model))
    return [
        CompressJob(
            device="cpu", model=folder, model_name=model, model_hash=base.hash,
            strategy=registry.canonical("rtn(bits=4, group_size=32, search_steps=60)"),
            out=scratch / f"{number}" / "artifact",
            text=TextSpec(evaluation="pydoc", calibration=None, data_dir=None),
            samples=4, length=64, seed=number,
        )
        for number in range(count)
    ]  # fmt: skip


def compress_child(model: str, jobs: int, repeats: int) -> dict[str, list[float]]:
    """Seconds of all jobs with two workers, with one, and in this process, in turns."""
    import torch

    from paredown.pipeline.executors.local import LocalExecutor
    from paredown.pipeline.messages import Failed
    from paredown.pipeline.work import perform

    torch.set_num_threads(1)
    found: dict[str, list[float]] = {"two": [], "one": [], "alone": []}

    def through(workers: int, scratch: Path) -> float:
        with LocalExecutor(workers=workers) as executor, ThreadPoolExecutor(workers) as crew:
            executor.ready()
            todo = compress_jobs(model, jobs, scratch)
            start = time.perf_counter()

            def work(job: Any) -> None:
                ended = executor.submit(job, job.out.parent, timeout_s=3600).result()
                if isinstance(ended.reply, Failed):
                    raise SystemExit(ended.reply.failure.message)

            list(crew.map(work, todo))
            return time.perf_counter() - start

    for _ in range(repeats):
        for how in found:
            with tempfile.TemporaryDirectory() as folder:
                scratch = Path(folder)
                if how != "alone":
                    found[how].append(through(2 if how == "two" else 1, scratch))
                    continue
                todo = compress_jobs(model, jobs, scratch)
                start = time.perf_counter()
                for job in todo:
                    job.out.parent.mkdir(parents=True)
                    perform(job, job.out.parent, lambda share, message: None)
                found[how].append(time.perf_counter() - start)
    return found


def show_compress(options: argparse.Namespace) -> None:
    """Print the ratios."""
    command = [sys.executable, __file__, "--child", "--model", options.model]
    command += ["--jobs", str(options.jobs), "--repeats", str(options.repeats)]
    with tempfile.TemporaryDirectory() as folder:
        env = fresh_home(Path(folder) / "home") | {"OMP_NUM_THREADS": "1"}
        found = run_child(command, env=env | {"PAREDOWN_LOCKS": f"{folder}/locks"}).result
    one, two, alone = found["one"], found["two"], found["alone"]
    print(f"compress: {options.jobs} jobs on {options.model}, {options.repeats} repeats in turns")
    print(
        table(
            [
                ("", "ratio [95 %]", "goal"),
                ("two workers, times as fast as one", str(ratio(one, two)), ">= 1.7"),
                ("one worker over no executor", str(ratio(one, alone)), "<= 1.03"),
            ]
        )
    )


# --- node -----------------------------------------------------------------------------------------


@contextmanager
def two_nodes() -> Iterator[Any]:
    """A cluster of two nodes of this machine."""
    sys.path.insert(0, str(REPOSITORY))
    from tests.ray_cluster import local_cluster

    with local_cluster({"OMP_NUM_THREADS": "1"}) as cluster:
        cluster.start_head()
        cluster.start_node("127.0.0.3")
        yield cluster


def show_node(options: argparse.Namespace) -> None:
    """Run on two nodes, kill one, and compare with one worker here."""
    import threading

    with two_nodes() as cluster, tempfile.TemporaryDirectory() as folder:
        import paredown
        from paredown.judge.front import find_front

        os.environ["OMP_NUM_THREADS"] = "1"
        settings: dict[str, Any] = {
            "model": options.model, "data": "pydoc", "episodes": options.episodes,
            "policy": "grid", "methods": ("rtn", "l2_structured"), "skills": False,
            "output_dir": folder, "objectives": ("quality", "size"), "patience": None,
        }  # fmt: skip
        if options.small:
            settings["evaluate"] = {
                "tokens": 512, "window": 128, "decode_tokens": 4, "repeats": 2, "repeat_s": 0.2,
                "energy_s": 0,
            }  # fmt: skip
            settings["calibration"] = {"samples": 4, "length": 128}
        done = 0
        lost_at: list[float] = []
        start = time.monotonic()

        def kill() -> None:
            """Once a trial is under way on the second node, and some are done."""
            while not lost_at:
                time.sleep(0.05)
                for path in Path(folder, "ray").glob("episode_*/attempts.json"):
                    try:
                        hosts = [a["host"] for a in json.loads(path.read_text())["attempts"]]
                    except (OSError, ValueError):
                        continue
                    if done >= options.episodes // 3 and "127.0.0.3" in hosts[-1]:
                        cluster.kill_node("127.0.0.3")
                        lost_at.append(time.monotonic() - start)
                        return

        def listen(event: str, fields: dict[str, Any]) -> None:
            nonlocal done
            done += event == "result"

        threading.Thread(target=kill, daemon=True).start()
        there = paredown.optimize(
            **settings, workers=2, executor="ray", address=cluster.address, listen=listen,
            experiment_name="ray",
        )  # fmt: skip
        here = paredown.optimize(**settings, experiment_name="one")
    moved = [note for r in there.record.results for note in r.notes if "was lost" in note]
    fronts = [
        {r.label for r in front.record.results if r.episode in found.episodes}
        for front in (there, here)
        for found in [find_front(front.record.results, ("quality", "size"))]
    ]
    worst = max(
        (abs((a.value("perplexity") or 0) / (b.value("perplexity") or 1) - 1)
         for a in there.record.results for b in here.record.results
         if a.strategy == b.strategy and a.status == b.status == "ok"), default=float("nan"),
    )  # fmt: skip
    print(f"node: {options.episodes} episodes on {options.model}, a node killed after "
          f"{lost_at[0] if lost_at else float('nan'):.0f} s")  # fmt: skip
    print(
        table(
            [
                ("", "two nodes, one killed", "one worker"),
                ("results", *(str(len(f.record.results)) for f in (there, here))),
                (
                    "failed",
                    *(str(sum(r.status != "ok" for r in f.record.results)) for f in (there, here)),
                ),
                ("moved to the other node", str(len(moved)), ""),
                ("on the front", *(str(len(f)) for f in fronts)),
            ]
        )
    )
    same = "the same" if fronts[0] == fronts[1] else f"NOT the same: {fronts}"
    print(f"fronts are {same}; perplexities differ by at most {worst:.2%}")


# --- all ------------------------------------------------------------------------------------------


def main() -> None:
    """Parent."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=PARTS, action="append", help="only this one")
    parser.add_argument("--model", default="demo", help="demo, or a model folder")
    parser.add_argument("--jobs", type=int, default=6, help="of the part compress")
    parser.add_argument("--repeats", type=int, default=5, help="of the part compress")
    parser.add_argument("--episodes", type=int, default=9, help="of the part node")
    parser.add_argument("--small", action="store_true", help="little text, few repeats")
    parser.add_argument("--seeds", type=int, default=10, help="of the part policy")
    parser.add_argument("--history", type=int, default=10_000, help="trials behind the driver")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(compress_child(options.model, options.jobs, options.repeats)))
        return
    for part in options.part or PARTS:
        if part == "compress":
            show_compress(options)
        elif part == "node":
            show_node(options)
        else:
            from workers_policy import show_policy

            show_policy(seeds=options.seeds, history=options.history)
        print()


if __name__ == "__main__":
    main()
