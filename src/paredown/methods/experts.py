"""Removes whole experts of mixtures: the ones that routed tokens would miss least."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, final

from pydantic import Field, model_validator

from paredown.errors import ConfigError
from paredown.methods.base import Context, Kind, Method
from paredown.methods.shared.samples import (
    SampledParams,
    check_text_in_all_blocks,
    counted_once,
)
from paredown.spec.domain import Choice
from paredown.spec.mixtures import Mixture, find_mixtures, with_experts
from paredown.spec.model import ModelSpec
from paredown.spec.structure import fused_experts
from paredown.spec.target import Target

if TYPE_CHECKING:
    from torch import Tensor

    from paredown.artifact.checkpoint import Checkpoint
    from paredown.blocks.mixtures import Tally
    from paredown.blocks.walk import BlockWalk
    from paredown.spec.progress import Progress

USUAL_RATIO = 0.25
RECORD = "paredown_experts.json"
"""File of an artifact: of each mixture the experts that were kept, those that too few calibration
tokens reached for their scores to be more than chance, and the tokens of each."""


class ExpertsParams(SampledParams):
    """Parameters of `experts`."""

    ratio: Annotated[float | None, Field(gt=0, lt=1), Choice(USUAL_RATIO, 0.5, 0.125)] = None
    """Share of the routed experts that is removed from every block; their number is rounded, and
    at least 1 (of each group, where a token first chooses among groups). 0.25 where `keep` is not
    given either."""
    keep: Annotated[int, Field(ge=2)] | None = None
    """Routed experts that stay in every block, in place of `ratio`."""
    score: Literal["error", "use"] = "error"
    """`error`: mean over an expert's own tokens of router weight times norm of its output (REAP);
    `use`: all router weight that it is given."""

    @model_validator(mode="before")
    @classmethod
    def _one_request(cls, fields: Any) -> Any:
        if not isinstance(fields, dict):
            return fields
        given = [name for name in ("ratio", "keep") if fields.get(name) is not None]
        if len(given) > 1:
            raise ValueError("ratio and keep: give one of them")
        return fields if given else fields | {"ratio": USUAL_RATIO}


@final
class Experts(Method[ExpertsParams]):
    """Remove the routed experts of least saliency g ||f(x)||, arXiv:2510.13999.

    Every block loses the same number, because configs have one number for all; which ones is each
    block's own choice. Rows and biases of the router go with their experts; shared experts stay.
    What a token reads, its active parameters, stays as it is: files and memory shrink, speed
    hardly changes. Blocks that foretell further tokens (`num_nextn_predict_layers`) are left out
    where they are mixtures: no text says which of their experts to keep.

    `paredown_experts.json` in the artifact tells of every block which experts stayed, how many
    calibration tokens each had, and which had so few (below 32) that their scores are chance.

    Known weakness: what calibration text does not ask for goes first. Calibrate on text like that
    which the model will read.
    """

    name = "experts"
    kind = Kind.PRUNING
    summary = "remove whole experts of a mixture, by error or by use; less memory, same speed"
    params_type = ExpertsParams
    needs_data = True

    def check(self, spec: ModelSpec, params: ExpertsParams, target: Target) -> None:
        if not spec.experts:
            raise ConfigError(f"{spec.architecture}: it has no experts; use depth, or heads")
        if fused := fused_experts(spec):
            raise ConfigError(
                f"{spec.architecture}: {fused[0]} holds all experts of a block in one tensor, "
                "which is not read yet; only experts stored one by one are"
            )
        check_text_in_all_blocks(self.name, spec)
        if not find_mixtures(spec):
            raise ConfigError(f"{spec.architecture}: no block with experts and a router was found")
        if spec.experts_per_token is None:
            raise ConfigError(
                f"{spec.architecture}: its config does not say how many experts a token is sent "
                "to, so how many must stay is not known"
            )
        _check_left(spec, params)

    def predict(self, spec: ModelSpec, params: ExpertsParams) -> ModelSpec:
        return with_experts(spec, _left(spec, params))

    def apply(
        self, source: Checkpoint, out: Path, params: ExpertsParams, context: Context
    ) -> Tensor:
        from paredown.blocks.mixtures import drop_experts
        from paredown.blocks.rewrite import probe_walk
        from paredown.ops.mixtures import strongest

        tallies = _tallies(source, params, context)
        left, groups = _left(source.spec, params), source.spec.expert_groups

        kept: dict[str, list[int]] = {}

        def choose(mixture: Mixture) -> list[int]:
            found = tallies[mixture.stack]
            scores = found.share if params.score == "use" else found.error
            kept[mixture.stack] = strongest(scores, left, groups=groups)
            return kept[mixture.stack]

        logits = drop_experts(
            source,
            out,
            walk=probe_walk(
                source, device=context.device, trust_remote_code=context.trust_remote_code
            ),
            choose=choose,
            left=left,
            progress=lambda share, message: context.progress(0.5 + share / 2, message),
            trust_remote_code=context.trust_remote_code,
        )
        _record(out, params, tallies, kept)
        return logits


def _record(
    out: Path, params: ExpertsParams, tallies: dict[str, Tally], kept: dict[str, list[int]]
) -> None:
    """Lay down which experts stayed, by their numbers before the step, and what was counted."""
    from paredown.blocks.hessians import MIN_TOKENS
    from paredown.store.atomic import write_json

    mixtures = {}
    for stack, found in tallies.items():
        tokens = [int(count) for count in found.tokens.tolist()]
        rare = [number for number, count in enumerate(tokens) if count < MIN_TOKENS]
        mixtures[stack] = {"kept": kept[stack], "rare": rare, "tokens": tokens}
    write_json(out / RECORD, {"score": params.score, "mixtures": mixtures})


def _left(spec: ModelSpec, params: ExpertsParams) -> int:
    """Experts that stay in each block."""
    if params.keep is not None:
        return params.keep
    size = (spec.experts or 0) // spec.expert_groups
    ratio = USUAL_RATIO if params.ratio is None else params.ratio
    return (size - max(1, round(size * ratio))) * spec.expert_groups


def _least(spec: ModelSpec) -> int:
    """Experts that must stay: what a token is sent to, and what makes a mixture of each group."""
    per_token, groups = spec.experts_per_token or 1, spec.expert_groups
    in_group = max(2, -(-per_token // spec.groups_per_token))
    return in_group * groups


def _check_left(spec: ModelSpec, params: ExpertsParams) -> None:
    """Refuse a number of experts that the family cannot run."""
    experts, groups, left = spec.experts or 0, spec.expert_groups, _left(spec, params)
    asked = f"ratio = {params.ratio:g}" if params.keep is None else f"keep = {params.keep}"
    if experts % groups or left % groups:
        raise ConfigError(
            f"{asked}: {spec.architecture} has {groups} groups of experts, which {left} cannot "
            f"fill evenly; keep a multiple of {groups}"
        )
    if left >= experts:
        raise ConfigError(
            f"{asked} would remove none of the {experts} experts of {spec.architecture}; keep fewer"
        )
    least = _least(spec)
    if left < least:
        why = f"a token is sent to {spec.experts_per_token}"
        if groups > 1:
            why += f" in {spec.groups_per_token} of {groups} groups"
        raise ConfigError(
            f"{asked} would leave {left} of the {experts} experts of {spec.architecture}, where "
            f"{why}, so at least {least} must stay; remove fewer"
        )


def _tallies(source: Checkpoint, params: ExpertsParams, context: Context) -> dict[str, Tally]:
    """What is counted of each mixture; once for a model and a calibration text."""
    from safetensors.torch import load_file, save_file

    from paredown.blocks.mixtures import Tally, tally
    from paredown.store.content import code

    def measure(walk: BlockWalk, tell: Progress, path: Path) -> None:
        found = tally(walk, tell)
        save_file({f"{s}.{n}": t for s, one in found.items() for n, t in vars(one).items()}, path)

    path = counted_once(
        source, context, params.nsamples, kind="experts", version=code(1), suffix=".safetensors",
        measure=measure,
    )  # fmt: skip
    stored = load_file(path)
    stacks = {name.rpartition(".")[0] for name in stored}
    parts = ("tokens", "share", "output")
    return {stack: Tally(**{part: stored[f"{stack}.{part}"] for part in parts}) for stack in stacks}
