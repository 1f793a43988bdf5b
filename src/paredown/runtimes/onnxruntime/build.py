"""The builder of GenAI, run apart: `python -m paredown.runtimes.onnxruntime.build FOLDER OUT FUSE`.

It draws the graph of a model and leaves behind what it needs memory for when it ends.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from onnxruntime_genai.models.builder import create_model, parse_extra_options

_PRECISION, _PROVIDER = "int4", "cpu"


def main(folder: str, out: str, fuse: str) -> None:
    """Draw the graph of a folder; `fuse` is whether q, k and v become one product."""
    cache = str(Path(out) / "cache")
    told = [
        f"fuse_qkv={fuse}",
        # Shared codes are seen to where the numbers are put in.
        "shared_embeddings=false",
        # Caches of the width of a window cannot be cut back, and so not measured.
        "windowed_kv_cache=false",
    ]
    options = parse_extra_options("", folder, out, _PRECISION, _PROVIDER, cache, told)
    _flatten_rope(options["hf_details"]["hf_config"])
    create_model("", folder, out, _PRECISION, _PROVIDER, cache, **options)


def _flatten_rope(config: Any) -> None:
    """Gemma 3 has numbers of its rotary positions per kind of layer; the builder reads two."""
    kinds = getattr(config, "rope_parameters", None) or {}
    if "full_attention" in kinds:
        config.rope_local_base_freq = kinds["sliding_attention"]["rope_theta"]
        config.rope_theta = kinds["full_attention"]["rope_theta"]
        config.rope_parameters = dict(kinds["full_attention"])


if __name__ == "__main__":
    main(*sys.argv[1:])
