"""Load any artifact of this project, or any other model folder, ready to use.

Packed weights stay packed (see `runtimes.torch.packed`); everything else is loaded by plain
transformers.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from paredown.artifact.checkpoint import TORCH_DTYPES, Checkpoint
from paredown.artifact.compressed_tensors import OWN, STANDARD
from paredown.artifact.sparse import is_sparse, mask_notes
from paredown.blocks.experts import rare_notes
from paredown.blocks.skeleton import (
    auto_class,
    empty_model,
    fill,
    read_config,
    require_filled,
)
from paredown.errors import MissingExtraError, ModelError
from paredown.runtimes.torch.adapters import attach_adapter, attach_with_peft, has_adapter
from paredown.runtimes.torch.attention import use_float32_attention
from paredown.runtimes.torch.eight_bit import eight_bit_notes
from paredown.runtimes.torch.generation import read_generation
from paredown.runtimes.torch.kernels import spare_refused_shapes
from paredown.runtimes.torch.norms import use_fused_norms
from paredown.runtimes.torch.packed import PackedLinear, dense_dtype
from paredown.runtimes.torch.placing import (
    PackedParts,
    place_embeddings,
    place_layers,
    place_unpacked,
)
from paredown.runtimes.torch.sparse import load_sparse
from paredown.spec.infer import is_buffer
from paredown.spec.packed import float_dtype
from paredown.spec.widths import FIELD


@dataclass(frozen=True)
class LoadInfo:
    """How a model was loaded; `load` leaves it on the model as `model.paredown`."""

    packed: dict[str, int]
    """Number of layers by what computes them: `int4`, `int8` (torch kernels) or `unpack`."""
    notes: tuple[str, ...]
    """What a user should know, e.g. that a format brings no speed-up here."""


def load(
    path: str | Path,
    *,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    trust_remote_code: bool = False,
) -> Any:
    """Load a model folder as a transformers model in evaluation mode.

    Args:
        path: an artifact of paredown or an ordinary model folder.
        device: `cpu` or `cuda`.
        dtype: of activations and unquantized weights; None keeps the stored one.
        trust_remote_code: allow code that comes with the model to run.

    Returns:
        A `PreTrainedModel` (`generate` works) with a `LoadInfo` as attribute `paredown`.

    Raises:
        ModelError: missing or damaged files, or a format that is not understood.
    """
    checkpoint = Checkpoint(Path(path))
    settings = read_generation(checkpoint.folder)
    model = _load(checkpoint, device, dtype, trust_remote_code)
    if settings is not None:
        model.generation_config = settings
    if has_adapter(checkpoint.folder):
        layers = attach_adapter(model, checkpoint.folder, dtype=model.dtype, device=device)
        note = f"a LoRA adapter beside the packed weights of {layers} layers; peft reads it too"
        model.paredown = replace(model.paredown, notes=(*model.paredown.notes, note))
    return model


def _load(
    checkpoint: Checkpoint, device: str, dtype: torch.dtype | None, trust_remote_code: bool
) -> Any:
    if is_sparse(checkpoint):
        sparse = load_sparse(checkpoint, device, dtype, trust_remote_code)
        sparse.paredown = LoadInfo({}, (*mask_notes(checkpoint), *rare_notes(checkpoint.config)))
        return sparse
    if checkpoint.spec.quantization in {STANDARD, OWN}:
        return _load_packed(checkpoint, device, dtype, trust_remote_code)
    if FIELD in checkpoint.config:
        return _load_unequal(checkpoint, device, dtype, trust_remote_code)
    model = _load_dense(checkpoint, device, dtype, trust_remote_code)
    spared = spare_refused_shapes(model, float_dtype(checkpoint.spec))
    if spared:
        note = (
            f"{spared} layers have shapes that bitsandbytes' kernel for this processor refuses; "
            "they compute without it here, and not at all in plain transformers"
        )
        model.paredown = replace(model.paredown, notes=(*model.paredown.notes, note))
    return model


def _load_unequal(
    checkpoint: Checkpoint, device: str, dtype: torch.dtype | None, trust_remote_code: bool
) -> Any:
    """A model whose MLPs differ in width, which plain transformers cannot build."""
    config = read_config(checkpoint.folder, trust_remote_code=trust_remote_code)
    dtype = dtype or stored_dtype(checkpoint)
    model: Any = empty_model(config, dtype, trust_remote_code=trust_remote_code)
    fill(model, checkpoint, checkpoint.names, dtype=dtype)
    model.tie_weights()
    require_filled(model, checkpoint.folder)
    model.to(device)
    model.paredown = LoadInfo({}, ("MLPs of unequal width: only paredown loads them",))
    return model


def load_dense(
    path: str | Path,
    *,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    trust_remote_code: bool = False,
) -> Any:
    """The same folder through plain transformers, and peft if it keeps an adapter."""
    checkpoint = Checkpoint(Path(path))
    if not has_adapter(checkpoint.folder):
        return _load_dense(checkpoint, device, dtype, trust_remote_code)
    options = {}
    if checkpoint.spec.quantization == STANDARD:  # peft looks for the weights, so unpack them now
        from transformers import CompressedTensorsConfig

        options["quantization_config"] = CompressedTensorsConfig(run_compressed=False)
    model = _load_dense(checkpoint, device, dtype, trust_remote_code, **options)
    attach_with_peft(model, checkpoint.folder)
    return model


def _load_dense(
    checkpoint: Checkpoint,
    device: str,
    dtype: torch.dtype | None,
    trust_remote_code: bool,
    **options: Any,
) -> Any:
    config = read_config(checkpoint.folder, trust_remote_code=trust_remote_code)
    method = checkpoint.spec.quantization
    try:
        model, found = auto_class(config).from_pretrained(
            checkpoint.folder,
            config=config,
            dtype=dtype or "auto",
            device_map=device if method == "bitsandbytes" else None,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            **options,
        )
    except ImportError as error:
        if method == "bitsandbytes":
            raise MissingExtraError("this artifact", "bitsandbytes", "int8") from error
        raise
    _require_all(found, checkpoint.folder)
    model = model.eval() if method == "bitsandbytes" else model.to(device).eval()
    notes: tuple[str, ...] = ()
    if method == "bitsandbytes" and device == "cpu":
        notes = ("bitsandbytes has no fast kernel on CPUs: smaller, but not faster",)
    notes = (*notes, *mask_notes(checkpoint), *rare_notes(checkpoint.config))
    model.paredown = LoadInfo({}, notes)
    return model


def _require_all(found: dict[str, Any], folder: Path) -> None:
    """Refuse a model of which transformers has made up weights: random ones, with a log line."""
    missing = sorted(found["missing_keys"])
    if missing:
        extra = sorted(found["unexpected_keys"])
        hint = f"; the file has {extra[0]!r}, which the model does not know" if extra else ""
        raise ModelError(
            f"{folder}: {len(missing)} weights are missing, the first is {missing[0]!r}{hint}"
        )


@torch.no_grad()
def _load_packed(
    checkpoint: Checkpoint, device: str, dtype: torch.dtype | None, trust_remote_code: bool
) -> Any:
    parts = PackedParts.of(checkpoint)
    config = read_config(checkpoint.folder, trust_remote_code=trust_remote_code)
    dtype = dtype or stored_dtype(checkpoint)
    model: Any = empty_model(config, dtype, trust_remote_code=trust_remote_code)
    place_embeddings(model, checkpoint, parts, dtype=dtype, device=device)
    kernels = place_layers(model, checkpoint, parts, dtype=dtype, device=device)
    place_unpacked(model, checkpoint, parts, dtype=dtype)
    left = fill(model, checkpoint, parts.dense(list(checkpoint.names)), dtype=dtype)
    # Packed ones were tied when they were put in.
    if not parts.embeddings:
        model.tie_weights()
    require_filled(model, checkpoint.folder)
    _keep_a_parameter(model, dtype)
    model.to(device)
    if device == "cpu" and dtype == torch.bfloat16 and dense_dtype(device) == torch.float32:
        use_float32_attention(model)
    use_fused_norms(model)
    bits = {scheme.bits for scheme in parts.schemes.values()}
    notes = (*rare_notes(checkpoint.config), *(_notes(kernels, bits, device) if bits else ()))
    unused = [name for name in left if not is_buffer(checkpoint.spec.by_name[name])]
    if unused:
        notes += (
            f"{len(unused)} tensors of the file are no part of the model and are not used, the "
            f"first is {unused[0]!r}",
        )
    eight_bit = eight_bit_notes(kernels, parts.eight_bit, device)
    model.paredown = LoadInfo(dict(kernels), (*notes, *eight_bit))
    return model


def _keep_a_parameter(model: nn.Module, dtype: torch.dtype) -> None:
    """Give a model whose weights are all packed a parameter of no size.

    OLMo's norms have no gain, so that nothing of it is left a parameter; transformers asks the
    first one where the model is, and `generate` with it.
    """
    if next(model.parameters(), None) is None:
        nothing = nn.Parameter(torch.empty(0, dtype=dtype), requires_grad=False)
        model.register_parameter("paredown_place", nothing)


def stored_dtype(checkpoint: Checkpoint) -> torch.dtype:
    """The floating-point dtype that most bytes of the checkpoint are stored in."""
    sizes: Counter[str] = Counter()
    for tensor in checkpoint.spec.tensors:
        # An FP8 number is a code here, nothing that activations could have.
        if TORCH_DTYPES[tensor.dtype].is_floating_point and not tensor.dtype.startswith("F8"):
            sizes[tensor.dtype] += tensor.nbytes
    return TORCH_DTYPES[sizes.most_common(1)[0][0]]


def _notes(kernels: Counter[str], bits: set[int], device: str) -> tuple[str, ...]:
    if not kernels["unpack"]:
        return ()
    widths = ", ".join(map(str, sorted(bits)))
    return (
        f"{kernels['unpack']} of {sum(kernels.values())} layers ({widths} bit) "
        f"have no packed kernel on {device} and are unpacked layer by layer: "
        "smaller in memory, but not faster",
    )


def is_packed(module: nn.Module) -> bool:
    """Whether the model has packed layers."""
    return any(isinstance(m, PackedLinear) for m in module.modules())
