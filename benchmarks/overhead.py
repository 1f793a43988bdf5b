"""How much of a run is spent outside compressing and evaluating?

python benchmarks/overhead.py
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time


def main() -> None:
    """Run six episodes and compare wall time with the time inside the workers' jobs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--episodes", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    start = time.monotonic()
    import paredown

    with tempfile.TemporaryDirectory() as folder:
        front = paredown.optimize(
            options.model,
            data="pydoc",
            episodes=options.episodes,
            policy="grid",
            methods=("rtn", "gptq", "l2_structured"),
            evaluate={"tokens": options.tokens},
            experiment_name="overhead",
            output_dir=folder,
        )
        wall = time.monotonic() - start
        results = front.record.results
        inside = sum(r.compress_s + r.evaluate_s for r in results)
    report = {
        "wall_s": wall,
        "inside_s": inside,
        "overhead_share": 1 - inside / wall,
        "episodes": len(results) - 1,
    }
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        print(
            f"{wall:.1f} s in all, {inside:.1f} s compressing and evaluating: "
            f"{report['overhead_share']:.1%} overhead over {report['episodes']} episodes"
        )


if __name__ == "__main__":
    main()
