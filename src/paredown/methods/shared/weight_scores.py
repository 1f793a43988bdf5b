"""What the methods that score single weights by gradients have in common."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from paredown.methods.base import Context
from paredown.methods.shared.masks import MaskMethod, ScopedMaskParams, remover, write_masked
from paredown.methods.shared.samples import SampledParams, check_gradients, first_windows
from paredown.spec.model import ModelSpec
from paredown.spec.structure import matrix_shape, select_linears
from paredown.spec.target import Target

if TYPE_CHECKING:
    from torch import Tensor, nn

    from paredown.artifact.checkpoint import Checkpoint
    from paredown.blocks.masks import Masked
    from paredown.spec.structure import Block
    from paredown.store.cache import Cache


class FirstOrderParams(ScopedMaskParams, SampledParams):
    """Parameters of first-order scores of single weights."""


class FirstOrderMethod(MaskMethod[FirstOrderParams]):
    """Set the weights to zero that some losses would miss least; a subclass names the losses.

    Class attributes:
        losses: see `blocks.gradients.Loss`; scores of several are standardised and summed.
    """

    params_type = FirstOrderParams
    needs_data = True
    losses: ClassVar[tuple[Literal["ce", "frobenius", "nuclear"], ...]]

    def check(self, spec: ModelSpec, params: FirstOrderParams, target: Target) -> None:
        super().check(spec, params, target)
        check_gradients(self.name, spec)

    def disk(self, spec: ModelSpec, params: FirstOrderParams, cache: Cache) -> tuple[int, int]:
        shapes = (matrix_shape(spec, name) for name in select_linears(spec, params.skip))
        weights = sum(rows * width for rows, width in shapes)
        return 4 * weights * len(self.losses), 0  # a float32 per weight and loss

    def apply(
        self, source: Checkpoint, out: Path, params: FirstOrderParams, context: Context
    ) -> Tensor:
        from paredown.blocks.weight_scores import WeightScores

        scores = WeightScores(
            source,
            select_linears(source.spec, params.skip),
            first_windows(context.calibration(), params.nsamples),
            self.losses,
            device=context.device,
            scratch=context.scratch,
            progress=lambda share, message: context.progress(0.8 * share, message),
            trust_remote_code=context.trust_remote_code,
        )
        remove = remover(source, params, scores.of)

        def mask(block: Block, module: nn.Module, weights: dict[str, Tensor]) -> Masked:
            return {n: (w, remove(scores.of(n)).to(w.device)) for n, w in weights.items()}

        return write_masked(source, out, params, context, mask)
