"""How much of a run is spent outside compressing and evaluating?

Runs a few episodes in a process of its own, with an empty cache, and compares the wall time (from
`import paredown` to the written report) with the time inside compress (verification included) and
evaluate, the baseline's included.

    python benchmarks/overhead.py
    python benchmarks/overhead.py --small        # less text: shorter, and a higher share
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import fresh_home, run_child, table


def child(model: str, episodes: int, small: bool, folder: str) -> dict[str, Any]:
    """Run the episodes in this process; the jobs run in workers, as always."""
    start = time.monotonic()
    import paredown

    settings: dict[str, Any] = {}
    if small:
        settings = {
            "calibration": {"samples": 4, "length": 256},
            "evaluate": {"tokens": 1024, "window": 256, "decode_tokens": 8, "repeats": 2},
        }
    front = paredown.optimize(
        model,
        data="pydoc",
        episodes=episodes,
        policy="grid",
        methods=("rtn", "gptq", "l2_structured"),
        experiment_name="overhead",
        skills=False,
        output_dir=folder,
        **settings,
    )
    wall = time.monotonic() - start
    results = front.record.results
    return {
        "wall_s": wall,
        "compress_s": sum(r.compress_s for r in results),
        "evaluate_s": sum(r.evaluate_s for r in results),
        "episodes": len(front.record.trials),
        "failed": sum(r.status == "failed" for r in results),
    }


def main() -> None:
    """Parent."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="demo", help="demo, a hub name, or a model folder")
    parser.add_argument("--episodes", type=int, default=6, help="after the baseline")
    parser.add_argument("--small", action="store_true", help="little text, few repeats")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--child", metavar="FOLDER", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(child(options.model, options.episodes, options.small, options.child)))
        return
    command = [sys.executable, __file__, "--model", options.model]
    command += ["--episodes", str(options.episodes), *(["--small"] if options.small else [])]
    with tempfile.TemporaryDirectory() as scratch:
        env = fresh_home(Path(scratch) / "home")
        report = run_child([*command, "--child", f"{scratch}/experiments"], env=env).result
    inside = report["compress_s"] + report["evaluate_s"]
    report |= {"inside_s": inside, "overhead_share": 1 - inside / report["wall_s"]}
    if options.json:
        print(json.dumps(report, indent=2))
        return
    print(
        table(
            [
                ("episodes", "failed", "wall s", "compress s", "evaluate s", "overhead"),
                (
                    str(report["episodes"]),
                    str(report["failed"]),
                    f"{report['wall_s']:.1f}",
                    f"{report['compress_s']:.1f}",
                    f"{report['evaluate_s']:.1f}",
                    f"{report['overhead_share']:.1%}",
                ),
            ]
        )
    )


if __name__ == "__main__":
    main()
