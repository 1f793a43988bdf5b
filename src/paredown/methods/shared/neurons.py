"""What the methods that remove whole MLP neurons have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

from pydantic import Field, ValidationInfo, field_validator

from paredown.errors import ConfigError
from paredown.methods.base import Context, Kind, Method, Params
from paredown.methods.shared.samples import check_gradients, check_text_in_all_blocks
from paredown.spec.domain import Choice
from paredown.spec.model import ModelSpec, TensorInfo, tensor_info
from paredown.spec.structure import (
    MIN_WIDTH,
    Mlp,
    kept_width,
    stored_transposed,
    width_multiple,
)
from paredown.spec.target import Target
from paredown.spec.widths import FIXED

if TYPE_CHECKING:
    from torch import Tensor

    from paredown.artifact.checkpoint import Checkpoint
    from paredown.blocks.neuron_scores import NeuronScores
    from paredown.blocks.neurons import Cut
    from paredown.blocks.walk import BlockWalk

_HOLDS_MLP_BIAS = {"llama", "granite"}
"""Model types whose config can ask for biases in an MLP that has none (`mlp_bias`)."""


class NeuronParams(Params):
    """Parameters of neuron removal."""

    ratio: Annotated[float, Field(gt=0, lt=1), Choice(0.2, 0.1, 0.3)] = 0.2
    """Share of the MLP neurons that is removed. Widths stay multiples of 32, and of 64 where they
    are and are at least 512."""
    scope: Annotated[Literal["layer", "global"], Choice("layer", "global")] = "layer"
    """`layer` removes the same share of each MLP; `global` compares all layers' scores, so that
    widths differ, which only paredown can load."""
    equal_widths: bool = False
    """With `scope="global"`, pad narrower MLPs with neurons of zeros to the widest: every runtime
    loads that, and nothing is saved in the padded layers."""
    repair: Annotated[bool, Choice(True, False)] = True
    """Refit the output matrices to calibration text by least squares, so that the neurons kept make
    up for those removed."""

    @field_validator("equal_widths")
    @classmethod
    def _only_for_global(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("scope") != "global":
            raise ValueError('widths are equal already: use it with scope = "global"')
        return value


class SampledNeuronParams(NeuronParams):
    """Parameters of scores that are measured on calibration text."""

    nsamples: Annotated[int, Field(ge=2)] = 128
    """Calibration windows used, at most; all that the run has if they are fewer."""
    seed: int = 0
    """Which windows, where the run has more."""


class GradientNeuronParams(SampledNeuronParams):
    """Parameters of scores that are measured by gradients."""

    variant: Literal["own", "reference"] = "own"
    """`reference` averages w dL/dw over each neuron's weights without 2 % at either end, as the
    AFR-St code does; `own` takes the exact first-order change of each window's loss."""


N = TypeVar("N", bound=NeuronParams)


class NeuronMethod(Method[N]):
    """A method that removes MLP neurons; a subclass says by which scores, in `apply`."""

    kind = Kind.PRUNING
    needs_data = True

    def check(self, spec: ModelSpec, params: N, target: Target) -> None:
        if isinstance(params, GradientNeuronParams):
            check_gradients(self.name, spec)
        check_neurons(spec, params)
        if self.reads_data(params):
            check_text_in_all_blocks(self.name, spec)

    def knows_bytes(self, params: N) -> bool:
        return not (params.scope == "global" and params.equal_widths)  # the widest decides

    def predict(self, spec: ModelSpec, params: N) -> ModelSpec:
        """The tensors of the smaller checkpoint.

        Exact, but for `scope="global"`: there the bytes of all MLPs together are exact, and the
        widths are the least unequal ones, so that later steps see that they are unequal. With
        `equal_widths` nothing is known before the scores are: the bytes are those of the model as
        it is, the most that they can be.
        """
        if params.scope == "global" and params.equal_widths:
            return spec
        return predict_neurons(spec, params)


def check_neurons(spec: ModelSpec, params: NeuronParams) -> None:
    """Refuse models whose MLPs cannot be narrowed.

    Raises:
        ConfigError: unknown MLP shape, experts, or too small widths.
    """
    if spec.experts:
        raise ConfigError(
            f"{spec.architecture}: neurons inside of experts cannot be removed; "
            "use experts, which removes whole ones"
        )
    if reason := FIXED.get(spec.text_type):
        raise ConfigError(f"{spec.architecture}: {reason}, so neurons cannot be removed")
    structure = spec.structure
    if len(structure.mlps) != len(structure.blocks) or not structure.mlps:
        raise ConfigError(
            f"{spec.architecture}: no MLP of a known shape (gate/up/down or fc1/fc2) in every block"
        )
    check_width(spec, max(mlp.width for mlp in structure.mlps), params.ratio)


def check_width(
    spec: ModelSpec, width: int, ratio: float, *, name: str = "ratio", what: str = "MLPs"
) -> None:
    """Refuse a share of neurons that leaves too few, or all.

    Args:
        name: the parameter that gives `ratio`.
        what: whose neurons.
    """
    if width <= MIN_WIDTH:
        raise ConfigError(
            f"{spec.architecture}: {what} of {width} neurons are too narrow to prune; "
            f"{MIN_WIDTH} are the least"
        )
    if width * (1 - ratio) < MIN_WIDTH:
        raise ConfigError(
            f"{name} = {ratio:g} would leave {width * (1 - ratio):.0f} of {width} "
            f"neurons; {MIN_WIDTH} are the least: use {name} <= {1 - MIN_WIDTH / width:.2f}"
        )
    if kept_width(width, ratio) >= width:
        multiple = width_multiple(width)
        raise ConfigError(
            f"{name} = {ratio:g} removes nothing of width {width}: widths are multiples "
            f"of {multiple}; use {name} >= {multiple / width:.3f}"
        )


def predict_neurons(spec: ModelSpec, params: NeuronParams, *, bias: bool = False) -> ModelSpec:
    """The exact tensors of the narrower checkpoint; with `bias`, of one with MLP biases."""
    widths = _predicted_widths(spec, params)
    resized = resize_mlps(spec, spec.structure.mlps, widths, bias=bias)
    uneven = len(set(widths)) > 1
    return resized.model_copy(update={"intermediate_size": max(widths), "uneven_mlps": uneven})


def resize_mlps(
    spec: ModelSpec, mlps: Sequence[Mlp], widths: Sequence[int], *, bias: bool = False
) -> ModelSpec:
    """The spec with MLPs of other widths; with `bias`, with biases in all of them."""
    changed: dict[str, TensorInfo] = {}
    for mlp, width in zip(mlps, widths, strict=True):
        for name in mlp.inputs:
            rows = width * mlp.parts
            weight = spec.by_name[f"{name}.weight"]
            at = 1 if stored_transposed(spec, name) else 0  # Conv1D stores (inp, out)
            changed[weight.name] = _resized(weight, at, rows)
            if bias or f"{name}.bias" in spec.by_name:
                changed[f"{name}.bias"] = _vector(f"{name}.bias", weight.dtype, rows)
        weight = spec.by_name[f"{mlp.output}.weight"]
        at = 0 if stored_transposed(spec, mlp.output) else 1
        changed[weight.name] = _resized(weight, at, width)
        if bias:
            hidden = weight.shape[1 - at]
            changed[f"{mlp.output}.bias"] = _vector(f"{mlp.output}.bias", weight.dtype, hidden)
    kept = [changed.pop(t.name, t) for t in spec.tensors]
    tensors = [*kept, *changed.values()]
    removed = sum(t.numel for t in spec.tensors) - sum(t.numel for t in tensors)
    return spec.with_tensors(
        tensors,
        parameters=spec.parameters - removed,
        active_parameters=spec.active_parameters - removed,
    )


def _predicted_widths(spec: ModelSpec, params: NeuronParams) -> list[int]:
    full = [mlp.width for mlp in spec.structure.mlps]
    kept = [kept_width(width, params.ratio) for width in full]
    if params.scope == "global" and len(kept) > 1:
        multiple = _common_multiple(spec)
        # The least unequal widths of the same sum: later steps have to see that they are unequal.
        if kept[0] + multiple <= full[0] and kept[-1] - multiple >= MIN_WIDTH:
            kept[0], kept[-1] = kept[0] + multiple, kept[-1] - multiple
    return kept


def _common_multiple(spec: ModelSpec) -> int:
    return min(width_multiple(mlp.width) for mlp in spec.structure.mlps)


def _resized(tensor: TensorInfo, at: int, size: int) -> TensorInfo:
    shape = list(tensor.shape)
    shape[at] = size
    return tensor_info(tensor.name, tensor.dtype, tuple(shape))


def _vector(name: str, dtype: str, size: int) -> TensorInfo:
    return tensor_info(name, dtype, (size,))


def can_hold_bias(spec: ModelSpec) -> bool:
    """Whether a bias can be stored with every down projection so that plain transformers reads it.

    Either there is one already, or the config can ask for biases in all MLP layers.
    """
    has = [f"{mlp.output}.bias" in spec.by_name for mlp in spec.structure.mlps]
    return all(has) or (spec.model_type in _HOLDS_MLP_BIAS and not any(has))


def calibration_windows(params: SampledNeuronParams, context: Context) -> Tensor:
    """The calibration windows that the parameters ask for, (samples, length) int64."""
    import torch

    given = context.calibration()
    if len(given) <= params.nsamples:
        if len(given) < params.nsamples:
            context.progress(0.0, f"scores use all {len(given)} calibration windows there are")
        return given
    generator = torch.Generator().manual_seed(params.seed)
    chosen = torch.randperm(len(given), generator=generator)[: params.nsamples]
    return given[chosen.sort().values]


def scores_on(source: Checkpoint, tokens: Tensor, context: Context) -> NeuronScores:
    """Statistics of the model's neurons on calibration windows, cached."""
    from paredown.blocks.neuron_scores import NeuronScores

    return NeuronScores(
        source,
        source_hash=context.source_hash,
        tokens=tokens,
        cache=context.cache,
        device=context.device,
        scratch=context.scratch,
        trust_remote_code=context.trust_remote_code,
        progress=part(context.progress, 0.0, 0.5),
    )


def remove_neurons(
    source: Checkpoint,
    out: Path,
    params: NeuronParams,
    context: Context,
    *,
    scores: list[Tensor],
    tokens: Tensor | None = None,
    bias: bool = False,
    walk: BlockWalk | None = None,
    besides: Iterable[tuple[str, Tensor]] = (),
    vision_width: int | None = None,
) -> Tensor:
    """Keep the neurons with the largest scores.

    Args:
        scores: (width,) per MLP, in the order of the structure; comparable between layers.
        tokens: calibration windows that the repair and biases are fitted to.
        bias: restore each MLP's mean output by a bias.
        walk: over `source`, at its start, in place of one over `tokens`; what it holds is what the
            repair is fitted to (windows with an image in them have no tokens for it).
        besides, vision_width: see `keep_neurons`.

    Returns:
        Logits of the smaller model on the probe.
    """
    from paredown.blocks.neurons import keep_neurons
    from paredown.blocks.rewrite import probe_walk

    # Scores that are measured took the first half of the time; those of the weights took none.
    start = 0.0 if tokens is None and walk is None else 0.5
    walk = walk or probe_walk(
        source,
        device=context.device,
        trust_remote_code=context.trust_remote_code,
        tokens=tokens if params.repair or bias else None,
    )
    return keep_neurons(
        source,
        out,
        walk=walk,
        cut=chosen_cut(source.spec, params, scores, bias=bias),
        progress=part(context.progress, start, 1.0),
        besides=besides,
        vision_width=vision_width,
    )


def chosen_cut(
    spec: ModelSpec, params: NeuronParams, scores: list[Tensor], *, bias: bool = False
) -> Cut:
    """The neurons of the language model's MLPs with the largest scores, as `params` asks."""
    from paredown.blocks.neurons import Cut
    from paredown.ops.saliency import strongest

    widths = _widths(spec, params, scores)
    kept = {
        mlp.output: strongest(score, width)
        for mlp, score, width in zip(spec.structure.mlps, scores, widths, strict=True)
    }
    return Cut(kept=kept, repair=params.repair, bias=bias, equal_widths=params.equal_widths)


def _widths(spec: ModelSpec, params: NeuronParams, scores: list[Tensor]) -> list[int]:
    from paredown.ops.saliency import shared_widths

    kept = [kept_width(mlp.width, params.ratio) for mlp in spec.structure.mlps]
    if params.scope == "layer":
        return kept
    return shared_widths(scores, sum(kept), multiple=_common_multiple(spec), least=MIN_WIDTH)


def part(
    progress: Callable[[float, str], None], start: float, end: float
) -> Callable[[float, str], None]:
    """Progress of one part of the work, as progress of the whole."""
    return lambda share, message: progress(start + share * (end - start), message)
