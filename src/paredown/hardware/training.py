"""What training takes: all weights, an adapter (LoRA), or an adapter on 4-bit weights (QLoRA)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from paredown.hardware.estimate import Estimate, added
from paredown.spec.model import ModelSpec
from paredown.spec.packed import linear_shapes
from paredown.spec.sizing import Mode, Optimizer
from paredown.spec.structure import Mlp

_STATE_BYTES: dict[Optimizer, tuple[int, int]] = {
    "adamw": (2, 12),
    "adamw8bit": (2, 6),
    "adamw_bf16": (2, 4),
}
"""Bytes per trained weight of its gradient, and of the optimizer: two moments of 4, 1 or 2 bytes
each, and a 32-bit copy of the weight except in the last (Rajbhandari et al. 2020, section 3.1:
16 bytes per weight with the weight itself)."""
_NF4_BITS = 4.5
"""Of a weight in NF4: codes, and a 32-bit scale per 64 of them (Dettmers et al. 2023)."""
CONTEXT_MB = 1500.0
"""Driver, kernels' workspaces and the allocator's slack (1e6 bytes)."""
LOGIT_BYTES = 2 + 4 + 4
"""Per logit: in 16 bits, widened to 32 for the loss, and its gradient."""
_TANH_GELU = frozenset({"gpt2", "gpt_neo", "gptj", "codegen", "phi"})
"""Their activation is written out as five operations, each of which keeps its input."""
UTILISATION = 0.4
"""Of the dense 16-bit peak; 0.3 to 0.5 is usual."""
SPEED_ERROR, ACTIVATION_ERROR = 2.0, 1.5


@final
@dataclass(frozen=True, kw_only=True)
class Training:
    """A training run.

    Attributes:
        mode: what is trained.
        batch: sequences of one step, over all devices.
        length: tokens of each.
        rank: of the adapter, on every linear layer of the blocks.
        optimizer: and the precision of its states.
        checkpointing: whether blocks are computed a second time instead of being remembered.
    """

    mode: Mode
    batch: int
    length: int
    rank: int = 16
    optimizer: Optimizer = "adamw"
    checkpointing: bool = True


@final
@dataclass(frozen=True, kw_only=True)
class TrainingMemory:
    """Bytes on each device; states are spread over all of them (ZeRO-3, FSDP)."""

    weights: Estimate
    gradients: Estimate
    optimizer: Estimate
    activations: Estimate
    logits: Estimate
    runtime: Estimate

    @property
    def total(self) -> Estimate:
        """All of it; logits come when every block's activations are kept, so they add up."""
        parts = (self.weights, self.gradients, self.optimizer, self.activations, self.logits)
        return added((*parts, self.runtime))


def training_memory(spec: ModelSpec, training: Training, devices: int = 1) -> TrainingMemory:
    """Memory of one of `devices` that train together.

    Args:
        spec: of the model before training.
    """
    trained = trained_parameters(spec, training)
    gradient, states = _STATE_BYTES[training.optimizer]
    frozen = 0.0 if training.mode == "full" else _frozen_bytes(spec, training.mode)
    tokens = -(-training.batch // devices) * training.length
    return TrainingMemory(
        weights=Estimate.exact((frozen + 2 * trained) / devices),
        gradients=Estimate.exact(gradient * trained / devices),
        optimizer=Estimate.exact(states * trained / devices),
        activations=Estimate.within(tokens * activation_bytes(spec, training), ACTIVATION_ERROR),
        logits=Estimate.within(tokens * (spec.vocabulary or 0) * LOGIT_BYTES, 1.2),
        runtime=Estimate.within(1e6 * CONTEXT_MB, 1.3),
    )


def trained_parameters(spec: ModelSpec, training: Training) -> int:
    """Weights that change: all, or `rank x (rows + columns)` of every linear of the blocks."""
    if training.mode == "full":
        return spec.parameters
    return training.rank * sum(sum(shape) for shape in linear_shapes(spec).values())


def _frozen_bytes(spec: ModelSpec, mode: Mode) -> float:
    if mode == "lora":
        return 2.0 * spec.parameters
    coded = sum(rows * width for rows, width in linear_shapes(spec).values())
    return coded * _NF4_BITS / 8 + 2.0 * (spec.parameters - coded)


def activation_bytes(spec: ModelSpec, training: Training) -> float:
    """Bytes kept per token for the way back, without logits, attention computed blockwise.

    With checkpointing 2 x hidden per layer, and one layer in full while it is computed again.
    """
    layer = layer_activation_bytes(spec, training)
    layers = spec.layers or 1
    return (
        2 * (spec.hidden_size or 0) * layers + layer if training.checkpointing else layers * layer
    )


def layer_activation_bytes(spec: ModelSpec, training: Training) -> float:
    """Bytes per token that one block keeps, counted from what each operation of transformers saves.

    Norms keep their input in 32 bits, and their scaled input and output in 16 where they are
    trained; attention its queries, keys, values and mix; an MLP with a gate the gate, its
    activation, up, and where it is trained the product. Adapters of peft compute in 32 bits and
    keep a copy of every layer's input for it. `tests/hardware/test_training.py` counts them anew.

    Without flash attention the scores come on top, `2 x heads x tokens` bytes each time they are
    kept (Korthikanti et al. 2022, arXiv:2205.05198, who count 34 x hidden for GPT's blocks).
    """
    hidden = spec.hidden_size or 0
    queries = (spec.heads or 1) * (spec.head_dim or 0)
    keys = (spec.kv_heads or 0) * (spec.head_dim or 0)
    width = (spec.intermediate_size or 4 * hidden) * (spec.experts_per_token or 1)
    normed = _normed(spec, {"q_norm": queries, "k_norm": keys}) or 2 * hidden
    total = 4 * normed + 2 * (2 * queries + 2 * keys)
    if training.mode == "full":
        return total + 4 * normed + 2 * _mlp_widths(spec) * width
    adapters = 4 * _inputs(spec) + 4 * training.rank * len(spec.structure.blocks[0].linears)
    return total + 2 * (_mlp_widths(spec) - 1) * width + adapters


def _normed(spec: ModelSpec, own: Mapping[str, int]) -> int:
    """Numbers per token that the norms of the first block read: most are as wide as the model."""
    if not spec.structure.blocks:
        return 0
    prefix = f"{spec.structure.blocks[0].prefix}."
    names = (t.name for t in spec.tensors if t.name.startswith(prefix) and len(t.shape) == 1)
    norms = [n for n in names if n.endswith(".weight") and ("norm" in n or ".ln_" in n)]
    return sum(own.get(name.split(".")[-2], spec.hidden_size or 0) for name in norms)


def _inputs(spec: ModelSpec) -> int:
    """Inputs of all linear layers of the first block, each counted for itself."""
    shapes = linear_shapes(spec)
    return sum(shapes[name][1] for name in spec.structure.blocks[0].linears if name in shapes)


def _mlp_widths(spec: ModelSpec) -> int:
    """How often an MLP keeps its width; experts have a gate."""
    first: Mlp | None = next(iter(spec.structure.mlps), None)
    if first is None or len(first.inputs) > 1 or first.parts > 1:
        return 4
    return 7 if spec.model_type in _TANH_GELU else 2


def tokens_per_s(
    spec: ModelSpec, training: Training, peak: float | None, devices: int
) -> Estimate | None:
    """Tokens trained on per second over all devices; None where their peak is not known.

    6 operations per weight and token, 4 with frozen weights, a third more with checkpointing.

    Args:
        peak: dense 16-bit operations per second of one device, nominal.
    """
    if not peak:
        return None
    per_weight = (6 if training.mode == "full" else 4) * (4 / 3 if training.checkpointing else 1)
    rate = devices * peak * UTILISATION / (per_weight * spec.active_parameters)
    return Estimate.within(rate, SPEED_ERROR)
