"""Removes attention heads: whole groups that share a key and a value."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, final

from pydantic import Field

from paredown.errors import ConfigError
from paredown.methods.base import Context, Kind, Method
from paredown.methods.shared.samples import SampledParams, hessian_bank, kept_moments
from paredown.spec.domain import Choice
from paredown.spec.heads import EVEN, FAMILIES, Groups, find_attentions, find_groups, with_groups
from paredown.spec.model import ModelSpec
from paredown.spec.target import Target

if TYPE_CHECKING:
    from torch import Tensor

    from paredown.artifact.checkpoint import Checkpoint
    from paredown.store.cache import Cache


class HeadsParams(SampledParams):
    """Parameters of `heads`."""

    ratio: Annotated[float, Field(gt=0, lt=1), Choice(0.25, 0.5)] = 0.25
    """Share of the key-value heads that is removed from every block, each with its query heads;
    their number is rounded, and at least 1."""


@final
class Heads(Method[HeadsParams]):
    """Remove the groups of heads that the output projection misses least, and fit it again.

    A group is a key-value head with the query heads that read it, so the cache of keys and values
    shrinks as well. Every block loses the same number; which ones is its own choice.

    Known weakness: the choice is made by the mean error over calibration tokens. A head that parks
    its attention on the first token (an attention sink) says little, so it goes easily; text whose
    windows rely on it can then collapse while the mean looks fair. Look at the worst windows, and
    train afterwards.
    """

    name = "heads"
    kind = Kind.PRUNING
    summary = "remove key-value heads with their queries; the cache shrinks as well"
    params_type = HeadsParams
    needs_data = True

    def check(self, spec: ModelSpec, params: HeadsParams, target: Target) -> None:
        if spec.model_type not in FAMILIES:
            raise ConfigError(
                f"{spec.architecture}: its config cannot say that heads are fewer than hidden "
                "size / head_dim, or it is not known to; use depth, or prune its MLPs"
            )
        groups = _groups(spec)
        left = _left(groups, params)
        if groups.count == 1:
            raise ConfigError(f"{spec.architecture}: there is only one key-value head")
        if left < 1:
            raise ConfigError(
                f"ratio = {params.ratio:g} would remove all {groups.count} key-value heads; use a "
                f"ratio below {1 - 0.5 / groups.count:.3g}"
            )
        hidden = spec.hidden_size or 0
        if spec.model_type in EVEN and hidden % (left * groups.queries):
            fits = [n for n in range(1, groups.count) if hidden % (n * groups.queries) == 0]
            ratios = [round(1 - n / groups.count, 3) for n in reversed(fits)]
            raise ConfigError(
                f"ratio = {params.ratio:g} leaves {left * groups.queries} heads, but the config of "
                f"{spec.architecture} wants a number that divides its hidden size of {hidden}: "
                f"use a ratio in {ratios}"
            )

    def predict(self, spec: ModelSpec, params: HeadsParams) -> ModelSpec:
        groups = _groups(spec)
        return with_groups(spec, groups, _left(groups, params))

    def disk(self, spec: ModelSpec, params: HeadsParams, cache: Cache) -> tuple[int, int]:
        return 0, kept_moments(spec, cache)

    def apply(self, source: Checkpoint, out: Path, params: HeadsParams, context: Context) -> Tensor:
        from paredown.blocks.heads import drop_groups

        groups = _groups(source.spec)
        return drop_groups(
            source,
            out,
            hessians=hessian_bank(source, context, params.nsamples),
            groups=groups,
            left=_left(groups, params),
            progress=context.progress,
        )


def _groups(spec: ModelSpec) -> Groups:
    """The layout of the heads.

    Raises:
        ConfigError: a block has no separate q, k, v and o projections, or they differ.
    """
    groups = find_groups(spec)
    if groups is None or len(find_attentions(spec)) != len(spec.structure.blocks):
        raise ConfigError(
            f"{spec.architecture}: no separate q, k, v and o projections of one layout in every "
            "block"
        )
    return groups


def _left(groups: Groups, params: HeadsParams) -> int:
    return groups.count - max(1, round(groups.count * params.ratio))
