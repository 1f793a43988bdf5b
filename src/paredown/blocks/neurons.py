"""Rewriting a checkpoint with fewer MLP neurons, and making up for those that are gone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from paredown.artifact.checkpoint import Checkpoint, CheckpointWriter
from paredown.artifact.widths import set_vision_width, set_widths
from paredown.blocks.skeleton import as_stored, read_matrix
from paredown.blocks.walk import BlockWalk, submodule
from paredown.ops.affine import require_finite
from paredown.ops.repair import bias_for_mean, centred, least_squares
from paredown.spec.progress import Progress
from paredown.spec.structure import Block, Mlp


@dataclass(frozen=True)
class Cut:
    """What becomes of the MLPs.

    Attributes:
        kept: neurons kept of each MLP, rising, by the name of its down projection.
        repair: fit the down projections to the walk's calibration text by least squares.
        bias: give each down projection the bias that restores its mean output; the config must be
            able to hold one (`mlp_bias`), or the layer has one.
        equal_widths: pad all MLPs to the widest with neurons of zeros.
    """

    kept: Mapping[str, Tensor]
    repair: bool = False
    bias: bool = False
    equal_widths: bool = False


def keep_neurons(
    source: Checkpoint,
    out: Path,
    *,
    walk: BlockWalk,
    cut: Cut,
    progress: Progress,
    besides: Iterable[tuple[str, Tensor]] = (),
    vision_width: int | None = None,
) -> Tensor:
    """Write `source` to `out` with the neurons of `cut` alone left in its language MLPs.

    Args:
        walk: a walk over `source` at its start, with calibration windows if they are needed.
        besides: other tensors that have changed, as they are stored; asked for one by one.
        vision_width: width of the MLPs of the vision tower, if `besides` changes it.

    Returns:
        Logits of the smaller model on the probe, computed from the weights in memory.

    Raises:
        NumericsError: an MLP, or its activations, hold a NaN or an infinity.
    """
    mlps = {mlp.block: mlp for mlp in source.spec.structure.mlps}
    widths = [len(cut.kept[mlp.output]) for mlp in mlps.values()]
    # A config of transformers knows one width for all MLPs.
    stored = [max(widths)] * len(widths) if cut.equal_widths else widths
    pads = dict(zip(mlps, (s - w for s, w in zip(stored, widths, strict=True)), strict=True))
    with CheckpointWriter(out, source) as writer:
        for done, (block, module) in enumerate(walk):
            mlp = mlps[block.index]
            for name in (*mlp.inputs, mlp.output):
                require_finite(submodule(module, block, name).weight, name)
            # Before the block is cut: activations are those of the uncompressed model.
            activity = _watch_activity(walk, block, module, mlp) if walk.hidden else None
            kept = cut.kept[mlp.output].to(walk.device)
            for name, tensor in cut_mlp(source, mlp, kept, cut, activity).items():
                padded = _padded(mlp, name, tensor, pads[block.index])
                writer.add(name, _stored(source, name, padded))
                # The probe sees what is written: padded, and rounded to the stored dtype.
                _place(module, block, name, padded.to(walk.device, walk.dtype))
            walk.advance_probe(block, module)
            progress((done + 1) / len(walk.blocks), f"block {done + 1} of {len(walk.blocks)}")
        for name, tensor in besides:
            writer.add(name, tensor)
        writer.copy_rest(without=set())
        set_widths(writer.config, stored)
        if vision_width is not None:
            set_vision_width(writer.config, vision_width)
        if cut.bias and f"{next(iter(cut.kept))}.bias" not in source.spec.by_name:
            # The family has biases only on request; without it, loaders would leave the new ones
            # out.
            writer.config["mlp_bias"] = True
    return walk.logits()


@dataclass(frozen=True)
class Activity:
    """Moments of an MLP's activations h over the calibration text."""

    mean: Tensor
    """E h, (width,) float32."""
    second: Tensor
    """E h h^T, (width, width) float32."""


def _watch_activity(walk: BlockWalk, block: Block, module: nn.Module, mlp: Mlp) -> Activity:
    """Moments of h in the uncompressed model; the calibration states advance through the block.

    Moments behind the blocks as they are cut give no better a model (measured) at twice the work.
    """
    total = torch.zeros(mlp.width, device=walk.device)
    squares = torch.zeros(mlp.width, mlp.width, device=walk.device)
    count = 0

    def note(_: nn.Module, args: Any) -> None:
        nonlocal count
        rows = args[0].reshape(-1, mlp.width).float()
        total.add_(rows.sum(0))
        squares.addmm_(rows.T, rows)
        count += len(rows)

    handle = submodule(module, block, mlp.output).register_forward_pre_hook(note)
    try:
        walk.advance(block, module)
    finally:
        handle.remove()
    return Activity(total / count, squares / count)


def cut_mlp(
    source: Checkpoint, mlp: Mlp, kept: Tensor, cut: Cut, activity: Activity | None
) -> dict[str, Tensor]:
    """The tensors of the smaller MLP by stored name, matrices as (out, inp), in stored dtypes."""
    # A fused gate and up matrix has neuron i's row once in each part.
    rows = torch.cat([kept + part * mlp.width for part in range(mlp.parts)]).cpu()
    tensors: dict[str, Tensor] = {}
    for name in mlp.inputs:
        tensors[f"{name}.weight"] = read_matrix(source, name)[rows]
        if f"{name}.bias" in source.spec.by_name:
            tensors[f"{name}.bias"] = source.read(f"{name}.bias")[rows]
    whole = read_matrix(source, mlp.output)
    output = whole.to(kept.device).float()
    smaller = output[:, kept]
    if activity is not None and cut.repair:
        second, mean = activity.second, activity.mean
        # Where a bias takes up the mean, the matrix has only deviations from it to fit.
        smaller = least_squares(output, centred(second, mean) if cut.bias else second, kept)
    tensors[f"{mlp.output}.weight"] = smaller.to("cpu", whole.dtype)
    if activity is not None and cut.bias:
        bias = bias_for_mean(output, activity.mean, kept, smaller).cpu()
        tensors |= _biases(source, mlp, bias, tensors)
    return tensors


def smaller_mlps(
    source: Checkpoint, activities: Iterable[tuple[Mlp, Activity | None]], cut: Cut
) -> Iterator[tuple[str, Tensor]]:
    """The tensors of MLPs outside the language model as they are to be stored, MLP by MLP."""
    for mlp, activity in activities:
        kept = cut.kept[mlp.output]
        if activity is not None:
            kept = kept.to(activity.mean.device)
        for name, tensor in cut_mlp(source, mlp, kept, cut, activity).items():
            yield name, _stored(source, name, tensor)


def _biases(
    source: Checkpoint, mlp: Mlp, bias: Tensor, tensors: dict[str, Tensor]
) -> dict[str, Tensor]:
    """The down projection's bias, and zero ones where the config means all layers by `mlp_bias`."""
    name = f"{mlp.output}.bias"
    dtype = tensors[f"{mlp.output}.weight"].dtype
    if name in source.spec.by_name:
        return {name: (source.read(name).float() + bias).to(dtype)}
    zeros = {f"{n}.bias": torch.zeros(len(tensors[f"{n}.weight"]), dtype=dtype) for n in mlp.inputs}
    return {**zeros, name: bias.to(dtype)}


def _padded(mlp: Mlp, name: str, tensor: Tensor, count: int) -> Tensor:
    """The tensor with `count` neurons of zeros behind those of each part."""
    if not count or name == f"{mlp.output}.bias":
        return tensor
    if name == f"{mlp.output}.weight":
        return nn.functional.pad(tensor, (0, count))
    parts = tensor.chunk(mlp.parts)
    margin = (0, 0) * (tensor.ndim - 1) + (0, count)
    return torch.cat([nn.functional.pad(part, margin) for part in parts])


def _stored(source: Checkpoint, name: str, tensor: Tensor) -> Tensor:
    owner, _, leaf = name.rpartition(".")
    return as_stored(source, owner, tensor).contiguous() if leaf == "weight" else tensor


def _place(module: nn.Module, block: Block, name: str, value: Tensor) -> None:
    owner, _, leaf = name.rpartition(".")
    parameter = nn.Parameter(value, requires_grad=False)
    setattr(submodule(module, block, owner), leaf, parameter)


def weight_scores(
    source: Checkpoint, score: Callable[[int, list[Tensor], Tensor], Tensor]
) -> list[Tensor]:
    """Scores (width,) of every MLP's neurons from its weights alone, one MLP at a time.

    Args:
        score: (MLP number, input matrices (width, hidden), output matrix (hidden, width)).
    """
    found = []
    for i, mlp in enumerate(source.spec.structure.mlps):
        inputs = [part for n in mlp.inputs for part in read_matrix(source, n).split(mlp.width)]
        found.append(score(i, inputs, read_matrix(source, mlp.output)))
    return found
