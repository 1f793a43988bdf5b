"""LoRA adapters on any model folder, packed or dense: added, merged, stored as peft stores them.

Packed weights stay what they are: their adapter is kept beside them in the subfolder `adapter`,
where plain transformers ignores it and peft finds it. Merging would mean to quantize again, which
throws away most of what was learned.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from paredown.blocks.names import module_name
from paredown.errors import MethodError, MissingExtraError, ModelError
from paredown.ops.affine import require_finite
from paredown.runtimes.torch.packed import dense_dtype
from paredown.spec.packed import ADAPTER, ADAPTER_WEIGHTS
from paredown.spec.reading import read_object
from paredown.store.atomic import write_json

_CONFIG = "adapter_config.json"
_NAME = "default"
_PREFIX = "base_model.model."
"""What peft puts before the names of a model's modules."""


@final
class _MaskedLora(nn.Module):
    """LoRA whose update leaves the zeros of a masked weight zero; named inside as peft names it."""

    def __init__(self, base: nn.Linear, rank: int, scale: float, dropout: float) -> None:
        super().__init__()
        self.base_layer, self.scale = base, scale
        self.lora_A = nn.ModuleDict({_NAME: nn.Linear(base.in_features, rank, bias=False)})
        self.lora_B = nn.ModuleDict({_NAME: nn.Linear(rank, base.out_features, bias=False)})
        self.lora_A.to(base.weight.device)
        self.lora_B.to(base.weight.device)
        self.lora_dropout = nn.Dropout(dropout)

    def get_base_layer(self) -> nn.Linear:
        return self.base_layer

    def get_delta_weight(self, adapter: str) -> Tensor:
        down, up = self.lora_A[adapter].weight, self.lora_B[adapter].weight
        delta: Tensor = up @ down * self.scale  # type: ignore[operator]
        return delta * (self.base_layer.weight != 0)

    def forward(self, x: Tensor) -> Tensor:
        # As a whole matrix, not B (A x): only so can single entries be masked.
        delta = self.get_delta_weight(_NAME).to(x.dtype)
        base: Tensor = self.base_layer(x)
        return base + nn.functional.linear(self.lora_dropout(x), delta)


@final
class _Unnamed(nn.Module):
    """A model without its config, as peft is to see it.

    In mixtures of experts peft takes `gate_proj` and the like for names of older transformers and
    looks for them in fused experts; then shared experts and dense MLPs get no adapter.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        # By these peft knows that the layers are those of bitsandbytes.
        for mark in ("is_loaded_in_8bit", "is_loaded_in_4bit"):
            setattr(self, mark, getattr(model, mark, False))


def _inject(
    model: Any, names: list[str], rank: int, alpha: int, dropout: float, *, masked: bool
) -> None:
    """Put untrained adapters on modules, and freeze everything else."""
    from peft import LoraConfig, inject_adapter_in_model

    if not masked:
        inside = [f"model.{name}" for name in names]
        config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=inside)
        inject_adapter_in_model(config, _Unnamed(model), adapter_name=_NAME)
        return
    model.requires_grad_(False)
    for name in names:
        base = model.get_submodule(name)
        if not isinstance(base, nn.Linear):
            raise MethodError(f"{name}: masks in a {type(base).__name__} are not kept by training")
        model.set_submodule(name, _MaskedLora(base, rank, alpha / rank, dropout))


@torch.no_grad()
def add_adapter(
    model: Any,
    layers: tuple[str, ...],
    *,
    rank: int,
    alpha: int,
    dropout: float,
    seed: int,
    masked: bool,
) -> dict[str, nn.Parameter]:
    """Put a LoRA adapter on some layers of a model and freeze everything else.

    `y = base(x) + alpha / rank * B(A(dropout(x)))`, A random, B zero, both float32: the model is
    still the same. arXiv:2106.09685, section 4.1.

    Args:
        layers: names as in the checkpoint; Linear, Conv1D or layers of bitsandbytes.
        seed: of A.
        masked: whether zeros of the weights have to stay zero.

    Returns:
        The adapter's parameters by module name and leaf (`lora_A`, `lora_B`).
    """
    names = sorted(module_name(model, layer) for layer in layers)
    _inject(model, names, rank, alpha, dropout, masked=masked)
    generator = torch.Generator().manual_seed(seed)
    parameters: dict[str, nn.Parameter] = {}
    for name in names:
        layer: Any = model.get_submodule(name)
        # The model around it stays in evaluation mode.
        layer.lora_dropout.train()
        down, up = layer.lora_A[_NAME].float(), layer.lora_B[_NAME].float()
        # On the CPU: one seed gives one A on every device. Kaiming with sqrt(5) is peft's own
        # start.
        start = torch.empty(down.weight.shape)
        nn.init.kaiming_uniform_(start, a=math.sqrt(5), generator=generator)
        down.weight.copy_(start)
        up.weight.zero_()
        parameters[f"{name}.lora_A"], parameters[f"{name}.lora_B"] = down.weight, up.weight
    return parameters


@torch.no_grad()
def merge_adapter(model: Any, layers: tuple[str, ...], dtype: torch.dtype) -> None:
    """Add the adapter to the weights of its layers, round them to `dtype`, and take it off.

    Raises:
        NumericsError: a weight does not fit into `dtype`.
    """
    for layer in layers:
        name = module_name(model, layer)
        adapted: Any = model.get_submodule(name)
        base = adapted.get_base_layer()
        merged = (base.weight.float() + adapted.get_delta_weight(_NAME).float()).to(dtype)
        require_finite(merged, layer)
        # Rounded as it will be stored, then widened again: what is probed is what is written.
        base.weight.data = merged.to(base.weight.dtype)
        model.set_submodule(name, base)


@torch.no_grad()
def round_adapter(parameters: dict[str, nn.Parameter], dtype: torch.dtype) -> None:
    """Round an adapter to what `dtype` can store."""
    for name, parameter in parameters.items():
        parameter.copy_(parameter.to(dtype))
        require_finite(parameter, name)


def write_adapter(
    parameters: dict[str, nn.Parameter],
    out: Path,
    *,
    dtype: torch.dtype,
    rank: int,
    alpha: int,
    dropout: float,
) -> None:
    """Store an adapter as peft does, in the subfolder `adapter` of a model folder."""
    folder = out / ADAPTER
    folder.mkdir()
    tensors = {
        f"{_PREFIX}{name}.weight": parameter.detach().to(dtype).cpu().contiguous()
        for name, parameter in parameters.items()
    }
    save_file(tensors, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    document = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": dropout,
        "target_modules": sorted({name.rpartition(".")[0] for name in parameters}),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    write_json(folder / _CONFIG, document)


@final
class AdaptedLinear(nn.Module):
    """`y = base(x) + scale * B(A x)` on any layer, whatever its weights look like."""

    down: Tensor
    up: Tensor

    def __init__(self, base: nn.Module, down: Tensor, up: Tensor, scale: float) -> None:
        """`down` is A, (rank, width); `up` is B, (rows, rank)."""
        super().__init__()
        self.base = base
        self.register_buffer("down", down, persistent=False)
        self.register_buffer("up", up * scale, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        base: Tensor = self.base(x)
        low = x.to(self.down.dtype) @ self.down.T
        return base + (low @ self.up.T).to(base.dtype)


def has_adapter(folder: Path) -> bool:
    """Whether a model folder keeps an adapter."""
    return (folder / ADAPTER / _CONFIG).is_file()


def attach_adapter(model: nn.Module, folder: Path, *, dtype: torch.dtype, device: str) -> int:
    """Wrap the layers that the folder's adapter is for; returns how many.

    Args:
        dtype: of activations; where the device is slow in bfloat16, the adapter's own small
            products are computed in float32.

    Raises:
        ModelError: the adapter is not for this model.
    """
    config = read_object(folder / ADAPTER / _CONFIG, error=ModelError)
    tensors = load_file(folder / ADAPTER / ADAPTER_WEIGHTS, device=device)
    try:
        scale, targets = config["lora_alpha"] / config["r"], list(config["target_modules"])
    except (KeyError, TypeError, ZeroDivisionError):
        raise ModelError(f"{folder / ADAPTER / _CONFIG}: is no adapter's config") from None
    compute = dense_dtype(device) if dtype == torch.bfloat16 else dtype
    for name in targets:
        try:
            base = model.get_submodule(name)
            down, up = (tensors[f"{_PREFIX}{name}.lora_{part}.weight"] for part in "AB")
        except (AttributeError, KeyError):
            raise ModelError(
                f"{folder}: its adapter has no full pair of matrices for a layer {name!r} of the "
                f"{type(model).__name__}"
            ) from None
        model.set_submodule(name, AdaptedLinear(base, down.to(compute), up.to(compute), scale))
    return len(targets)


def attach_with_peft(model: Any, folder: Path) -> None:
    """The same by peft itself, as a user of plain transformers would do it.

    Raises:
        MissingExtraError: peft is not installed.
    """
    try:
        from peft import PeftModel
    except ImportError:
        raise MissingExtraError("this artifact's adapter", "peft", "lora") from None
    PeftModel.from_pretrained(model, folder / ADAPTER)  # changes the model's layers in place
