"""AutoRound: rounding and ranges tuned by signed gradient descent, block by block."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, final

from pydantic import Field

from paredown.errors import ConfigError
from paredown.methods.base import Context
from paredown.methods.shared.groups import GroupMethod, GroupParams, round_each, schemes_of
from paredown.spec.domain import Choice
from paredown.spec.embeddings import packable_embeddings
from paredown.spec.model import ModelSpec
from paredown.spec.target import Target

if TYPE_CHECKING:
    from torch import Tensor

    from paredown.artifact.checkpoint import Checkpoint


class AutoroundParams(GroupParams):
    """Parameters of `autoround`."""

    iters: Annotated[int, Field(ge=1, le=2000), Choice(50, 200)] = 50
    """Steps of signed gradient descent per block; time grows with it."""
    nsamples: Annotated[int, Field(ge=1)] = 32
    """Calibration windows used, at most."""
    seqlen: Annotated[int, Field(ge=8)] = 256
    """Tokens of each window used, at most."""
    batch_size: Annotated[int, Field(ge=1)] = 4
    """Windows per step."""


@final
class Autoround(GroupMethod[AutoroundParams]):
    """AutoRound (arXiv:2309.05516) by the auto-round library, stored like any other packed model.

    The library tunes the whole model in memory; what it finds is taken over code by code.
    """

    name = "autoround"
    summary = "rounding tuned by signed gradient descent on calibration text, 2-8 bits"
    params_type = AutoroundParams
    needs_data = True
    extra = ("auto_round", "autoround")

    def check(self, spec: ModelSpec, params: AutoroundParams, target: Target) -> None:
        super().check(spec, params, target)
        wide = [
            name
            for name, scheme in schemes_of(spec, params).items()
            if scheme.bits == 8 and not scheme.symmetric
        ]
        if wide:
            raise ConfigError(
                f"autoround: {wide[0]} would have 8 bits and a zero-point, which auto-round does "
                "not tune; use symmetric=true, or rtn"
            )

    def apply(
        self, source: Checkpoint, out: Path, params: AutoroundParams, context: Context
    ) -> Tensor:
        from paredown.train.autoround import tune

        schemes = schemes_of(source.spec, params)
        outside = packable_embeddings(source.spec)
        tuned = tune(
            source,
            {name: scheme for name, scheme in schemes.items() if name not in outside},
            tokens=context.calibration()[: params.nsamples, : params.seqlen],
            iterations=params.iters,
            batch_size=params.batch_size,
            seed=context.seed,
            device=context.device,
            scratch=context.scratch,
            trust_remote_code=context.trust_remote_code,
            progress=lambda share, message: context.progress(0.95 * share, message),
        )

        return round_each(
            source,
            out,
            params,
            replace(context, progress=lambda share, m: context.progress(0.95 + 0.05 * share, m)),
            round_one=lambda name, weight, scheme: tuned.pop(name),
        )
