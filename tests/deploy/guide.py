"""Stands in for GuideLLM: reads its settings file and writes a report as version 0.8 does."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any


def main(words: list[str]) -> int:
    """`run -c FILE --disable-console`, badly where the model's name says so."""
    settings = json.loads(Path(words[words.index("-c") + 1]).read_text())
    spec = settings["spec"]
    model = spec["backend"]["model"]
    if model == "dies":
        sys.stderr.write("Traceback: it could not be done\n")
        return 3
    if model == "hangs":
        time.sleep(60)
    seen = {"argv": words, "settings": settings, "environment": dict(os.environ)}
    report = Path(spec["outputs"][0]["path"])
    seen["prompts"] = Path(spec["data"][0]["path"]).read_text().splitlines()
    Path(os.environ["SEEN"]).write_text(json.dumps(seen))
    benchmarks = [benchmark(k) for k in range(len(settings["benchmarks"]))]
    report.write_text(json.dumps({"benchmarks": benchmarks} if model != "changed" else {}))
    return 0


def benchmark(k: int) -> dict[str, Any]:
    """Two requests of ten tokens, answered in 1 and 2 seconds, and one that failed."""
    successful = [
        {
            "request_start_time": 100.0 + k, "request_end_time": 101.0 + k + i,
            "time_to_first_token_ms": 100.0, "prompt_tokens": 20, "output_tokens": 10,
            "cached_tokens": 5 * i,
        }
        for i in range(2)
    ]  # fmt: skip
    errored = [{"info": {"error": "Bearer sk-abcdefgh1234 refused"}}]
    return {"requests": {"successful": successful, "errored": errored}}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
