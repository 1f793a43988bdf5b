"""Moving factors between the parts of a block while it is rewritten; see `spec.folds`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from paredown.artifact.checkpoint import Checkpoint
from paredown.ops.smoothing import divide_gain, pool
from paredown.spec.folds import Fold
from paredown.spec.structure import Block


@dataclass(frozen=True)
class Folding:
    """One fold of a block at work, with what its maker allows.

    Attributes:
        gain: the norm's weight as stored; None where the maker is a linear layer.
        rows: (inp,) the linear maker's row behind each input feature; None for a norm.
    """

    fold: Fold
    gain: Tensor | None
    rows: Tensor | None

    def tie(self, values: Tensor, how: str) -> Tensor:
        """`values` (inp,), pooled over features that must share a factor (`amax` or `mean`)."""
        if self.rows is None:
            return values
        return pool(values, self.rows, int(self.rows.max()) + 1, how)[self.rows]

    def realize(self, factors: Tensor) -> Tensor:
        """The factors (inp,) that the maker can take exactly, near those asked for."""
        if self.gain is None:
            return factors
        return divide_gain(self.gain, factors, offset=self.fold.gain_offset or 0.0)[1]


Choose = Callable[[Folding, list[Tensor]], Tensor]
"""(a fold, its readers' weights (out, inp) float32) -> factors (inp,) that it can realize."""


@torch.no_grad()
def smooth_block(
    source: Checkpoint,
    block: Block,
    module: nn.Module,
    folds: Iterable[Fold],
    weights: dict[str, Tensor],
    choose: Choose,
) -> dict[str, Tensor]:
    """Apply every fold: to `weights` in place, and to the norms and biases of `module`.

    Args:
        weights: the block's linear weights in float32, by layer name; replaced by scaled ones.
        choose: decides the factors of a fold, from weights that earlier folds have changed.

    Returns:
        The other tensors that changed, by full name, as they have to be stored.
    """
    changed: dict[str, Tensor] = {}
    for fold in folds:
        folding = _folding(source, fold, weights)
        factors = choose(folding, [weights[name] for name in fold.readers])
        for name in fold.readers:
            weights[name] = weights[name] * factors
        maker: Any = module.get_submodule(fold.maker.removeprefix(block.prefix + "."))
        if folding.gain is not None:
            offset = fold.gain_offset or 0.0
            # What is stored is the gain that amounts to just these factors.
            gain = ((folding.gain.float() + offset) / factors - offset).to(folding.gain.dtype)
            changed[f"{fold.maker}.weight"] = gain
            maker.weight.data = gain.to(maker.weight.dtype)
        elif folding.rows is not None:
            # 1 for a row that no reader takes.
            by_row = factors.new_ones(len(weights[fold.maker])).index_put((folding.rows,), factors)
            weights[fold.maker] = weights[fold.maker] / by_row[:, None]
            bias = f"{fold.maker}.bias"
            if bias in source.spec.by_name:
                stored = source.read(bias)
                # The maker's whole output is divided, its bias with it.
                divided = (stored.to(by_row.device).float() / by_row).to(stored.dtype)
                changed[bias] = divided
                maker.bias.data = divided.to(maker.bias.dtype)
    return changed


def _folding(source: Checkpoint, fold: Fold, weights: dict[str, Tensor]) -> Folding:
    reader = weights[fold.readers[0]]
    if fold.gain_offset is not None:
        gain = source.read(f"{fold.maker}.weight").to(reader.device)
        return Folding(fold, gain, None)
    return Folding(fold, None, torch.tensor(fold.rows(reader.shape[1]), device=reader.device))
