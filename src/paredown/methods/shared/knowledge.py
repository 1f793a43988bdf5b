"""What strategies did to models that were measured before: rows shipped with the package.

Made by `benchmarks/methods.py --knowledge`. They are effects on other models, so they decide what
is worth trying, never what is recommended.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import final

FILE = "knowledge.json"


@final
@dataclass(frozen=True, kw_only=True)
class Known:
    """One strategy on one model.

    Attributes:
        model: on which it was measured.
        strategy: as it was written, for instance `gptq(bits=4)`.
        quality: perplexity over the base's.
        kl: divergence from the base's next-token probabilities, nats per token.
        family, parameters: of the model; 0: not told.
    """

    model: str
    strategy: str
    quality: float
    kl: float
    family: str = "unknown"
    parameters: int = 0


@cache
def known() -> tuple[Known, ...]:
    """All rows, in the order of the file."""
    text = files("paredown.methods.shared").joinpath(FILE).read_text(encoding="utf-8")
    return tuple(
        Known(
            model=model["model"],
            strategy=row["strategy"],
            quality=row["quality"],
            kl=row["kl"],
            family=model["family"],
            parameters=model["parameters"],
        )
        for model in json.loads(text)["models"]
        for row in model["rows"]
    )
