"""Results of the first steps of a strategy, kept for other strategies that start alike.

`structured_afr > lora > gptq(bits=4)` and `structured_afr > lora > gptq(bits=3)` prune and train
once. What quantized weights is never kept: hardly anything can follow it.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paredown.methods import registry
from paredown.methods.base import Kind
from paredown.spec.reading import read_object
from paredown.spec.strategy import Strategy
from paredown.store.atomic import folder_bytes, write_json
from paredown.store.cache import Cache
from paredown.store.content import code

LARGEST = 0.2
"""Share of the cache that one copy may take: a model that fills it would push all else out."""
_KIND = "steps"
_CODE = 2
"""Of a step: goes up when the same step on the same model gives another."""
_MODEL, _COST = "model", "cost.json"
"""What an entry holds: the model's folder, and what it has cost."""


@dataclass(frozen=True)
class PrefixCache:
    """Model folders after the first n steps of one strategy.

    Attributes:
        cache: where they are kept, with everything else that is.
        strategy: canonical.
        origin: everything else the results depend on: model, calibration text, seed, device.
        inputs: content of what the parameters of each step only name.
    """

    cache: Cache
    strategy: Strategy
    origin: Any
    inputs: Sequence[Mapping[str, str]] = ()

    def _key(self, n_steps: int) -> dict[str, Any]:
        steps = [step.model_dump(mode="json") for step in self.strategy.steps[:n_steps]]
        inputs = list(self.inputs[:n_steps])
        return {**code(_CODE), "origin": self.origin, "steps": steps, "inputs": inputs}

    def longest(self) -> tuple[int, Path | None]:
        """The most steps whose result is there (the last is always done anew), and its folder."""
        for n_steps in range(len(self.strategy.steps) - 1, 0, -1):
            found = self.cache.get(_KIND, self._key(n_steps), "")
            if found is not None:
                return n_steps, found / _MODEL
        return 0, None

    def seconds(self, folder: Path) -> float:
        """What the steps behind a kept result took when they were run, all of them together."""
        told = read_object(folder.parent / _COST)["seconds"]
        return float(told)

    def keep(self, n_steps: int, folder: Path, *, seconds: float) -> Path:
        """Move the result of the first `n_steps` steps into the cache; returns where it is now.

        Args:
            seconds: that these steps have taken, or had taken where they were reused themselves.
        """
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".kept-") as scratch:
            entry = Path(scratch) / "entry"
            entry.mkdir()
            # In one entry, so that neither is ever there without the other.
            write_json(entry / _COST, {"seconds": seconds})
            folder.rename(entry / _MODEL)
            return self.cache.adopt(_KIND, self._key(n_steps), entry) / _MODEL

    def keep_copy(self, folder: Path, *, seconds: float) -> None:
        """Keep the result of all steps as well, where other steps may follow.

        A copy, because the artifact is the user's, who may change it.
        """
        n_steps = len(self.strategy.steps)
        last = registry.load(self.strategy.steps[-1].method)
        too_large = folder_bytes(folder) > LARGEST * self.cache.limit_bytes
        known = self.cache.path(_KIND, self._key(n_steps), "").exists()
        if last.kind is Kind.QUANTIZATION or too_large or known:
            return
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".copy-") as scratch:
            copy = Path(scratch) / "model"
            shutil.copytree(folder, copy)
            self.keep(n_steps, copy, seconds=seconds)
