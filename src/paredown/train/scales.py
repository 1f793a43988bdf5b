"""Scales and norm gains of a packed model, tuned against the base's outputs at fixed codes.

Not a bit is added: what is stored keeps its names, shapes and dtypes. The whole model and the base
are in memory while they are tuned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from paredown.artifact.checkpoint import TORCH_DTYPES, Checkpoint, CheckpointWriter
from paredown.artifact.compressed_tensors import read_packed, read_schemes
from paredown.blocks.names import module_name
from paredown.blocks.probe import probe_tokens
from paredown.errors import DivergedError
from paredown.ops.affine import require_finite, short_scale
from paredown.ops.distillation import distillation_loss
from paredown.ops.superblocks import SuperGrid
from paredown.runtimes.torch.proof import probe
from paredown.spec.embeddings import packable_embeddings
from paredown.train.trainable import following, forward, load_trainable, training_dtype
from paredown.train.training import Recipe, Resumable, Trainer


def as_stored(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Rounded to the stored dtype, with the gradient of the identity: what is trained is what will
    be stored. (Straight-through estimator, Bengio et al. 2013, arXiv:1308.3432.)"""
    return values + (values.to(dtype).to(values.dtype) - values).detach()


class ScaledCodes(nn.Module):
    """A matrix as fixed integers times scales of which the relative change is the parameter."""

    def __init__(self, integers: Tensor, scale: Tensor, bits: int | None = None) -> None:
        """`integers` (rows, width) are code minus zero-point; `scale` (rows, groups) as stored.

        Args:
            bits: significant bits that a scale may have; None: as many as its dtype has.
        """
        super().__init__()
        self.bits = bits
        self.integers: Tensor
        self.scale: Tensor
        self.register_buffer("integers", integers)
        self.register_buffer("scale", scale)

    def scales(self, change: Tensor) -> Tensor:
        """(rows, groups) after a relative change, rounded to the dtype they are stored in."""
        wanted = self.scale.float() * (1.0 + change)
        if self.bits is not None:  # with the gradient of the identity, as in `as_stored`
            wanted = wanted + (short_scale(wanted, self.bits) - wanted).detach()
        return as_stored(wanted, self.scale.dtype)

    def forward(self, change: Tensor) -> Tensor:
        """(rows, width) weights in float32; `change` (rows, groups)."""
        rows, groups = self.scale.shape
        parts = self.integers.reshape(rows, groups, -1).float() * self.scales(change)[..., None]
        return parts.reshape(rows, -1)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """No change: the parameter that stands in the place of the matrix."""
        return torch.zeros_like(self.scale, dtype=torch.float32)


class Gain(nn.Module):
    """The weight of a norm, of which the relative change is the parameter."""

    def __init__(self, weight: Tensor, dtype: torch.dtype) -> None:
        """`weight` as loaded; `dtype` that it is stored in."""
        super().__init__()
        self.start: Tensor
        self.register_buffer("start", weight.detach().clone())
        self.stored = dtype

    def forward(self, change: Tensor) -> Tensor:
        """The weight after a relative change, rounded as it will be stored."""
        return as_stored(self.start * (1.0 + change), self.stored)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """No change."""
        return torch.zeros_like(weight)


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """What came of it: mean KL from the base on held-out windows, nats per token.

    Attributes:
        before, after: of the model as it was, and with what is stored now.
        kept: whether it was better; else everything is as it was.
    """

    before: float
    after: float
    kept: bool


class ScaleTuning:
    """One packed model whose scales and gains are tuned, beside its base."""

    def __init__(
        self,
        source: Checkpoint,
        base: Checkpoint,
        *,
        held_out: Tensor,
        device: str,
        trust_remote_code: bool,
    ) -> None:
        """Load both.

        Args:
            source: packed on integer grids.
            held_out: (n, length) windows that nothing was fitted to.
        """
        self.source, self.held_out = source, held_out
        options: dict[str, Any] = {"device": device, "trust_remote_code": trust_remote_code}
        self.model = load_trainable(source, dtype=torch.float32, **options)
        self.model.requires_grad_(False)
        self.base = load_trainable(base, dtype=training_dtype(base, device), **options)
        self.base.requires_grad_(False)
        self.codes: dict[str, tuple[ScaledCodes, nn.Parameter]] = {}
        self.gains: dict[str, tuple[Gain, nn.Parameter]] = {}
        self._attach_codes()
        self._attach_gains()

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """What is trained, by stored name; all zero at first."""
        both = {**self.codes, **self.gains}
        return {name: parameter for name, (_, parameter) in both.items()}

    def _attach_codes(self) -> None:
        embeddings = packable_embeddings(self.source.spec)
        for name, scheme in read_schemes(self.source).items():
            if name in embeddings:  # one matrix in two places, which is looked up as well
                continue
            codes, grid = read_packed(self.source, name, scheme)
            if isinstance(grid, SuperGrid):  # scales that are integers have no gradient to follow
                continue
            integers = codes.to(torch.int16)
            if grid.zero is not None:
                width = codes.shape[1] // grid.zero.shape[1]
                integers -= grid.zero.to(torch.int16).repeat_interleave(width, dim=1)
            made = ScaledCodes(integers, grid.scale, scheme.scale_bits).to(self.model.device)
            place = self.model.get_submodule(module_name(self.model, name))
            self.codes[f"{name}.weight_scale"] = made, _attach(place, made)

    def _attach_gains(self) -> None:
        for name, info in self.source.spec.by_name.items():
            owner, _, leaf = name.rpartition(".")
            if leaf != "weight" or len(info.shape) != 1 or "norm" not in owner.lower():
                continue
            place = self.model.get_submodule(module_name(self.model, owner))
            made = Gain(place.weight, TORCH_DTYPES[info.dtype])
            self.gains[name] = made, _attach(place, made)

    def loss(self, windows: Tensor) -> Tensor:
        """Mean KL(base || model) of some windows, nats per token, with gradient."""
        logits, _ = forward(self.model, windows)
        with torch.no_grad():
            expected, _ = forward(self.base, windows)
        targets = following(windows).to(logits.device)
        return distillation_loss(logits, expected, targets, alpha=1.0, temperature=1.0)

    @torch.no_grad()
    def held_out_loss(self) -> float:
        """The same of the held-out windows."""
        return sum(float(self.loss(part)) for part in self.held_out.split(1)) / len(self.held_out)

    @torch.no_grad()
    def write(self, out: Path) -> Tensor:
        """Write the model with its new scales and gains; returns its logits on the probe."""
        with CheckpointWriter(out, self.source) as writer:
            for name, (codes, change) in self.codes.items():
                scale = codes.scales(change).to(codes.scale.dtype)
                require_finite(scale, name)
                writer.add(name, scale.cpu())
            for name, (gain, change) in self.gains.items():
                writer.add(name, gain(change).to(gain.stored).cpu())
            writer.copy_rest(without=set())
        return probe(self.model, probe_tokens(self.source.spec.vocabulary or 2))


def _attach(place: nn.Module, made: nn.Module) -> nn.Parameter:
    """Let a module's weight be computed; returns the parameter in its place."""
    # Unsafe: it has the shape of the scales, not of the matrix.
    parametrize.register_parametrization(place, "weight", made, unsafe=True)
    parameter: nn.Parameter
    (parameter,) = place.parametrizations["weight"].parameters()  # type: ignore[index,union-attr]
    parameter.requires_grad_(True)
    return parameter


def tune_scales(
    tuning: ScaleTuning,
    windows: Tensor,
    recipe: Recipe,
    *,
    resumable: Resumable,
    progress: Callable[[float, str], None],
) -> Tuned:
    """Tune on `windows` (n, length); the parameters are left at their best.

    Raises:
        DivergedError: a loss is not finite.
    """
    trainer = Trainer(
        tuning.parameters,
        windows,
        recipe,
        loss=tuning.loss,
        held_out=tuning.held_out_loss,
        resumable=resumable,
        progress=progress,
    )
    try:
        record = trainer.run()
    except DivergedError:
        before = _untouched(tuning)
        return Tuned(before=before, after=before, kept=False)
    return Tuned(before=record.before, after=tuning.held_out_loss(), kept=True)


@torch.no_grad()
def _untouched(tuning: ScaleTuning) -> float:
    """The held-out loss with all parameters back at zero."""
    for parameter in tuning.parameters.values():
        parameter.zero_()
    return tuning.held_out_loss()
