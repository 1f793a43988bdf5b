"""What the methods that remove whole MLP neurons have in common."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from paredown.errors import ConfigError
from paredown.methods.base import Params
from paredown.spec.domain import Choice
from paredown.spec.model import ModelSpec
from paredown.spec.structure import MIN_WIDTH, kept_width, uses_conv1d


class NeuronParams(Params):
    """Parameters of neuron removal."""

    ratio: Annotated[float, Field(gt=0, lt=1), Choice(0.2, 0.1, 0.3)] = 0.2
    """Share of each MLP's neurons that is removed; widths stay multiples of 32."""


def check_neurons(spec: ModelSpec, params: NeuronParams) -> None:
    """Refuse models whose MLPs cannot be narrowed.

    Raises:
        ConfigError: unknown MLP shape, experts, Conv1D, unequal or too small widths.
    """
    if uses_conv1d(spec):
        raise ConfigError(f"{spec.architecture}: pruning of Conv1D layers is not there yet")
    if spec.experts:
        raise ConfigError(f"{spec.architecture}: pruning of experts is not there yet")
    structure = spec.structure
    widths = {mlp.width for mlp in structure.mlps}
    if len(structure.mlps) != len(structure.blocks) or not widths:
        raise ConfigError(
            f"{spec.architecture}: no MLP of a known shape (gate/up/down or fc1/fc2) in every block"
        )
    if len(widths) > 1:
        raise ConfigError(f"{spec.architecture}: MLPs of unequal width {sorted(widths)}")
    width = widths.pop()
    if width <= MIN_WIDTH:
        raise ConfigError(
            f"{spec.architecture}: MLPs of {width} neurons are too narrow to prune; "
            f"{MIN_WIDTH} are the least"
        )
    if width * (1 - params.ratio) < MIN_WIDTH:
        raise ConfigError(
            f"ratio = {params.ratio:g} would leave {width * (1 - params.ratio):.0f} of {width} "
            f"neurons; {MIN_WIDTH} are the least: use ratio <= {1 - MIN_WIDTH / width:.2f}"
        )
    if kept_width(width, params.ratio) >= width:
        raise ConfigError(
            f"ratio = {params.ratio:g} removes nothing of width {width}: widths are multiples "
            f"of 32; use ratio >= {32 / width:.3f}"
        )


def predict_neurons(spec: ModelSpec, params: NeuronParams) -> ModelSpec:
    """The exact tensors of the narrower checkpoint."""
    mlps = spec.structure.mlps
    width = kept_width(mlps[0].width, params.ratio)
    rows = {f"{name}.{leaf}" for m in mlps for name in m.inputs for leaf in ("weight", "bias")}
    columns = {f"{m.output}.weight" for m in mlps}
    tensors = []
    for tensor in spec.tensors:
        if tensor.name in rows:
            tensor = tensor.model_copy(update={"shape": (width, *tensor.shape[1:])})
        elif tensor.name in columns:
            tensor = tensor.model_copy(update={"shape": (tensor.shape[0], width)})
        tensors.append(tensor)
    removed = spec.weight_bytes - sum(t.nbytes for t in tensors)
    element = 4 if spec.dtype == "F32" else 2
    return spec.with_tensors(
        tensors,
        intermediate_size=width,
        parameters=spec.parameters - removed // element,
        active_parameters=spec.active_parameters - removed // element,
    )
