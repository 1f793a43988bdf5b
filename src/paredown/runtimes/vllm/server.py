"""vLLM's own OpenAI-compatible server on a folder, run by a Python that has vLLM.

`server FOLDER --host H --port P --max-num-seqs N ...`; what is not named here is vLLM's to read.
The key that it asks for comes from the environment: arguments of a process are public.
"""

from __future__ import annotations

import argparse
import os
import sys

from paredown.runtimes.vllm.settings import set_variables


def main() -> None:
    """Become the server."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--threads", type=int)
    ours, theirs = parser.parse_known_args()
    set_variables(ours.threads)
    # A server's engine is a process of its own again: it answers while it computes.
    os.environ.pop("VLLM_ENABLE_V1_MULTIPROCESSING", None)
    if key := os.environ.get("PAREDOWN_API_KEY"):
        os.environ["VLLM_API_KEY"] = key
    words = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", ours.folder]
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        words += ["--enforce-eager"]
    os.execv(sys.executable, [*words, *theirs])


if __name__ == "__main__":
    main()
