"""Whether an engine with files of its own answers as the artifact does in torch."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from paredown.blocks.hessians import tensor_hash
from paredown.errors import VerificationError
from paredown.ops.divergence import kl_rows
from paredown.runtimes.base import Engine
from paredown.runtimes.packages import open_model
from paredown.runtimes.torch.load import load
from paredown.runtimes.torch.proof import probe
from paredown.store.cache import Cache
from paredown.store.content import code, model_hash

_CODE = 1
"""Of `arithmetic_kl`: goes up when the same model and engine would give another number."""


def engine_kl(
    engine: Engine, folder: Path, expected: Tensor, tokens: Tensor, *, slack: float = 0.0
) -> float:
    """Mean KL, nats per token, of a model in an engine from the logits that it should give.

    Args:
        expected: (tokens, vocabulary) float32 logits of the model computed in torch.
        tokens: (1, tokens), as they were computed on.
        slack: KL that the computation in torch explains, where it was rounded as well.

    Raises:
        VerificationError: more than the engine's arithmetic explains: it holds another model.
    """
    session = open_model(engine, folder, device="cpu")
    try:
        (found,) = session.logprobs(tokens)
    finally:
        session.close()
    # A session tells nothing behind the last token.
    mean = float(kl_rows(expected[:-1].log_softmax(-1), found).mean())
    bound = engine.kl_bound + slack
    if not mean <= bound:  # NaN included
        raise VerificationError(
            f"opened in {engine.name}, the model is not the one that was compressed: KL {mean:.3g} "
            f"nats per token, where its arithmetic explains at most {bound:g}"
        )
    return mean


def arithmetic_kl(
    engine: Engine, base: Path, tokens: Tensor, *, dtype: torch.dtype | None, slack: float = 0.0
) -> float:
    """What the engine's own arithmetic does: `engine_kl` of the uncompressed model.

    Worked out once for every model. Arguments and errors as of `engine_kl`.

    Args:
        dtype: in which torch computes it; None: that of the weights.
    """
    key = {
        **code(_CODE), "engine": engine.name, "export": engine.export_code,
        "model": model_hash(base), "tokens": tensor_hash(tokens),
        "dtype": str(dtype),
    }  # fmt: skip

    def work_out(path: Path) -> None:
        exact = probe(load(base, dtype=dtype), tokens)
        path.write_text(json.dumps(engine_kl(engine, base, exact, tokens, slack=slack)))

    kept = Cache.default().get_or_put("arithmetic", key, ".json", work_out)
    return float(json.loads(kept.read_text()))
