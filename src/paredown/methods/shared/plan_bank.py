"""Codes of every unit of a model, and artifacts put together from them.

Imports torch: methods and jobs import it when they are at work.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from paredown.artifact.checkpoint import Checkpoint
from paredown.blocks.embeddings import EmbeddingBank
from paredown.blocks.experts import rare_experts
from paredown.blocks.rewrite import probe_walk, quantize_blocks, stored_dtype
from paredown.blocks.rounding import GptqRounding, PlanRounding
from paredown.errors import ConfigError
from paredown.methods.base import Context
from paredown.methods.shared.groups import hessians_on
from paredown.methods.shared.units import Choices, plain_record
from paredown.spec.plan import PLAN_FILE, PlanRecord
from paredown.spec.scheme import Scheme
from paredown.spec.units import human_bytes
from paredown.store.atomic import write_json

if TYPE_CHECKING:
    from torch import nn

    from paredown.ops.grids import AnyGrid
    from paredown.spec.structure import Block


class PlanBank:
    """Units on their options, computed when asked for and kept in the cache."""

    def __init__(
        self, source: Checkpoint, choices: Choices, context: Context, *, head: bool
    ) -> None:
        """Read or measure the second moments of all inputs.

        Args:
            head: whether embedding or head will be rounded.
        """
        self.source, self.choices, self.context = source, choices, context
        self.hessians = hessians_on(source, context, head=head)
        names = [n for u in choices.units if not u.is_embedding for n in u.unit.layers]
        self.rounding = GptqRounding(self.hessians, scale_dtype=stored_dtype(source))
        self.layers = PlanRounding(source, self.rounding, names)
        self.embeddings = EmbeddingBank(self.hessians)

    def require_kept(self) -> None:
        """See that moments and codes are kept, which plans are compared by.

        Raises:
            ConfigError: the cache is too small for them.
        """
        if not (self.hessians.is_kept and self.rounding.bank.is_kept):
            limit = human_bytes(int(self.hessians.cache.limit_bytes))
            raise ConfigError(
                "mixed: what was measured of all layers has to be kept while plans are compared, "
                f"and the cache ({limit}) is too small for it; set PAREDOWN_CACHE_GB higher"
            )

    def write(self, out: Path, schemes: Mapping[str, Scheme], record: PlanRecord | None) -> Tensor:
        """Write the model with these schemes by layer name into the empty folder `out`.

        Args:
            record: of the plan; None for one that was given and not forecast.

        Returns:
            Logits on the probe, as `Method.apply`.
        """
        hessians, context = self.hessians, self.context
        # A walk is used up, and its embedding changed, by an artifact; further plans need another.
        walk = hessians.walk
        if not walk.hidden:
            walk = probe_walk(
                self.source, device=context.device, trust_remote_code=context.trust_remote_code
            )

        def quantize(
            block: Block, module: nn.Module, weights: dict[str, Tensor]
        ) -> dict[str, tuple[Tensor, AnyGrid]]:
            moments = cache(lambda: hessians.of_block(block, module))
            if hessians.walk.hidden:  # the calibration states have to pass in any case
                moments()
            return self.layers.rounded(block, {n: schemes[n] for n in weights}, moments)

        logits = quantize_blocks(
            self.source,
            out,
            walk=walk,
            schemes=dict(schemes),
            quantize=quantize,
            progress=lambda share, message: context.progress(0.8 + 0.2 * share, message),
            statement=lambda: rare_experts(hessians.rare(), dict(schemes)),
            embeddings=self.embeddings,
        )
        write_json(out / PLAN_FILE, record or plain_record(self.source.spec, self.choices, schemes))
        return logits
