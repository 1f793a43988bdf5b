"""First-order scores of single weights, kept in files because they are as large as the model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from paredown.artifact.checkpoint import Checkpoint
from paredown.blocks.gradient_scores import weight_products
from paredown.blocks.gradients import Loss
from paredown.errors import NumericsError
from paredown.ops.affine import require_finite
from paredown.spec.progress import Progress


class WeightScores:
    """|w dL/dw| of single weights, for one loss, or standardised and summed over several.

    A score is the sum over the losses L of |w dL/dw| / std_L, with the standard deviation over
    all weights asked for. That is the sum of z-scores but for one number that all weights share,
    so it ranks alike, and it stays non-negative.
    """

    def __init__(
        self,
        source: Checkpoint,
        names: Sequence[str],
        tokens: Tensor,
        losses: Sequence[Loss],
        *,
        device: str,
        scratch: Path,
        progress: Progress,
        trust_remote_code: bool = False,
    ) -> None:
        """Measure on `tokens` (samples, length); files of 4 bytes per weight and loss go to
        `scratch`.

        Raises:
            NumericsError: a weight or gradient is not finite, or all gradients are zero.
        """
        self.folder = scratch / "weights"
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in names:  # singular values of NaN are an error of the library, not of the model
            require_finite(source.read(f"{name}.weight"), name)
        sums = {loss: torch.zeros(3, dtype=torch.float64) for loss in losses}
        for name, found in weight_products(
            source,
            tokens,
            losses,
            device=device,
            scratch=scratch,
            names=names,
            trust_remote_code=trust_remote_code,
            progress=progress,
        ):
            for loss, values in found.items():
                sums[loss] += _sums(values)
            stored = {str(loss): values.cpu().contiguous() for loss, values in found.items()}
            save_file(stored, self._file(name))
        self.deviations: dict[Loss, float] = {}
        for loss, (n, total, squares) in ((k, v.tolist()) for k, v in sums.items()):
            self.deviations[loss] = math.sqrt(max(squares / n - (total / n) ** 2, 0.0))
            if self.deviations[loss] == 0.0:
                raise NumericsError(f"the gradients of the {loss} loss do not tell weights apart")

    def of(self, name: str) -> Tensor:
        """Scores (out, inp) of one layer, float32 >= 0, on the CPU."""
        found = load_file(self._file(name))
        parts = [found[loss] / deviation for loss, deviation in self.deviations.items()]
        return torch.stack(parts).sum(0)

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"


def _sums(values: Tensor) -> Tensor:
    """(3,) float64: of ones, of values, and of their squares."""
    wide = values.double()  # a variance as the difference of two sums cancels in float32
    found = [values.numel(), float(wide.sum()), float(wide.square().sum())]
    return torch.tensor(found, dtype=torch.float64)
