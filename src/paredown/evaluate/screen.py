"""A first look at a candidate, on few tokens: is it worth measuring at all?"""

from __future__ import annotations

import math

from torch import Tensor

from paredown.evaluate.quality import BaseOutputs, measure_quality
from paredown.runtimes.session import Session

WINDOWS, LENGTH = 8, 256
"""The beginnings of the first windows: about 2000 tokens."""
FEWEST = 4
"""Windows below which their spread says too little."""
SURE = 4.0
"""Standard errors of the logarithm by which a loss has to be beyond the limit."""


def why_screened(
    session: Session, tokens: Tensor, base: BaseOutputs, *, worst: float, protocol: str
) -> str | None:
    """Why nothing else is to be measured: a perplexity surely more than `worst` times the base's.

    None where it is not, or where there are too few windows to tell.

    Paired with the base token by token, so that few tokens tell: what is ruined shows at once, and
    what is in doubt is measured in full.

    Args:
        tokens: (count, length) evaluation windows that `base` was computed on.

    Raises:
        DivergedError: logits that are not finite.
    """
    few = tokens[:WINDOWS, :LENGTH]
    if len(few) < FEWEST:
        return None
    found = measure_quality(session, few, base, protocol=protocol)
    ratio = next(m for m in found if m.name == "perplexity_ratio")
    if ratio.stderr is None:
        raise AssertionError("several windows have a standard error")
    least = ratio.value * math.exp(-SURE * ratio.stderr / ratio.value)
    if least <= worst:
        return None
    return (
        f"perplexity {ratio.value:.3g} times the base's on the first {few.numel()} tokens, "
        f"surely beyond {worst:g} times (evaluate.screen): nothing else was measured"
    )
