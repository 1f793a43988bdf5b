"""A paredown plug-in in one file: removes the MLP neurons whose output column is smallest.

After `pip install ./examples/paredown-example-method` it is a method like any other:

    paredown methods magnitude_columns
    paredown compress -m demo -s "magnitude_columns(ratio=0.1) > rtn(group_size=32)" -o DIR
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, final

from pydantic import Field

from paredown.errors import ConfigError
from paredown.methods.base import Context, Kind, Method, Params
from paredown.spec.domain import Choice
from paredown.spec.model import ModelSpec
from paredown.spec.structure import kept_width
from paredown.spec.target import Target

if TYPE_CHECKING:
    from torch import Tensor

    from paredown.artifact.checkpoint import Checkpoint


class MagnitudeColumnsParams(Params):
    """Parameters, each documented once, with its validity and its search domain."""

    ratio: Annotated[float, Field(gt=0, lt=1), Choice(0.1, 0.2)] = 0.1
    """Share of each MLP's neurons that is removed."""


@final
class MagnitudeColumns(Method[MagnitudeColumnsParams]):
    """Keep the neurons with the largest column in the down projection."""

    name = "magnitude_columns"
    kind = Kind.PRUNING
    summary = "remove the MLP neurons of smallest output column"
    params_type = MagnitudeColumnsParams

    def check(self, spec: ModelSpec, params: MagnitudeColumnsParams, target: Target) -> None:
        """Refuse, from the spec alone, what cannot work."""
        widths = {mlp.width for mlp in spec.structure.mlps}
        if len(spec.structure.mlps) != len(spec.structure.blocks) or len(widths) != 1:
            raise ConfigError(f"{spec.architecture}: no dense MLP of one width in every block")
        if kept_width(widths.pop(), params.ratio) >= spec.structure.mlps[0].width:
            raise ConfigError(f"ratio = {params.ratio:g} removes nothing; raise it")

    def predict(self, spec: ModelSpec, params: MagnitudeColumnsParams) -> ModelSpec:
        """The exact tensors after the step."""
        width = kept_width(spec.structure.mlps[0].width, params.ratio)
        rows = {f"{n}.{leaf}" for m in spec.structure.mlps for n in m.inputs
                for leaf in ("weight", "bias")}  # fmt: skip
        columns = {f"{m.output}.weight" for m in spec.structure.mlps}

        def shape(name: str, old: tuple[int, ...]) -> tuple[int, ...]:
            if name in rows:
                return (width, *old[1:])
            return (old[0], width) if name in columns else old

        tensors = [t.model_copy(update={"shape": shape(t.name, t.shape)}) for t in spec.tensors]
        return spec.with_tensors(tensors, intermediate_size=width)

    def apply(
        self, source: Checkpoint, out: Path, params: MagnitudeColumnsParams, context: Context
    ) -> Tensor:
        """Write the smaller model; torch is imported here and not above."""
        from paredown.blocks.neurons import Cut, keep_neurons, weight_scores
        from paredown.blocks.rewrite import probe_walk
        from paredown.ops.saliency import strongest

        mlps = source.spec.structure.mlps
        width = kept_width(mlps[0].width, params.ratio)
        scores = weight_scores(source, lambda _, inputs, output: output.float().norm(dim=0))
        kept = {
            mlp.output: strongest(score, width) for mlp, score in zip(mlps, scores, strict=True)
        }
        return keep_neurons(
            source,
            out,
            walk=probe_walk(
                source, device=context.device, trust_remote_code=context.trust_remote_code
            ),
            cut=Cut(kept=kept),
            progress=context.progress,
        )
