"""Recovery by training: what is trained, on which loss, and what becomes of it.

An adapter on a dense model is merged into it; on a packed model it is kept beside the packed
weights. All weights can be trained where none is packed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from paredown.artifact.checkpoint import TORCH_DTYPES, Checkpoint, CheckpointWriter
from paredown.artifact.sparse import STATEMENT
from paredown.blocks.names import module_name
from paredown.blocks.probe import probe_tokens
from paredown.errors import DivergedError, MethodError
from paredown.ops.affine import require_finite
from paredown.ops.distillation import distillation_loss, feature_loss, token_loss
from paredown.runtimes.torch.adapters import (
    add_adapter,
    merge_adapter,
    round_adapter,
    write_adapter,
)
from paredown.runtimes.torch.kernels import use_fast_kernels
from paredown.runtimes.torch.proof import probe
from paredown.spec.packed import float_dtype
from paredown.store.atomic import write_json
from paredown.train.trainable import (
    cast_unpacked,
    following,
    forward,
    load_trainable,
    save_activations,
    training_dtype,
)
from paredown.train.training import Recipe, Record, Resumable, Trainer

RECORD = "paredown_training.json"
"""What the last training of an artifact did."""


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """LoRA on some layers (names as in the checkpoint)."""

    layers: tuple[str, ...]
    rank: int
    alpha: int
    dropout: float


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """A model to learn from: see `paredown.ops.distillation`."""

    folder: Path
    alpha: float
    temperature: float
    features: float
    """Weight of the loss between the outputs of matching blocks; 0 leaves it out."""


class Recovery:
    """One model in training."""

    def __init__(
        self,
        source: Checkpoint,
        *,
        adapter: Adapter | None,
        teacher: Teacher | None,
        held_out: Tensor,
        recipe: Recipe,
        recompute: bool,
        device: str,
        trust_remote_code: bool,
    ) -> None:
        """Load the model, the teacher if there is one, and put the adapter on.

        Args:
            adapter: None trains all weights.
            held_out: (n, length) windows that are not trained on.
            recompute: compute activations twice instead of keeping them.
        """
        self.source, self.adapter, self.teaching = source, adapter, teacher
        self.held_out, self.forward = held_out, recipe.forward
        options: dict[str, Any] = {"device": device, "trust_remote_code": trust_remote_code}
        self.stored = TORCH_DTYPES[float_dtype(source.spec)]
        # What is trained is float32; weights that only carry an adapter may stay as stored.
        dtype = torch.float32 if adapter is None else training_dtype(source, device)
        self.model = load_trainable(source, dtype=dtype, **options)
        self.parameters = self._parameters(recipe.seed)
        if recompute:
            save_activations(self.model, source)
        self.teacher: Any = None
        if teacher is not None:
            base = Checkpoint(teacher.folder)
            self.teacher = load_trainable(base, dtype=training_dtype(base, device), **options)
            self.teacher.requires_grad_(False)

    def _parameters(self, seed: int) -> dict[str, nn.Parameter]:
        masked = STATEMENT in self.source.config
        if self.adapter is None:
            found = dict(self.model.named_parameters())
            for parameter in found.values():
                parameter.requires_grad_(True)
                if masked and parameter.ndim == 2:
                    _keep_zeros(parameter)
            return found
        return add_adapter(
            self.model,
            self.adapter.layers,
            rank=self.adapter.rank,
            alpha=self.adapter.alpha,
            dropout=self.adapter.dropout,
            seed=seed,
            masked=masked,
        )

    def loss(self, windows: Tensor) -> Tensor:
        """Mean loss of some windows, with gradient."""
        features = self.teaching is not None and self.teaching.features > 0
        return self._loss(windows, features=features)

    @torch.no_grad()
    def held_out_loss(self) -> float:
        """Mean loss of the held-out windows, without dropout and without the blocks' outputs."""
        # Only the adapters' dropout is in training mode: the rest of the model is never.
        dropouts = [m for m in self.model.modules() if isinstance(m, nn.Dropout) and m.training]
        for module in dropouts:
            module.eval()
        total = sum(
            float(self._loss(part, features=False)) * len(part)
            for part in self.held_out.split(self.forward)
        )
        for module in dropouts:
            module.train()
        return total / len(self.held_out)

    def _loss(self, windows: Tensor, *, features: bool) -> Tensor:
        targets = following(windows).to(self.model.device)
        logits, states = forward(self.model, windows, states=features)
        if self.teaching is None:
            return token_loss(logits, targets)
        with torch.no_grad():
            expected, expected_states = forward(self.teacher, windows, states=features)
        if expected.shape != logits.shape:
            raise MethodError(
                f"the teacher has {expected.shape[-1]} tokens, the model {logits.shape[-1]}: "
                "only models with one vocabulary can be distilled"
            )
        loss = distillation_loss(
            logits,
            expected,
            targets,
            alpha=self.teaching.alpha,
            temperature=self.teaching.temperature,
        )
        if features:
            if states[0].shape != expected_states[0].shape:
                raise MethodError(
                    f"features: the teacher's blocks are {expected_states[0].shape[-1]} wide, the "
                    f"model's {states[0].shape[-1]}; use features=0"
                )
            loss = loss + self.teaching.features * feature_loss(states, expected_states)
        return loss

    @torch.no_grad()
    def settle(self) -> None:
        """Leave in the model what will be stored: merged where it can be, and rounded.

        Raises:
            NumericsError: a weight does not fit into the stored dtype.
        """
        if self.adapter is None:
            for name, parameter in self.parameters.items():
                parameter.copy_(parameter.to(self._dtype_of(name)))
                require_finite(parameter, name)
        elif self.source.spec.quantization is None:
            merge_adapter(self.model, self.adapter.layers, self.stored)
        else:
            round_adapter(self.parameters, self.stored)

    def _dtype_of(self, name: str) -> torch.dtype:
        """The stored dtype of a parameter of the model."""
        info = self.source.spec.by_name.get(name)
        return self.stored if info is None else TORCH_DTYPES[info.dtype]

    @torch.no_grad()
    def write(self, out: Path) -> None:
        """Write the artifact, after `settle`."""
        # Tied weights under each of their names, of which the file may hold any.
        parameters = dict(self.model.named_parameters(remove_duplicate=False))
        with CheckpointWriter(out, self.source) as writer:
            if self.source.spec.quantization is None:
                for name in self._changed():
                    value = parameters[module_name(self.model, name)]
                    writer.add(name, value.to(TORCH_DTYPES[self.source.spec.by_name[name].dtype]))
            writer.copy_rest(without=set())
        if self.adapter is not None and self.source.spec.quantization is not None:
            write_adapter(
                self.parameters,
                out,
                dtype=self.stored,
                rank=self.adapter.rank,
                alpha=self.adapter.alpha,
                dropout=self.adapter.dropout,
            )

    def _changed(self) -> list[str]:
        """Stored tensors that training has changed."""
        if self.adapter is not None:
            return [f"{layer}.weight" for layer in self.adapter.layers]
        trained = dict(self.model.named_parameters(remove_duplicate=False))
        return [n for n in self.source.names if module_name(self.model, n) in trained]

    @torch.no_grad()
    def probe(self) -> Tensor:
        """Logits of the artifact: as bitsandbytes serves it, else in float32."""
        self.model.eval()  # dropout
        if self.source.spec.quantization == "bitsandbytes":
            cast_unpacked(self.model, self.stored)
            use_fast_kernels(self.model)
        elif self.model.dtype != torch.float32:
            self.model.float()
        return probe(self.model, probe_tokens(self.source.spec.vocabulary or 2))


def _keep_zeros(parameter: nn.Parameter) -> None:
    """Without a gradient, and without weight decay, a zero stays zero."""
    kept = parameter.detach() != 0
    parameter.register_hook(lambda gradient: gradient * kept)


def recover(
    recovery: Recovery,
    out: Path,
    windows: Tensor,
    recipe: Recipe,
    *,
    resumable: Resumable,
    progress: Callable[[float, str], None],
) -> Tensor:
    """Train, and write the result into `out`.

    Args:
        windows: (n, length) training windows.

    Returns:
        Logits of the result on the probe.

    Raises:
        DivergedError: the held-out loss is not lower than before, or a loss is not finite.
    """
    trainer = Trainer(
        recovery.parameters,
        windows,
        recipe,
        loss=recovery.loss,
        held_out=recovery.held_out_loss,
        resumable=resumable,
        progress=progress,
    )
    record: Record = trainer.run()
    recovery.settle()
    after = recovery.held_out_loss()
    if not after < record.before:  # NaN included
        raise DivergedError(
            f"what training gained is lost by rounding: held-out loss {record.before:.4f} before, "
            f"{record.best:.4f} trained, {after:.4f} as stored; use more tokens"
        )
    recovery.write(out)
    document = {**asdict(record), "after": after, "tokens": windows.numel() * recipe.epochs}
    write_json(out / RECORD, document)
    return recovery.probe()
